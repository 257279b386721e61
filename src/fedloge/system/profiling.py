"""Time of a round by part, for ``--trainer.profile=true``."""

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
        self._open: list[float] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block; its clock stands still while a part inside it is timed."""
        self._charge()
        self._open.append(0.0)
        try:
            yield
        finally:
            self._charge()
            self.add({name: self._open.pop()})

    def _charge(self) -> None:
        """Charge the time since the last call to the innermost open part."""
        now = time.perf_counter()
        if self._open:
            self._open[-1] += now - self._since
        self._since = now

    def waiting(self, items: Iterator[Item], name: str) -> Iterator[Item]:
        """Yield the items and time how long each takes to arrive."""
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
