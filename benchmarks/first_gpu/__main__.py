"""Measure what matters on a GPU that is there for ten minutes: ``python -m benchmarks.first_gpu --output FOLDER``.

Every stage is a process, or several, with a time limit. All that they print appears at once, and their measurements are
in the folder as soon as they are made; ``first-gpu-DATE.json`` there holds everything. Where the time does not suffice,
the last stages are dropped. ``--profile quick`` does the same at the smallest sizes, also where there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.first_gpu.plan import NO_GPU, SECONDS, Part, Stage, stages
from benchmarks.machine import ROOT, commit
from benchmarks.processes import python_path, started, stop
from benchmarks.results import today, write

CLOSING = 12.0
"""Seconds before its limit at which a part begins no further measurement."""
PATIENT = 5
"""Times as long as the limits in the quick profile, for a CPU that does something else besides."""
TAIL = 40
"""Lines of a part's output that are kept."""


class Running(contextlib.AbstractContextManager["Running"]):
    """A part that runs: its output is printed line by line, and it is stopped at its limit or at the end of the block.

    Args:
        part: Part to run.
        places: Values of the placeholders in its command.
        seconds: Limit.
    """

    def __init__(self, part: Part, places: Mapping[str, object], seconds: float) -> None:
        self.part, self.seconds, self.began = part, seconds, time.monotonic()
        self._tail: deque[str] = deque(maxlen=TAIL)
        left = max(seconds - CLOSING, 1.0)
        self._file = Path(str(places["folder"])) / f"{places['stage']}-{part.name}.json"
        values = {**places, "file": self._file, "seconds": left, "minutes": left / 60}
        command = [sys.executable, *(word.format(**values) for word in part.command)]
        environment = {**os.environ, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"}
        self._file.unlink(missing_ok=True)
        self._stack = contextlib.ExitStack()
        self._process = self._stack.enter_context(
            started(command, environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._tail.append(line.rstrip())
            print(f"{self.part.name}: {line.rstrip()}", flush=True)

    def finished(self) -> dict[str, Any]:
        """Wait for its end or its limit; what became of it."""
        self._reader.join(max(self.began + self.seconds - time.monotonic(), 0.0))
        in_time = not self._reader.is_alive()
        if not in_time:
            stop(self._process)
        code = self._process.wait()
        return {
            "name": self.part.name,
            "outcome": _outcome(code) if in_time else f"stopped at its limit of {self.seconds:.0f} s",
            "passed": in_time and code == 0,
            "seconds": round(time.monotonic() - self.began, 1),
            "exit_status": code if in_time else None,
            "result": json.loads(self._file.read_text()) if self._file.exists() else None,
            "output": list(self._tail),
        }


def _outcome(code: int) -> str:
    return {0: "passed", NO_GPU: "needs a GPU"}.get(code, f"failed ({code})")


def run_stage(stage: Stage, places: Mapping[str, object], seconds: float, patience: float) -> list[dict[str, Any]]:
    """Run the groups of a stage in turn, as long as there is time; what became of every part."""
    until, done = time.monotonic() + seconds, dict[str, dict[str, Any]]()
    for group in stage.groups:
        left = until - time.monotonic()
        wanted = [part for part in group if not part.after or not done[part.after]["passed"]]
        if left < 1 and wanted:
            done |= {part.name: {"name": part.name, "outcome": "no time left", "passed": False} for part in wanted}
            continue
        with contextlib.ExitStack() as stack:
            limits = [min(patience * part.seconds, left) for part in wanted]
            running = [
                stack.enter_context(Running(part, places, limit)) for part, limit in zip(wanted, limits, strict=True)
            ]
            done |= {each.part.name: each.finished() for each in running}
    return list(done.values())


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen stages; returns, and writes after each, what became of them."""
    patience = PATIENT if options.profile == "quick" else 1
    until = time.monotonic() + (options.seconds or SECONDS * patience)
    report: dict[str, Any] = {"workload": "first-gpu", "date": today(), "commit": commit(), "profile": options.profile}
    report |= {"complete": False, "stages": []}
    path = options.output / f"first-gpu-{report['date']}.json"
    for number, stage in enumerate(stages(options.profile)):
        if number not in options.stages:
            continue
        left = until - time.monotonic()
        entry: dict[str, Any] = {"stage": number, "about": stage.about, "parts": []}
        if left < stage.least:
            entry |= {"dropped": f"{max(left, 0):.0f} s were left, and it needs {stage.least:.0f}"}
        else:
            print(f"== stage {number}: {stage.about}", flush=True)
            places = {"folder": options.output.resolve(), "profile": options.profile, "stage": number}
            entry["parts"] = run_stage(stage, places, min(patience * stage.seconds, left), patience)
        report["stages"].append(entry)
        write(path, report)
        if any(part.get("exit_status") == NO_GPU for part in entry["parts"]):
            break
    report["complete"] = True
    write(path, report)
    print(f"\n{summary(report)}\n{path}", flush=True)
    return report


def summary(report: Mapping[str, Any]) -> str:
    """A line for every stage, and one for every part of it."""
    lines = []
    for entry in report["stages"]:
        lines.append(f"stage {entry['stage']}: {entry['about']}")
        lines += [f"  dropped: {entry['dropped']}"] if "dropped" in entry else []
        lines += [f"  {part['name']}: {part['outcome']}, {part.get('seconds', 0)} s" for part in entry["parts"]]
    return "\n".join(lines)


def numbers(text: str) -> set[int]:
    """Numbers of stages, written as ``0-6`` or ``0,2,5-6``."""
    chosen = set[int]()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        chosen |= {*range(int(first), int(last if dash else first) + 1)}
    if not chosen or not chosen <= {*range(len(stages("full")))}:
        raise ValueError
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a part failed or was stopped, 2 where the arguments were wrong or there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_gpu", description=__doc__)
    everything = {*range(len(stages("full")))}
    parser.add_argument("--stages", type=numbers, default=everything, metavar="0-6", help="0,2,5-6, for example")
    parser.add_argument("--profile", choices=["full", "quick"], default="full", help="quick: tiny, on any device")
    parser.add_argument("--seconds", type=float, help=f"of all stages together ({SECONDS:.0f}; quick: {PATIENT} times)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/first-gpu"), metavar="FOLDER", help="for the JSON files"
    )
    options = parser.parse_args(arguments)
    report = run(options)
    parts = [part for entry in report["stages"] for part in entry["parts"]]
    if any(part.get("exit_status") == NO_GPU for part in parts):
        print("error: there is no CUDA device; --profile quick shows the stages on the CPU.", file=sys.stderr)
        return 2
    return int(not all(part["passed"] for part in parts))


if __name__ == "__main__":
    sys.exit(main())
