"""Measure a workload: ``python -m benchmarks.run --workload cpu-mini --against naive pfl``.

Contenders run in fresh processes, one at a time, in the order A B C, C B A, A B C, …. Before that, each does one round
(evaluation, exchange), and a contender whose result differs from the reference loop's is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.contenders import CONTENDERS, UnavailableError, parse
from benchmarks.prepare import prepare
from benchmarks.statistics import paired_ratio
from benchmarks.worker import UNAVAILABLE
from benchmarks.workloads import WORKLOADS, Comparison, Workload, for_gate, quick
from fedloge.errors import FedlogeError

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
ENVIRONMENTS = FOLDER / ".venvs"
WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "0"}


class ContenderError(Exception):
    """A contender failed; the message holds the end of its output."""


@dataclass
class Bench:
    """A workload that is being measured.

    Args:
        workload: Workload that is measured.
        folder: Folder for the inputs and the results of the processes.
        pythons: Interpreters of the peers, by package.
        cifar: Folder of the real CIFAR-10; None takes synthetic images.
    """

    workload: Workload
    folder: Path
    pythons: dict[str, Path]
    cifar: str | None = None
    versions: dict[str, Any] = field(default_factory=dict)

    def prepare(self) -> None:
        """Write the inputs of timing and gate."""
        workload = self.workload
        prepare(self.folder / "timed", workload.kind, workload.federation, workload.device, self.cifar)
        prepare(self.folder / "gate", workload.kind, for_gate(workload), workload.device, self.cifar)

    @cached_property
    def reference(self) -> dict[str, Any]:
        """The reference's result on the gate's inputs."""
        self._work("gate", "reference@1", 1)
        return self._result()

    def gate(self, contender: str) -> dict[str, Any]:
        """Distance of a contender's result from the reference's, and whether it is within tolerance."""
        reference = self.reference
        self._work("gate", contender, 1)
        result, lacks = self._result(), CONTENDERS[parse(contender)[0]].lacks
        expected = {key for key in reference if not (key.startswith("check/") or (lacks and key.endswith(lacks)))}
        compared = sorted(k for k in result.keys() & reference.keys() if result[k].shape == reference[k].shape)
        complete = expected <= {*compared} == {*result}
        difference = float(np.max([np.abs(result[key] - reference[key]).max() for key in compared], initial=0.0))
        return {
            "difference": difference,
            "tolerance": self.workload.tolerance,
            "passed": complete and difference <= self.workload.tolerance,
            "entries": len(compared),
            "without": list(lacks),
        }

    def measure(self, contender: str) -> dict[str, Any]:
        """Run a contender once."""
        began, busy, load = time.perf_counter(), machine.busy_seconds(), machine.load()
        ended = children_seconds()
        report = self._work("timed", contender, self.workload.repetitions + 1)
        own = children_seconds() - ended + report.pop("survivors_cpu_s")  # that nobody waits for
        own = max(own, report.pop("total_cpu_s"))  # or that nobody waited for
        others = (machine.busy_seconds() - busy - own) / (time.perf_counter() - began)
        return {**report, "load_before": load, "load_after": machine.load(), "others_cores": round(max(others, 0), 2)}

    def _work(self, problem: str, contender: str, repetitions: int) -> dict[str, Any]:
        name, cores = parse(contender)
        out = self.folder / "out"
        for suffix in (".json", ".npz"):
            out.with_suffix(suffix).unlink(missing_ok=True)
        arguments = ["benchmarks.worker", str(self.folder / problem), contender, str(out)]
        command = [*self._python(name, cores), "-m", *arguments, f"--repetitions={repetitions}"]
        done = subprocess.run(
            command, env=environment(name, cores, self.workload.device), capture_output=True, text=True
        )
        if done.returncode == UNAVAILABLE:
            raise UnavailableError(done.stderr.strip().splitlines()[-1])
        if done.returncode or not out.with_suffix(".json").exists():
            raise ContenderError(f"{contender} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        report: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
        self.versions[name] = report.pop("versions")
        return report

    def _python(self, name: str, cores: int) -> list[str]:
        contender = CONTENDERS[name]
        python = Path(sys.executable) if contender.peer is None else self.pythons[contender.peer]
        if not python.exists():
            raise UnavailableError(
                f"{contender.peer} is not installed: `python -m benchmarks.peers {contender.peer}` does that"
            )
        if not contender.torchrun:
            return [str(python)]
        return [str(python), "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={cores}"]

    def _result(self) -> dict[str, Any]:
        with np.load(self.folder / "out.npz", allow_pickle=False) as file:
            return dict(file)


def children_seconds() -> float:
    """CPU seconds of this process's children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def environment(name: str, cores: int, device: str = "cpu") -> dict[str, str]:
    """Environment variables of a contender: its threads, no graphics device unless asked for, this checkout first."""
    threads = str(CONTENDERS[name].threads(cores))
    counts = {f"{library}_NUM_THREADS": threads for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
    path = os.pathsep.join(str(folder) for folder in (FOLDER.parent, FOLDER.parent / "src"))
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**kept, **WAIT, **counts, **hidden, "BENCHMARK_CORES": str(cores), "PYTHONPATH": path}


