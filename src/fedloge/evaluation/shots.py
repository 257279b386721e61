"""Grouping of classes into many-, medium- and few-shot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

ShotRule = Literal["mass", "count"]
SHOTS = ("many", "medium", "few")


def shots(class_counts: Sequence[int], rule: ShotRule = "mass") -> list[str]:
    """The group of every class.

    ``mass`` (the paper's): classes sorted by training count; many up to and including the class that crosses 75 % of
    the samples, medium up to and including the one that crosses 95 %, few the rest. ``count`` (ImageNet-LT's): more
    than 100 samples, 20 to 100, fewer than 20.

    Args:
        class_counts: N_c, length C.
        rule: ``mass`` or ``count``.

    Returns:
        ``many``, ``medium`` or ``few`` for each class.
    """
    if rule == "count":
        return ["many" if n > 100 else "medium" if n >= 20 else "few" for n in class_counts]
    groups = [""] * len(class_counts)
    total, before = sum(class_counts), 0
    for c in sorted(range(len(class_counts)), key=lambda c: -class_counts[c]):
        groups[c] = "many" if before < 0.75 * total else "medium" if before < 0.95 * total else "few"
        before += class_counts[c]
    return groups
