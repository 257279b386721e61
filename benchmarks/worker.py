"""A contender in a process of its own: does the work, and writes what it took and what came out.

``python -m benchmarks.worker PROBLEM CONTENDER@CORES OUT --repetitions=N``; leaves ``OUT.json``, which it renews after
every repetition, and ``OUT.npz``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clock import Clock, below, cpu_seconds
from benchmarks.contenders import CONTENDERS, UnavailableError, parse
from benchmarks.problem import Arrays, Problem
from benchmarks.results import write
from fedloge.system.imports import installed_version

UNAVAILABLE = 3
PACKAGES = ("fedloge", "torch", "torchvision", "lightning", "numpy", "pillow", "pfl", "flwr", "ray")


def main(arguments: list[str]) -> int:
    """Run a contender; 3 says that it is not available here, with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("problem", type=Path)
    parser.add_argument("contender")
    parser.add_argument("out", type=Path)
    parser.add_argument("--repetitions", type=int, required=True)
    options = parser.parse_args(arguments)
    name, cores = parse(options.contender)
    contender = CONTENDERS[name]
    torch.set_num_threads(contender.threads(cores))
    keep_to(cores)
    problem = Problem(options.problem)
    try:
        module: Any = importlib.import_module(f"benchmarks.contenders.{contender.module}")
    except ImportError as error:
        return unavailable(error)
    clock = Clock(problem.device, on_tick=lambda clock: keep(options.out, problem, clock))
    try:
        result: Arrays = module.run(problem, contender.options, options.repetitions, clock)
    except UnavailableError as error:
        return unavailable(error)
    if len(clock.ticks) == 1:  # the reference is not timed
        clock.tick()
    keep(options.out, problem, clock, result)
    return 0


def unavailable(error: Exception) -> int:
    """Say why in a line."""
    print(" ".join(str(error).split()), file=sys.stderr)
    return UNAVAILABLE


def keep_to(cores: int) -> None:
    """Use no more than so many cores, this process and all that it starts, where the system can do that."""
    if hasattr(os, "sched_getaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        if cores > 1 and len(usable) > cores:  # one thread needs no fence, and the system may move it
            os.sched_setaffinity(0, usable[:cores])


def keep(out: Path, problem: Problem, clock: Clock, result: Arrays | None = None) -> None:
    """Leave the measurement so far, and the result when there is one.

    The last round of a run also saves and tests the final models, so it is not timed.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        return
    details = dict(clock.details)
    if result is not None:
        details |= {name.partition("/")[2]: float(v) for name, v in result.items() if name.startswith("details/")}
        np.savez(f"{out}.npz", **{name: v for name, v in result.items() if not name.startswith("details/")})  # type: ignore[arg-type]
    without_last = problem.kind == "round" and result is not None
    wall, cpu = clock.per_repetition(without_last)
    report = {
        "wall_s": wall,
        "cpu_s": cpu,
        "repetitions_s": [round(seconds, 4) for seconds in clock.repetitions],
        "timed": clock.timed(without_last),
        "complete": result is not None,
        "total_cpu_s": max(cpu_seconds(), clock.seen_cpu_s),
        "survivors_cpu_s": below(os.getpid()),
        "peak_mib": peak_mib(),
        "threads": torch.get_num_threads(),
        "details": details,
        "versions": {"python": platform.python_version(), **versions()},
    }
    write(out.with_suffix(".json"), report)


def peak_mib() -> float:
    """The most memory that this process ever had, MiB; without /proc it may be that of the process that started it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    return {package: version for package in PACKAGES if (version := installed_version(package)) is not None}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
