"""Pruning curves of a run's heads (FedLoGe, Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fedloge.analysis.features import Features, Head
from fedloge.collapse.pruning import pruned_hits
from fedloge.evaluation.shots import SHOTS

RATIOS = tuple(step / 20 for step in range(21))

ORDERS = {"ascending": False, "descending": True}
"""Smallest class means first (negligible features), or largest first (dominant features)."""

Curves = dict[str, dict[str, dict[str, list[float]]]]


def pruning_curves(
    features: Features, heads: Mapping[str, Head], groups: Sequence[str], *, absolute: bool = False
) -> Curves:
    """Accuracy at every ratio of :data:`RATIOS`, by head, by order, and for ``all`` classes and every group of them.

    Every class has the same weight, whether or not the test set is balanced.

    Args:
        features: Features of the test set, with at least one of every class.
        heads: Heads by name.
        groups: many, medium or few for every class.
        absolute: Rank by |μ_c|, for features that may be negative.

    Raises:
        ConfigError: If a class has no features.
    """
    values, labels = features.values, features.labels
    counts = torch.bincount(labels, minlength=len(groups))
    members = {"all": torch.ones(len(groups), dtype=torch.bool)}
    members |= {group: torch.tensor([own == group for own in groups]) for group in SHOTS if group in groups}
    curves: Curves = {}
    for name, head in heads.items():
        curves[name] = {}
        for order, dominant in ORDERS.items():
            hits = pruned_hits(
                values, labels, head.weight, head.bias, RATIOS, dominant_first=dominant, absolute=absolute
            )
            curves[name][order] = {group: (hits / counts)[:, own].mean(1).tolist() for group, own in members.items()}
    return curves
