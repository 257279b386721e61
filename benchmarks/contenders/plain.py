"""A plain PyTorch loop over images in memory: the local steps of the reference, timed."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.clock import Clock
from benchmarks.contenders.reference import entries, trained
from benchmarks.problem import Arrays, Problem


def run(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """Do the local steps of all clients."""
    for _ in range(repetitions):
        networks = list(trained(problem))
        clock.tick()
    return entries(networks)
