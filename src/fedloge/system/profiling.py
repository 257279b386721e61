"""Seconds of the parts of a round, for ``--trainer.profile=true``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from lightning.pytorch.profilers import SimpleProfiler

Item = TypeVar("Item")

PARTS = {
    "data": ("[_TrainingEpochLoop].train_dataloader_next", "[Strategy]{strategy}.batch_to_device"),
    "step": ("[Strategy]{strategy}.training_step",),
    "inside": ("data",),
    "optimizer": ("optimizer_step",),
}
"""Parts of a local fit and their names in Lightning's profiler."""


class Profile:
    """Seconds of a round by part.

    ``wall/…`` is the time of this process: waiting for ``clients``, ``aggregate`` (exchange included), ``checkpoint``,
    ``evaluate``. ``client/…`` is summed over the clients, wherever they ran: ``data``, ``forward_backward``,
    ``optimizer``, and ``overhead``, the rest of a local fit.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - began})

    def waiting(self, items: Iterator[Item], name: str) -> Iterator[Item]:
        """Yield the items, and time the waiting for them."""
        while True:
            with self.part(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds to parts."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def row(self) -> dict[str, float]:
        """Row of ``profile.csv`` for the round."""
        inside = self.seconds.get("wall/clients", 0.0)
        return {**self.seconds, "wall/aggregate": self.seconds.get("wall/aggregate", 0.0) - inside}


def fit_seconds(profiler: SimpleProfiler, strategy: str, total: float) -> dict[str, float]:
    """Seconds of a local fit by part.

    Args:
        profiler: Profiler of the fit, which has ended.
        strategy: Name of the strategy class of the fit.
        total: Seconds of the whole fit.
    """
    recorded = profiler.recorded_durations
    found = {part: sum(sum(recorded[n.format(strategy=strategy)]) for n in names) for part, names in PARTS.items()}
    return {
        "data": found["data"] + found["inside"],  # inside the training step if that has a whole epoch
        "forward_backward": found["step"] - found["inside"] - found["optimizer"],  # which is always inside
        "optimizer": found["optimizer"],
        "overhead": total - found["data"] - found["step"],
    }
