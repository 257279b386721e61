"""Every metric of neural collapse in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fedloge.collapse.metrics import report
from fedloge.collapse.streaming import ClassMeanMetric, NearestMeanMetric, SpreadMetric, check_features
from fedloge.errors import ConfigError

Classifier = nn.Linear | tuple[Tensor, Tensor | None] | Tensor
"""A linear layer, or W [C, d] with or without b [C]."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Starts a pass over batches of features [n, d] and labels [n]; every call must give the same ones."""


def measure(
    features: Tensor,
    labels: Tensor,
    classifier: Classifier | None = None,
    *,
    num_classes: int | None = None,
    heldout: tuple[Tensor, Tensor] | None = None,
    min_count: int = 1,
    weighted: bool = False,
    cdnv_power: int = 1,
) -> dict[str, float]:
    """Neural collapse of features, and of a classifier on them.

    Args:
        features: Float [n, d].
        labels: int64 [n].
        classifier: W and b for NC3 and NC4.
        num_classes: Number of classes, empty ones included; None takes the classifier's, or the largest label.
        heldout: Other features and labels to measure NC4 on; None measures it on ``features``.
        min_count: Fewest samples of a class; those with fewer are left out and counted.
        weighted: Weigh classes by samples in the global mean.
        cdnv_power: p of CDNV, 1 or 2.

    Returns:
        The metrics by name: see :func:`fedloge.collapse.metrics.report`. A number that has no meaning, such as
        the angles of means that all coincide, is nan.

    Raises:
        ConfigError: For input that does not fit together, holds NaN, or leaves fewer than two classes.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.2], [-1.0, 0.0], [-1.0, 0.2]])
        >>> values = measure(features, torch.tensor([0, 0, 1, 1]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> values["nc4"], values["etf_error"] < 1e-12, round(values["cdnv"], 6)
        (1.0, True, 0.0025)
    """
    check_features(features, labels, num_classes)
    return measure_batches(
        lambda: [(features, labels)],
        classifier,
        num_classes=num_classes or _count_classes(labels, classifier),
        heldout=None if heldout is None else lambda: [heldout],
        min_count=min_count,
        weighted=weighted,
        cdnv_power=cdnv_power,
    )


def measure_batches(
    batches: Batches,
    classifier: Classifier | None = None,
    *,
    num_classes: int,
    heldout: Batches | None = None,
    min_count: int = 1,
    weighted: bool = False,
    cdnv_power: int = 1,
) -> dict[str, float]:
    """:func:`measure` for features that do not fit in memory at once; ``batches`` is called once for each pass.

    Raises:
        ConfigError: As :func:`measure`; also where the passes differ or there is no batch at all.
    """
    if cdnv_power not in (1, 2):
        raise ConfigError("cdnv_power", cdnv_power, "must be 1 or 2", "1 does not depend on the scale of the features.")
    means_metric: ClassMeanMetric | None = None
    for features, labels in batches():
        check_features(features, labels, num_classes)
        if means_metric is None:
            means_metric = ClassMeanMetric(num_classes, features.shape[1], min_count=min_count, weighted=weighted)
        means_metric.update(features, labels)
    if means_metric is None:
        raise ConfigError("batches", 0, "leave nothing to measure", "Give at least one batch.")
    means = means_metric.compute()
    spread = SpreadMetric(means)
    for features, labels in batches():
        spread.update(features, labels)
    if classifier is None:
        return report(means, spread.compute(), cdnv_power=cdnv_power)
    weight, bias = _parameters(classifier)
    nc4 = NearestMeanMetric(means, weight, bias)
    for features, labels in (heldout or batches)():
        nc4.update(features, labels)
    return report(means, spread.compute(), weight, nc4.compute(), cdnv_power)


def _parameters(classifier: Classifier) -> tuple[Tensor, Tensor | None]:
    if isinstance(classifier, nn.Linear):
        return classifier.weight, classifier.bias
    return (classifier, None) if isinstance(classifier, torch.Tensor) else classifier


def _count_classes(labels: Tensor, classifier: Classifier | None) -> int:
    if classifier is not None:
        return len(_parameters(classifier)[0])
    return int(labels.max()) + 1 if len(labels) else 0
