"""Wall time and CPU seconds between the repetitions of a contender's work."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch


class Clock:
    """Ticks after every repetition; the first is the warm-up.

    Args:
        device: A CUDA device is waited for before time is taken.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._cuda = device is not None and device.type == "cuda"
        self._paused = (0.0, 0.0)
        self.ticks = [self._now()]

    def tick(self) -> None:
        """A repetition is done."""
        self.ticks.append(self._now())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What this process does inside is not measured."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._paused = (
            self._paused[0] + time.perf_counter() - wall,
            self._paused[1] + time.process_time() - cpu,
        )

    def per_repetition(self) -> tuple[float, float]:
        """Mean wall and CPU seconds of the repetitions after the first, or of the first if it is the only one."""
        timed = self.ticks[1:] if len(self.ticks) > 2 else self.ticks
        wall, cpu = (timed[-1][i] - timed[0][i] for i in (0, 1))
        return wall / (len(timed) - 1), cpu / (len(timed) - 1)

    def _now(self) -> tuple[float, float]:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - self._paused[0], cpu_seconds() - self._paused[1]


def cpu_seconds() -> float:
    """CPU time of this process, or of all ranks that torchrun started, and of all their descendants, dead or alive.

    Without /proc, of this process and of its children that have ended.
    """
    if Path("/proc/self/stat").exists():
        return sum(_seconds_below(os.getppid() if "RANK" in os.environ else os.getpid()))
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def _seconds_below(root: int) -> list[float]:
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # it ended meanwhile
            continue
        fields = text.rpartition(")")[2].split()
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        seconds[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return [seconds[pid] for pid in parents if _descends(pid, root, parents)]


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid != root and pid in parents:
        pid = parents[pid]
    return pid == root
