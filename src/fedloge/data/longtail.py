"""Long-tailed profiles: the number of images of each class, and their selection."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedloge.checks import check_choice, check_positive
from fedloge.errors import ConfigError

Profile = Literal["exponential", "step"]
Ints = NDArray[np.int64]


def max_over_min(value: float) -> float:
    """Imbalance factor as max/min; values below 1 are read as min/max.

    Raises:
        ConfigError: If ``value`` is not a positive number.
    """
    check_positive("data.imbalance_factor", value, "100 (max/min) and 0.01 mean the same.")
    # Rounding corrects quotients such as 1/0.02 = 50.000000000000004.
    return value if value >= 1 else round(1 / value, 9)


def profile_counts(n_max: int, num_classes: int, factor: float, profile: Profile = "exponential") -> Ints:
    """Images per class: n_c = ⌊n_max · IF^(-c/(C-1))⌋ (Cao et al., 2019), or n_max and n_max/IF for two halves.

    Args:
        n_max: Images of class 0, the largest.
        num_classes: C.
        factor: IF as max/min.
        profile: ``exponential`` or ``step``.

    Raises:
        ConfigError: If a class would have no images, or an argument is out of range.
    """
    check_choice("data.profile", profile, get_args(Profile))
    factor = max_over_min(factor)
    positions = np.arange(num_classes) / max(num_classes - 1, 1)
    exponents = positions if profile == "exponential" else (positions > 0.5).astype(float)
    counts = np.floor(n_max * (1 / factor) ** exponents * (1 + 1e-12)).astype(np.int64)
    if counts[-1] < 1:
        raise ConfigError(
            "data.imbalance_factor",
            factor,
            f"leaves class {int(np.argmin(counts >= 1))} without images; the largest class has {n_max}",
            f"Choose at most {n_max}.",
        )
    return counts


def observed_factor(labels: Ints) -> float:
    """Imbalance factor of labels, max/min over the classes that occur."""
    return factor_of_counts(np.bincount(labels))


def factor_of_counts(counts: Ints) -> float:
    """Imbalance factor of class counts, max/min over the classes that occur."""
    return float(counts.max() / counts[counts > 0].min())


def long_tail(labels: Ints, num_classes: int, factor: float | None, profile: Profile, seed: int) -> Ints:
    """Indices of the images that form a long-tailed dataset, class by class; all images in order if IF is None.

    n_max is the size of the largest class; a class with fewer images than its profile count keeps them all. Within a
    class the first images after a shuffle are selected.

    Args:
        labels: Class of each image, int64 [n].
        num_classes: C.
        factor: IF as max/min; None keeps all images.
        profile: ``exponential`` or ``step``.
        seed: Seed of the shuffle; the published splits use 0.
    """
    if factor is None:
        return np.arange(len(labels))
    rng = np.random.RandomState(seed)
    members = [np.flatnonzero(labels == c) for c in range(num_classes)]
    counts = profile_counts(max(len(own) for own in members), num_classes, factor, profile)
    for own in members:
        rng.shuffle(own)
    return np.concatenate([own[:count] for own, count in zip(members, counts, strict=True)]).astype(np.int64)
