"""Two passes over the features: class means first, then what spreads around them. States are sums, so clients merge.

Everything is accumulated in float64 and in two passes; the one-pass E‖h‖² - ‖μ‖² cancels to nothing once classes have
collapsed. Both passes must see the same features: eval mode, no augmentation.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fedloge.checks import check_least
from fedloge.errors import ConfigError

SINGULAR_CUT = 1e-6
"""Singular values of the centred class means below this share of the largest count as zero."""

CHUNK = 2**24
"""Entries of the largest scratch matrix, 128 MiB in float64."""


class ClassMeans:
    """Results of the first pass, frozen for the second one: class means and the directions between them.

    Classes with fewer than ``min_count`` samples, empty ones at least, are left out of everything. A class with a
    single sample has no spread and flatters NC1 and CDNV: raise ``min_count`` where there are many of them.

    Args:
        counts: int64 [all classes], samples per class.
        sums: float64 [all classes, d], sum of the features of each class.
        min_count: Fewest samples that a class needs.
        weighted: Whether the global mean weighs the classes by their samples; by default all weigh the same. The two
            variants of the metrics are not comparable.

    Attributes:
        kept: int64 [C], which classes stay.
        sizes: int64 [C], n_c of these.
        means: float64 [C, d], μ_c.
        global_mean: float64 [d], μ_G.
        centred: float64 [C, d], A with rows μ_c - μ_G.

    Raises:
        ConfigError: If fewer than two classes stay.
    """

    def __init__(self, counts: Tensor, sums: Tensor, min_count: int = 1, weighted: bool = False) -> None:
        check_least("min_count", min_count, 1)
        self.counts, self.min_count, self.weighted = counts, min_count, weighted
        self.kept = (counts >= min_count).nonzero().flatten()
        if len(self.kept) < 2:
            problem = f"leave {len(self.kept)} class(es) with at least {min_count} sample(s), and collapse needs 2"
            raise ConfigError("labels", f"{int(counts.sum())} samples", problem, "Take more classes or more samples.")
        self.sizes = counts[self.kept]
        self.means = sums[self.kept] / self.sizes.unsqueeze(1)
        weights = self.sizes.double() if weighted else torch.ones_like(self.sizes, dtype=torch.float64)
        self.global_mean = weights @ self.means / weights.sum()
        self.centred = self.means - self.global_mean

    @property
    def num_classes(self) -> int:
        """C, the classes that are kept."""
        return len(self.kept)

    @property
    def dim(self) -> int:
        """d."""
        return self.means.shape[1]

    @cached_property
    def positions(self) -> Tensor:
        """int64 [all classes]: where a class stands among the kept ones, -1 where it was left out."""
        positions = torch.full_like(self.counts, -1)
        positions[self.kept] = torch.arange(self.num_classes, device=self.kept.device)
        return positions

    @cached_property
    def directions(self) -> tuple[Tensor, Tensor]:
        """Singular values s float64 [r] and right singular vectors V [r, d] of A/√C, so that Σ_B = Vᵀ diag(s²) V.

        Taken from A itself: the pseudo-inverse of an accumulated Σ_B lets rounding noise pass for a direction.
        """
        _, s, vt = torch.linalg.svd(self.centred / self.num_classes**0.5, full_matrices=False)
        rank = int((s > SINGULAR_CUT * s[0]).sum())
        rank = rank if self.weighted else min(rank, self.num_classes - 1)
        return s[:rank], vt[:rank]


class FeatureMetric(Metric):
    """A metric that is updated with features [n, d] and labels [n]."""

    full_state_update = False

    def check(self, features: Tensor, labels: Tensor, num_classes: int, dim: int) -> tuple[Tensor, Tensor]:
        """Features in float64 and labels, both where the metric lives.

        Raises:
            ConfigError: If they do not fit together or hold a value that is not finite.
        """
        check_features(features, labels, num_classes)
        if features.shape[1] != dim:
            raise ConfigError("features", tuple(features.shape), f"should have {dim} columns", "Take one layer's.")
        return features.detach().to(self.device, torch.float64), labels.to(self.device)


class ClassMeanMetric(FeatureMetric):
    """First pass: counts and sums of the features of each class.

    Args:
        num_classes: Number of classes, empty ones included.
        dim: d.
        min_count: See :class:`ClassMeans`.
        weighted: See :class:`ClassMeans`.
        **kwargs: See :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: For fewer than two classes or no dimension.
    """

    counts: Tensor
    sums: Tensor

    def __init__(
        self, num_classes: int, dim: int, *, min_count: int = 1, weighted: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_least("num_classes", num_classes, 2)
        check_least("dim", dim, 1)
        self.num_classes, self.dim, self.min_count, self.weighted = num_classes, dim, min_count, weighted
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(num_classes, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features [n, d] with labels int64 [n]."""
        features, labels = self.check(features, labels, self.num_classes, self.dim)
        self.counts += torch.bincount(labels, minlength=self.num_classes)
        self.sums.index_add_(0, labels, features)

    def compute(self) -> ClassMeans:
        """The class means of everything that was added or merged."""
        return ClassMeans(self.counts.clone(), self.sums.clone(), self.min_count, self.weighted)