def chosen(workload: Workload, against: Sequence[str] | None) -> Workload:
    """The workload with only the comparisons with some opponents; ``serial`` stands for ``fedloge-serial``.

    Raises:
        ValueError: If there is no such opponent, or none of them is compared in this workload.
    """
    if against is None:
        return workload
    everyone = set().union(*(spellings(c) for w in WORKLOADS.values() for c in w.comparisons))
    if unknown := [name for name in against if name not in everyone]:
        there = ", ".join(sorted(name for name in everyone if "@" not in name))
        raise ValueError(f"--against {' '.join(unknown)} is nobody that is measured. There are: {there}.")
    kept = tuple(c for c in workload.comparisons if c.other is None or spellings(c) & {*against})
    if not any(c.other for c in kept):
        others = sorted({c.other.partition("@")[0] for c in workload.comparisons if c.other})
        raise ValueError(
            f"{workload.name} is not measured against {', '.join(against)}, but against {', '.join(others)}."
        )
    return replace(workload, comparisons=kept)


def spellings(comparison: Comparison) -> set[str]:
    """How its opponent may be called."""
    other = comparison.other or ""
    full = {other, other.removeprefix("fedloge-")}
    return {name for spelled in full for name in (spelled, spelled.partition("@")[0]) if name}


def run(bench: Bench, pairs: int, say: Any = print) -> dict[str, Any]:
    """Gate, then time; returns the content of the result's file. Who breaks down is left out from then on."""
    workload = bench.workload
    bench.prepare()
    gates: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    for contender in workload.contenders:
        try:
            gates[contender] = bench.gate(contender)
        except UnavailableError as reason:
            skipped[contender] = str(reason)
            say(f"{contender} is skipped: {reason}")
            continue
        except ContenderError as error:
            failed[contender] = str(error)
            say(f"error: {error}")
            continue
        say(f"{contender} {verdict(gates[contender])}")
    timed = [contender for contender in workload.contenders if contender in gates and gates[contender]["passed"]]
    runs = []
    for sweep in range(pairs):
        for contender in timed if sweep % 2 == 0 else timed[::-1]:
            try:
                measured = bench.measure(contender)
            except ContenderError as error:
                failed[contender] = str(error)
                say(f"error: {error}")
                continue
            runs.append({"contender": contender, "sweep": sweep, **measured})
            say(
                f"sweep {sweep + 1}/{pairs} {contender}: {measured['wall_s']:.3f} s, {measured['cpu_s']:.3f} CPU s, "
                f"others used {measured['others_cores']} cores"
            )
        timed = [contender for contender in timed if contender not in failed]
    return {
        "format": 1,
        "workload": workload.name,
        "kind": workload.kind,
        "about": workload.about,
        "data": "synthetic" if bench.cifar is None else "CIFAR-10",
        "device": workload.device,
        "federation": asdict(workload.federation),
        "repetitions": workload.repetitions,
        "pairs": pairs,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": machine.commit(),
        "machine": machine.machine(),
        "environment": {**WAIT, "threads": "as many as the cores after @; -processes have one each"},
        "versions": bench.versions,
        "gate": gates,
        "skipped": skipped,
        "failed": failed,
        "runs": runs,
        "comparisons": [compare(c, runs) for c in workload.comparisons if {c.ours, c.other or c.ours} <= {*timed}],
    }


