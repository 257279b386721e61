"""What the parts of a stage share: their options, their device, a clock, and a file that is renewed as they measure."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.first_gpu.plan import NO_GPU
from benchmarks.results import write
from benchmarks.worker import versions


def parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """Options that every part has."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.first_gpu.{module}", description=about)
    made.add_argument("--output", type=Path, help="JSON file of the measurements")
    made.add_argument("--profile", choices=["full", "quick"], default="full", help="quick: tiny, on any device")
    made.add_argument("--seconds", type=float, default=600.0, help="begin no measurement later than that")
    return made


@dataclass
class Record:
    """Measurements so far, printed and written as they are made.

    Args:
        output: JSON file; None only prints.
        profile: ``full`` or ``quick``.
        until: Time (``time.monotonic``) after which no measurement begins.
    """

    output: Path | None
    profile: str
    until: float
    measurements: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, options: argparse.Namespace) -> Record:
        """The record of a part with these options; ends the process where it needs a GPU and there is none."""
        record = cls(options.output, options.profile, time.monotonic() + options.seconds)
        if options.profile == "full" and record.device.type != "cuda":
            print("needs a GPU, and torch finds none; --profile quick takes the CPU in its place", flush=True)
            sys.exit(NO_GPU)
        return record

    @property
    def quick(self) -> bool:
        """Whether the smallest sizes do."""
        return self.profile == "quick"

    @property
    def device(self) -> torch.device:
        """The first CUDA device, or the CPU where there is none."""
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def time_is_up(self) -> bool:
        """Whether no further measurement should begin; says so then."""
        up = time.monotonic() > self.until
        if up:
            print("the time is up", flush=True)
        return up

    def add(self, name: str, **values: Any) -> None:
        """Add a measurement."""
        self.measurements.append({"name": name, **values})
        print(f"{name}: {', '.join(f'{key} {_words(value)}' for key, value in values.items())}", flush=True)
        if self.output is not None:
            about = {"device": str(self.device), "profile": self.profile, "versions": versions()}
            write(self.output, {**about, "measurements": self.measurements})


def _words(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def milliseconds(work: Callable[[], object], device: torch.device, times: int = 20, repeats: int = 5) -> float:
    """Milliseconds of a call: the median over ``repeats`` of the mean over ``times`` calls, after three more.

    On a GPU, between events in the current stream.
    """
    for _ in range(3):
        work()
    clock = _by_events if device.type == "cuda" else _by_wall_clock
    return median(clock(work, times) for _ in range(repeats)) / times


def _by_wall_clock(work: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        work()
    return 1000 * (time.perf_counter() - began)


def _by_events(work: Callable[[], object], times: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