class SpreadMetric(FeatureMetric):
    """Second pass: residuals r_i = h_i - μ_{y_i}, their squares by class and along the directions between classes.

    Args:
        means: What the first pass found over all clients.
        **kwargs: See :class:`torchmetrics.Metric`.
    """

    counts: Tensor
    squares: Tensor
    projections: Tensor

    def __init__(self, means: ClassMeans, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.means = means
        rank = len(means.directions[0])
        self.add_state("counts", torch.zeros(means.num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(means.num_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("projections", torch.zeros(rank, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features [n, d] with labels int64 [n]; those of left-out classes are passed over."""
        means = self.means
        features, labels = self.check(features, labels, len(means.counts), means.dim)
        features, positions = _of_kept(means, features, labels)
        residuals = features - means.means.to(self.device)[positions]
        self.counts += torch.bincount(positions, minlength=means.num_classes)
        self.squares.index_add_(0, positions, residuals.square().sum(1))
        self.projections += (residuals @ means.directions[1].to(self.device).T).square().sum(0)

    def compute(self) -> dict[str, Tensor]:
        """``variances`` σ_c² float64 [C], the mean of ‖r‖² in a class, and ``nc1`` = tr(Σ_W Σ_B⁺)/C.

        Raises:
            ConfigError: If the two passes did not see the same number of samples of every class.
        """
        means = self.means
        if not torch.equal(self.counts.cpu(), means.sizes.cpu()):
            seen = f"{int(self.counts.sum())} samples"
            problem = f"are not the {int(means.sizes.sum())} of the first pass, class by class"
            raise ConfigError("labels", seen, problem, "Both passes must go over the same data.")
        variances = self.squares / self.counts
        scale = means.directions[0].to(self.device)
        along = self.projections / self.counts.sum()
        nc1 = (along / scale.square()).sum() / means.num_classes
        return {"variances": variances, "nc1": nc1 if len(scale) else torch.full_like(nc1, torch.nan)}


class NearestMeanMetric(FeatureMetric):
    """NC4: the share of samples that the linear classifier and the nearest class mean put in the same class.

    Both choose among the kept classes; samples of other classes are passed over. It needs no second pass, and for
    language models it is meant for held-out data.

    Args:
        means: What the first pass found.
        weight: W [all classes, d].
        bias: b [all classes], or None.
        **kwargs: See :class:`torchmetrics.Metric`.

    Raises:
        ConfigError: If the classifier does not fit the means.
    """

    hits: Tensor
    total: Tensor

    def __init__(self, means: ClassMeans, weight: Tensor, bias: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.means = means
        self.weight, self.bias = kept_classifier(means, weight, bias)
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features [n, d] with labels int64 [n]."""
        means = self.means
        features, labels = self.check(features, labels, len(means.counts), means.dim)
        features, _ = _of_kept(means, features, labels)
        weight, bias = self.weight.to(self.device), self.bias.to(self.device)
        centred, centre = means.centred.to(self.device), means.global_mean.to(self.device)
        offset = centred.square().sum(1) / 2
        for part in torch.split(features, max(1, CHUNK // means.num_classes)):
            chosen = (part @ weight.T + bias).argmax(1)
            nearest = ((part - centre) @ centred.T - offset).argmax(1)
            self.hits += (chosen == nearest).sum()
        self.total += len(features)

    def compute(self) -> Tensor:
        """The share, float64; nan without samples."""
        return self.hits.double() / self.total


def check_features(features: Tensor, labels: Tensor, num_classes: int | None = None) -> None:
    """Refuse features and labels that do not fit together.

    Raises:
        ConfigError: For features that are not a finite matrix with at least one column, or labels that are not one
            class number, below ``num_classes``, per row.
    """
    if features.ndim != 2 or features.shape[1] < 1 or not features.is_floating_point():
        shape = f"{tuple(features.shape)}, {str(features.dtype).removeprefix('torch.')}"
        raise ConfigError("features", shape, "should be a float matrix [n, d] with d of at least 1", "Flatten them.")
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        shape = f"{tuple(labels.shape)}, {str(labels.dtype).removeprefix('torch.')}"
        raise ConfigError("labels", shape, "should be a vector of class numbers", "Give one whole number per feature.")
    if len(features) != len(labels):
        problem = f"of them do not fit {len(features)} features"
        raise ConfigError("labels", len(labels), problem, "Give one label per row of the features.")
    finite = features.isfinite().all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ConfigError("features", f"row {row}", "holds NaN or infinity", "Look for where training diverged.")
    wrong = (labels < 0) | (labels >= num_classes) if num_classes is not None else labels < 0
    if bool(wrong.any()):
        problem = "is negative" if num_classes is None else f"lies outside of 0 to {num_classes - 1}"
        raise ConfigError("labels", int(labels[wrong][0]), problem, "Leave out samples without a class.")


def kept_classifier(means: ClassMeans, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows of W and entries of b of the kept classes, float64 [C, d] and [C].

    Raises:
        ConfigError: If the shapes are not [all classes, d] and [all classes], or a value is not finite.
    """
    expected = (len(means.counts), means.dim)
    if tuple(weight.shape) != expected:
        raise ConfigError("weight", tuple(weight.shape), f"should be {expected}", "Rows are classes, columns features.")
    if bias is not None and tuple(bias.shape) != expected[:1]:
        raise ConfigError("bias", tuple(bias.shape), f"should be {expected[:1]}", "Give one per class.")
    if not bool(weight.isfinite().all()) or (bias is not None and not bool(bias.isfinite().all())):
        raise ConfigError("weight", tuple(weight.shape), "holds NaN or infinity", "Look for where training diverged.")
    full = torch.zeros(expected[0]) if bias is None else bias
    kept = means.kept
    return tuple(tensor.detach().to(kept.device, torch.float64)[kept] for tensor in (weight, full))  # type: ignore[return-value]


def _of_kept(means: ClassMeans, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The features of kept classes, and where their classes stand."""
    positions = means.positions.to(labels.device)[labels]
    kept = positions >= 0
    return features[kept], positions[kept]