def compare(comparison: Comparison, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the runs say of a comparison, and whether its target is met."""
    ours = [run for run in runs if run["contender"] == comparison.ours]
    result: dict[str, Any] = asdict(comparison)
    result |= {"ours_s": median(r["wall_s"] for r in ours), "ours_cpu_s": median(r["cpu_s"] for r in ours)}
    if comparison.other is not None:
        others = [run for run in runs if run["contender"] == comparison.other]
        wall, cpu = (paired_ratio([r[k] for r in others], [r[k] for r in ours]) for k in ("wall_s", "cpu_s"))
        result |= {"other_s": median(r["wall_s"] for r in others), "other_cpu_s": median(r["cpu_s"] for r in others)}
        result |= {"ratio": wall.median, "low": wall.low, "high": wall.high, "cpu_ratio": cpu.median}
        theirs = others[0]["details"]
        result["worse"] = [name for name, value in ours[0]["details"].items() if value > theirs[name]]
    return {**result, "met": comparison.met_by(result)}


def verdict(gate: dict[str, Any]) -> str:
    """The gate's verdict in words."""
    differs = f"differs from the reference by {gate['difference']:.1e}"
    return differs if gate["passed"] else f"{differs}, more than {gate['tolerance']:g} or other entries: not timed"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a contender broke down or its result was wrong, 2 where the arguments were."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--workload", required=True, choices=WORKLOADS, nargs="+")
    parser.add_argument("--against", nargs="+", help="opponents, as naive, pfl@4 or serial; default: all")
    parser.add_argument("--pairs", type=positive, default=8, help="sweeps over all contenders (8; keep none below 7)")
    parser.add_argument("--profile", choices=["full", "quick"], default="full", help="quick: tiny, to see it work")
    parser.add_argument("--data", metavar="FOLDER", help="folder of the real CIFAR-10; default: synthetic images")
    parser.add_argument("--python", nargs="+", default=[], metavar="PEER=PATH", help="a peer's interpreter")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    options = parser.parse_args(arguments)
    try:
        pythons = interpreters(options.python)
        workloads = [chosen(WORKLOADS[name], options.against) for name in options.workload]
        for workload in workloads:
            check(workload, options.data)
        options.results.mkdir(parents=True, exist_ok=True)
        passed = [measure(workload, pythons, options) for workload in workloads]
    except (ValueError, OSError, FedlogeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if all(passed) else 1


def measure(workload: Workload, pythons: dict[str, Path], options: argparse.Namespace) -> bool:
    """Measure a workload and write its result; whether all is well with every contender.

    Raises:
        ValueError: If there is nobody to measure.
    """
    small = quick(workload) if options.profile == "quick" else workload
    print(f"{workload.name}: {workload.about}")
    with tempfile.TemporaryDirectory() as folder:
        result = run(Bench(small, Path(folder), pythons, options.data), options.pairs)
    if not result["gate"] and not result["failed"]:
        raise ValueError(f"{workload.name} was not measured: every contender was skipped.")
    result |= {"profile": options.profile, "against": options.against}
    part = [*(options.against or ()), *(["quick"] if options.profile == "quick" else [])]
    path = options.results / f"{'-'.join([workload.name, result['date'], *part])}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{path}: {len(result['comparisons'])} of {len(workload.comparisons)} comparisons")
    return not result["failed"] and all(gate["passed"] for gate in result["gate"].values())


def positive(text: str) -> int:
    """A number of the command line that is at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def interpreters(given: Sequence[str]) -> dict[str, Path]:
    """The interpreter of every peer, as given or where :mod:`benchmarks.peers` puts it.

    Raises:
        ValueError: If an entry is not ``PEER=PATH``, or there is no such peer or file.
    """
    peers = sorted({contender.peer for contender in CONTENDERS.values() if contender.peer})
    pythons = {peer: ENVIRONMENTS / peer / "bin" / "python" for peer in peers}
    for entry in given:
        peer, _, path = entry.partition("=")
        if peer not in pythons or not path:
            raise ValueError(f"--python {entry} is not PEER=PATH with a peer of: {', '.join(peers)}.")
        if not Path(path).is_file():
            raise ValueError(f"--python {entry}: there is no file {path}.")
        pythons[peer] = Path(path)
    return pythons


def check(workload: Workload, cifar: str | None) -> None:
    """Refuse what cannot be measured here.

    Raises:
        ValueError: If the workload needs a device that is missing, or data that the folder does not have.
    """
    if workload.device == "cuda" and machine.gpu() is None:
        raise ValueError(f"{workload.name} needs a CUDA device, and torch finds none.")
    if cifar is not None and workload.federation.num_classes != 10:
        raise ValueError(f"{workload.name} has {workload.federation.num_classes} classes: leave out --data.")
    needed = max(parse(contender)[1] for contender in workload.contenders)
    if needed > machine.cores():
        print(f"{workload.name} is meant for {needed} cores; here are {machine.cores()}.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
