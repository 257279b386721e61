"""Start-up time: ``python -m benchmarks.startup [--against SRC]``.

Every command runs in fresh processes, in turn with ``import torch`` and, with ``--against``, with the same command of
the fedloge in another source folder. Times are CPU seconds, which depend less than wall time on what else runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

import fedloge
from benchmarks import machine
from benchmarks.processes import python_path
from benchmarks.results import RESULTS, about, write
from benchmarks.run import children_seconds, positive
from benchmarks.statistics import paired_ratio

TORCH = ["-c", "import torch"]
COMMANDS = {
    "import lightning": ["-c", "import lightning"],
    "import fedloge; fedloge.FedAvg": ["-c", "import fedloge; fedloge.FedAvg"],
    "fedloge --help": ["-m", "fedloge", "--help"],
    "fedloge fit --config missing.yaml": ["-m", "fedloge", "fit", "--config", "missing.yaml"],
    "fedloge predict RUN IMAGE": ["-m", "fedloge", "predict", "run", "image.png"],
}
QUICKSTART = machine.ROOT / "configs" / "quickstart.yaml"
SHORT = ["--trainer.rounds=1", "--trainer.run_dir=run", "--report=false", "--quiet"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the commands and write the results after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--pairs", type=positive, default=7)
    parser.add_argument("--only", choices=COMMANDS, nargs="+", default=list(COMMANDS))
    parser.add_argument("--against", type=Path, metavar="SRC", help="folder with another fedloge, src/ of a commit")
    parser.add_argument("--output", type=Path)
    known = parser.parse_args(arguments)
    content, runs = about("startup"), []
    path = known.output or RESULTS / f"startup-{content['date']}.json"
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for name in known.only:
            runs.append(measure(name, Path(folder), known.pairs, known.against))
            write(path, {**content, "runs": runs})
    print(path)


def prepare(folder: Path) -> None:
    """Write a run and an image to predict."""
    cpu_seconds(["-m", "fedloge", "fit", "--config", str(QUICKSTART), *SHORT], folder)
    Image.new("L", (8, 8), 100).save(folder / "image.png")


def measure(name: str, folder: Path, pairs: int, against: Path | None) -> dict[str, Any]:
    """CPU seconds of a command, and its median ratios to ``import torch`` and to the other fedloge."""
    others: list[tuple[list[str], Path | None]] = [(TORCH, None), (COMMANDS[name], against)]
    commands = [(COMMANDS[name], None), *(others if against else others[:1])]
    for command, source in commands:  # warm-up
        cpu_seconds(command, folder, source)
    rows = [[cpu_seconds(command, folder, source) for command, source in commands] for _ in range(pairs)]
    ours, *compared = (list(column) for column in zip(*rows, strict=True))
    ratios = {
        kind: asdict(paired_ratio(ours, times)) for kind, times in zip(("torch", "other"), compared, strict=False)
    }
    result = {"command": name, "pairs": pairs, "cpu_s": round(median(ours), 2), "ratio": ratios}
    print(result, flush=True)
    return result


def cpu_seconds(command: Sequence[str], folder: Path, source: Path | None = None) -> float:
    """CPU seconds of a Python process with the fedloge of a source folder, by default the imported one.

    Raises:
        RuntimeError: If the process does not end as expected.
    """
    path = python_path((source or Path(fedloge.__file__).parents[1]).resolve())
    began = children_seconds()
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != (2 if "missing.yaml" in command else 0):
        raise RuntimeError(f"{command} failed:\n{done.stderr[-2000:]}")
    return children_seconds() - began


if __name__ == "__main__":
    main()
