"""Feature degeneration (FedLoGe, Fig. 1 and A.3): how features spread where their mean is small.

The paper's claim is about the relative variance v/m². Dividing by m² builds part of the effect in, so the plain
variance v stands beside it, and so does what the division alone would give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from fedloge.analysis.features import Features
from fedloge.evaluation.shots import SHOTS

SMALLEST = 1e-12
"""Lower bound of squared means."""

SHUFFLES = 20
"""Number of shuffles of a class's variances that estimate the effect of division by m² alone."""

Row = dict[str, Any]


def class_moments(features: Features, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean m and population variance v of every coordinate by class, float64 [C, d], in two passes.

    The row of a class without samples is nan.
    """
    counts = torch.bincount(features.labels, minlength=num_classes).unsqueeze(1)
    sums = torch.zeros(num_classes, features.values.shape[1], dtype=torch.float64)
    for values, labels in features.batches():
        sums.index_add_(0, labels, values)
    means, squares = sums / counts, torch.zeros_like(sums)
    for values, labels in features.batches():
        squares.index_add_(0, labels, (values - means[labels]).square())
    return means, squares / counts


def relative_variance(means: Tensor, variances: Tensor) -> Tensor:
    """v / m², with m² kept from zero."""
    return variances / means.square().clamp(min=SMALLEST)


def degeneration(means: Tensor, variances: Tensor, masked: Tensor | None = None) -> list[dict[str, float]]:
    """The scalars of every class.

    A coordinate that is constantly zero on a class (a dead ReLU) has no relative variance: the correlations leave it
    out, and ``dead`` counts it.

    Args:
        means: m [C, d].
        variances: v [C, d].
        masked: Boolean [C, d], where the frozen head has an exact zero; None without such zeros.

    Returns:
        For each class ``spearman_variance`` = Spearman(m, v), ``spearman_relative`` = Spearman(m, v/m²),
        ``spearman_shuffled``, the mean of the latter after v was shuffled over the coordinates, ``spread`` = Σv / Σm²,
        ``dead`` coordinates, and the means of m and v over the masked and the kept coordinates.
    """
    generator = torch.Generator().manual_seed(0)
    rows = []
    for c, (m, v) in enumerate(zip(means, variances, strict=True)):
        alive = (m != 0) | (v != 0)
        x, y = m[alive], v[alive]
        orders = [torch.randperm(len(y), generator=generator) for _ in range(SHUFFLES)]
        shuffled = [_spearman(x, relative_variance(x, y[order])) for order in orders]
        row = {
            "spearman_variance": _spearman(x, y),
            "spearman_relative": _spearman(x, relative_variance(x, y)),
            "spearman_shuffled": sum(shuffled) / len(shuffled),
            "spread": float(v.sum() / m.square().sum()),
            "dead": float((~alive).sum()),
        }
        if masked is not None:
            row |= _by_mask("mean", m, masked[c]) | _by_mask("variance", v, masked[c])
        rows.append(row)
    return rows


def averages(rows: Sequence[Mapping[str, float]], groups: Sequence[str]) -> dict[str, Any]:
    """Means of the scalars over all classes and, under ``groups``, over many, medium and few."""
    chosen = {group: [row for row, own in zip(rows, groups, strict=True) if own == group] for group in SHOTS}
    return {**_average(rows), "groups": {group: _average(part) for group, part in chosen.items() if part}}


def curve(c: int, means: Tensor, variances: Tensor, masked: Tensor | None = None) -> dict[str, list[Any]]:
    """The coordinates of a class in descending order of m, with m, v, v/m², and where the head is zero."""
    order = means[c].argsort(descending=True, stable=True)
    return {
        "coordinate": order.tolist(),
        "mean": means[c][order].tolist(),
        "variance": variances[c][order].tolist(),
        "relative": relative_variance(means[c], variances[c])[order].tolist(),
        "masked": [False] * len(order) if masked is None else masked[c][order].tolist(),
    }


def _by_mask(name: str, values: Tensor, masked: Tensor) -> dict[str, float]:
    return {f"{name}_masked": float(values[masked].mean()), f"{name}_kept": float(values[~masked].mean())}


def _spearman(x: Tensor, y: Tensor) -> float:
    if len(x) < 2 or x.isnan().any():
        return math.nan
    return float(spearman_corrcoef(x, y))


def _average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = rows[0] if rows else ()
    return {name: float(torch.tensor([row[name] for row in rows]).nanmean()) for name in names}
