"""Accuracies and F1 scores from confusion matrices. Classes without test images are left out, not counted as 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def confusion(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix int64 [C, C], true class by predicted class, in one bincount."""
    cells = torch.bincount(labels * num_classes + predictions, minlength=num_classes * num_classes)
    return cells.view(num_classes, num_classes)


def accuracy(matrix: Tensor) -> float:
    """Fraction of correct predictions; nan without any prediction."""
    return _ratio(matrix.diagonal().sum(), matrix.sum())


def per_class_accuracy(matrix: Tensor) -> Tensor:
    """Recall of every class, float64 [C]; nan where a class has no test image."""
    return matrix.diagonal().double() / matrix.sum(1)


def balanced_accuracy(matrix: Tensor) -> float:
    """Mean recall of the classes that have test images; nan without any image."""
    return float(per_class_accuracy(matrix).nanmean())


def group_accuracy(matrix: Tensor, classes: Tensor) -> float:
    """Fraction of correct predictions on the images of some classes (a boolean mask [C]); nan without any image."""
    return _ratio(matrix.diagonal()[classes].sum(), matrix[classes].sum())


def group_accuracies(matrix: Tensor, groups: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """:func:`group_accuracy` by group.

    Args:
        matrix: Confusion matrix [C, C].
        groups: Group of every class, length C.
        names: Groups to return.
    """
    return {name: group_accuracy(matrix, torch.tensor([group == name for group in groups])) for name in names}


def f1(matrix: Tensor, average: str) -> float:
    """F1 over the classes that have test images: their mean (``macro``) or mean by support (``weighted``)."""
    support = matrix.sum(1).double()
    present = support > 0
    scores = 2 * matrix.diagonal() / (support + matrix.sum(0)).clamp(min=1)
    weights = support if average == "weighted" else present.double()
    return _ratio((scores * weights)[present].sum(), weights.sum())


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part) / float(whole) if whole > 0 else float("nan")
