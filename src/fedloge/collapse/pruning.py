"""Accuracy as every class gives up the coordinates in which its features are weakest, or strongest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedloge.collapse.streaming import ClassMeanMetric, kept_classifier
from fedloge.errors import ConfigError


def pruning_curve(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    ratios: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    dominant_first: bool = False,
    absolute: bool = False,
) -> list[float]:
    """Accuracy at every ratio; the bias stays, so that ratio 1 is the accuracy of the bias alone.

    In row c of W those entries become zero where the mean μ_c of class c ranks lowest (or highest). By rank, so that
    ties never change how many: a threshold would prune nothing where zeros are tied. The curve need not be monotone.

    Args:
        features: Float [n, d]; every class needs one.
        labels: int64 [n].
        weight: W [C, d].
        bias: b [C].
        ratios: Shares of the d coordinates, in [0, 1].
        dominant_first: Begin with the largest coordinates of μ_c instead of the smallest.
        absolute: Rank by |μ_c|, for features that may be negative.

    Raises:
        ConfigError: For input that does not fit together, a class without features, or a ratio outside [0, 1].
    """
    hits = pruned_hits(features, labels, weight, bias, ratios, dominant_first=dominant_first, absolute=absolute)
    return (hits.sum(1) / len(labels)).tolist()


def pruned_hits(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    ratios: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    dominant_first: bool = False,
    absolute: bool = False,
) -> Tensor:
    """What :func:`pruning_curve` counts: right predictions at every ratio for every class, float64 [ratios, C].

    Raises:
        ConfigError: As :func:`pruning_curve`.
    """
    if any(not 0 <= ratio <= 1 for ratio in ratios):
        raise ConfigError("ratios", list(ratios), "must lie in [0, 1]", "1 prunes everything.")
    metric = ClassMeanMetric(len(weight), features.shape[1])
    metric.update(features, labels)
    means = metric.compute()
    if means.num_classes < len(weight):
        problem = f"leave {len(weight) - means.num_classes} class(es) empty"
        raise ConfigError("labels", f"{len(labels)} samples", problem, "Every class needs a mean to rank by.")
    weight, bias = kept_classifier(means, weight, bias)
    ranked = means.means.abs() if absolute else means.means
    order = ranked.argsort(dim=1, descending=dominant_first, stable=True)
    features = features.double()
    rows = []
    for ratio in ratios:
        pruned = weight.scatter(1, order[:, : round(ratio * weight.shape[1])], 0.0)
        right = (features @ pruned.T + bias).argmax(1) == labels
        rows.append(torch.bincount(labels[right], minlength=len(weight)))
    return torch.stack(rows).double()
