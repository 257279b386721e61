"""Median of paired ratios with a bootstrap interval."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, and the bounds of its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


def paired_ratio(others: Sequence[float], ours: Sequence[float], resamples: int = 10_000) -> Ratio:
    """Median of other/ours over pairs measured side by side; percentile bootstrap over the pairs, from a fixed seed.

    Raises:
        ValueError: If there are no pairs, or not as many of one as of the other.
    """
    if not ours or len(ours) != len(others):
        raise ValueError(f"{len(others)} and {len(ours)} measurements make no pairs")
    ratios = [other / own for other, own in zip(others, ours, strict=True)]
    draw = random.Random(0)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(resamples))
    return Ratio(median(ratios), medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1])
