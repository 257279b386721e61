"""Percentile intervals by the bootstrap: test images, or whole groups of them, are drawn with replacement."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

SEED, SAMPLES, CHUNK = 0, 1000, 50
"""Seed and number of the samples; samples that are computed at a time."""

Interval = tuple[float, float]


def resampled(predictions: Tensor, labels: Tensor, num_classes: int, groups: Tensor | None = None) -> dict[str, Tensor]:
    """Accuracy, balanced accuracy and macro F1 on samples of the test images; the same for the same arguments.

    Args:
        predictions: Predicted classes, int64 [n].
        labels: True classes, int64 [n].
        num_classes: C.
        groups: Group of each image, int64 [n]; a sample has whole groups. None draws images.

    Returns:
        ``acc``, ``balanced_acc`` and ``macro_f1``, float64 [1000]; the last two over the classes of the sample.
    """
    parts = [_scores(weights, predictions, labels, num_classes) for weights in _weights(labels, groups)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def interval(samples: Tensor) -> Interval:
    """The central 95 % of samples that are not nan."""
    low, high = samples[~samples.isnan()].quantile(torch.tensor([0.025, 0.975], dtype=samples.dtype)).tolist()
    return low, high


def _weights(labels: Tensor, groups: Tensor | None) -> Iterator[Tensor]:
    """How often each image occurs in each sample, float64 [CHUNK, n]."""
    rng = np.random.default_rng(SEED)
    units = (
        torch.arange(len(labels))
        if groups is None
        else torch.from_numpy(np.unique(groups.numpy(), return_inverse=True)[1])
    )
    count = int(units.max()) + 1
    for _ in range(SAMPLES // CHUNK):
        yield torch.from_numpy(rng.multinomial(count, np.full(count, 1 / count), CHUNK))[:, units].double()


def _scores(weights: Tensor, predictions: Tensor, labels: Tensor, num_classes: int) -> dict[str, Tensor]:
    empty = weights.new_zeros(len(weights), num_classes)
    support, claimed = empty.index_add(1, labels, weights), empty.index_add(1, predictions, weights)
    hits = empty.index_add(1, labels, weights * (predictions == labels))
    f1 = torch.where(support > 0, 2 * hits / (support + claimed), torch.nan)
    return {
        "acc": hits.sum(1) / support.sum(1),
        "balanced_acc": (hits / support).nanmean(1),
        "macro_f1": f1.nanmean(1),
    }
