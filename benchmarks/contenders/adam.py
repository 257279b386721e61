"""SSE-C by the recipe of the paper: 10,000 steps of Adam."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.clock import Clock
from benchmarks.contenders.fedloge import solve
from benchmarks.problem import Arrays, Problem


def run(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """Solve it from the same start and with the same mask as fedloge's own solver."""
    return solve(problem, "adam", repetitions, clock)
