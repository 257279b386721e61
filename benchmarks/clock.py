"""Wall time and CPU seconds between the repetitions of a contender's work."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch


class Clock:
    """Ticks after every repetition; the first is the warm-up.

    Args:
        device: Device to synchronise with before each reading, if it is a CUDA device.
        on_tick: Function that is called after every tick, outside of what is measured.
    """

    def __init__(self, device: torch.device | None = None, on_tick: Callable[[Clock], None] | None = None) -> None:
        self._cuda = device is not None and device.type == "cuda"
        self._on_tick = on_tick
        self.details: dict[str, float] = {}
        """Further values of the repetitions so far, which a contender may set before a tick."""
        self._paused = (0.0, 0.0)
        self.seen_cpu_s = 0.0
        """CPU seconds of all processes, pauses and all, at the last tick."""
        self.ticks = [self._now()]

    def tick(self) -> None:
        """A repetition is done."""
        self.ticks.append(self._now())
        if self._on_tick is not None:
            with self.paused():
                self._on_tick(self)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What this process does inside is not measured."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._paused = (
                self._paused[0] + time.perf_counter() - wall,
                self._paused[1] + time.process_time() - cpu,
            )

    @property
    def repetitions(self) -> list[float]:
        """Wall seconds of every repetition."""
        return [later[0] - earlier[0] for earlier, later in pairwise(self.ticks)]

    def per_repetition(self, without_last: bool = False) -> tuple[float, float]:
        """Mean wall and CPU seconds of the repetitions that :meth:`timed` counts, or of a single one."""
        first = min(1, len(self.ticks) - 2)
        last = first + max(self.timed(without_last), 1)
        wall, cpu = (self.ticks[last][i] - self.ticks[first][i] for i in (0, 1))
        return wall / (last - first), cpu / (last - first)

    def timed(self, without_last: bool = False) -> int:
        """Number of repetitions after the first, and before the last one if that is left out and not the only one."""
        after_first = len(self.ticks) - 2
        return after_first - 1 if without_last and after_first > 1 else after_first

    def _now(self) -> tuple[float, float]:
        if self._cuda:
            torch.cuda.synchronize()
        wall, cpu = self._paused
        with self.paused():  # looking through all processes takes some milliseconds
            self.seen_cpu_s = cpu_seconds()
            return time.perf_counter() - wall, self.seen_cpu_s - cpu


def cpu_seconds() -> float:
    """CPU time of this process, or of all ranks that torchrun started, and of all their descendants, dead or alive.

    Without /proc, of this process and of its children that have ended.
    """
    own = os.times()
    ended = own.children_user + own.children_system
    return time.process_time() + ended + below(os.getppid() if "RANK" in os.environ else os.getpid())


def below(root: int) -> float:
    """CPU seconds of all processes below ``root``, with those of their ended children, but for this process."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        pid = int(stat.parent.name)
        parents[pid], seconds[pid] = int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return sum(seconds[pid] for pid in parents if pid != os.getpid() and _descends(pid, root, parents))


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid != root and pid in parents:
        pid = parents[pid]
    return pid == root
