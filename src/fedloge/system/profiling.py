"""Where the time of a round went, for ``--trainer.profile=true``."""

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
    "optimizer": ("optimizer_step",),
}
"""Parts of a local fit, and what Lightning's profiler calls them; the optimiser's step is inside the training step."""


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
        """Time what happens inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - began})

    def waiting(self, items: Iterator[Item], name: str) -> Iterator[Item]:
        """The items, and the time that they took to come."""
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
        """The round's row of ``profile.csv``."""
        inside = self.seconds.get("wall/clients", 0.0)
        return {**self.seconds, "wall/aggregate": self.seconds.get("wall/aggregate", 0.0) - inside}


def fit_seconds(profiler: SimpleProfiler, strategy: str, total: float) -> dict[str, float]:
    """Seconds of a local fit by part.

    Args:
        profiler: Lightning's, after the fit.
        strategy: Name of the fit's strategy class.
        total: Of the whole fit.
    """
    recorded = profiler.recorded_durations
    found = {part: sum(sum(recorded[n.format(strategy=strategy)]) for n in names) for part, names in PARTS.items()}
    return {
        "data": found["data"],
        "forward_backward": found["step"] - found["optimizer"],
        "optimizer": found["optimizer"],
        "overhead": total - found["data"] - found["step"],
    }
