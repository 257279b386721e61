"""Measure a workload: ``python -m benchmarks.run --workload cpu-mini --against naive pfl``.

Contenders run in fresh processes, one at a time, in the order A B C, C B A, A B C, …. Before that, each does one round
(evaluation, exchange), and a contender whose result differs from the reference loop's is not timed. The result is
written after every measurement. ``--against none --pairs 1 --minutes 9`` times fedloge alone, and no longer than that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.contenders import CONTENDERS, UnavailableError, parse
from benchmarks.prepare import prepare
from benchmarks.processes import finish, python_path
from benchmarks.results import RESULTS, about, write
from benchmarks.statistics import paired_ratio
from benchmarks.worker import UNAVAILABLE
from benchmarks.workloads import ALONE, WORKLOADS, Comparison, Workload, for_gate, quick
from fedloge.errors import FedlogeError

ENVIRONMENTS = Path(__file__).parent / ".venvs"
WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "0"}


class ContenderError(Exception):
    """A contender failed; the message holds the end of its output."""


class TimeIsUpError(Exception):
    """The time for the measurements is over."""


@dataclass
class Bench:
    """A workload that is being measured.

    Args:
        workload: Workload that is measured.
        folder: Folder for the inputs and the results of the processes.
        pythons: Interpreters of the peers, by package.
        cifar: Folder of the real CIFAR-10; None takes synthetic images.
        until: Time (``time.monotonic``) at which the measurements end; None has no end.
    """

    workload: Workload
    folder: Path
    pythons: dict[str, Path]
    cifar: str | None = None
    until: float | None = None
    versions: dict[str, Any] = field(default_factory=dict)

    def prepare(self) -> None:
        """Write the inputs of timing and gate."""
        workload = self.workload
        prepare(self.folder / "timed", workload.kind, workload.federation, workload.device, self.cifar)
        prepare(self.folder / "gate", workload.kind, for_gate(workload), workload.device, self.cifar)

    @cached_property
    def reference(self) -> dict[str, Any]:
        """The reference's result on the gate's inputs."""
        self._whole("gate", "reference@1")
        return self._result()

    def gate(self, contender: str) -> dict[str, Any]:
        """Distance of a contender's result from the reference's, and whether it is within tolerance."""
        reference = self.reference
        self._whole("gate", contender)
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
        """Run a contender once; if the time is over before it ends, its repetitions until then count.

        Raises:
            TimeIsUpError: If there is none.
        """
        began, busy, load = time.perf_counter(), machine.busy_seconds(), machine.load()
        ended = children_seconds()
        report = self._work("timed", contender, self.workload.all_repetitions)
        own = children_seconds() - ended + report.pop("survivors_cpu_s")  # that nobody waits for
        own = max(own, report.pop("total_cpu_s"))  # or that nobody waited for
        others = (machine.busy_seconds() - busy - own) / (time.perf_counter() - began)
        return {**report, "load_before": load, "load_after": machine.load(), "others_cores": round(max(others, 0), 2)}

    def _whole(self, problem: str, contender: str) -> None:
        if not self._work(problem, contender, 1).get("complete", True):
            raise TimeIsUpError

    def _work(self, problem: str, contender: str, repetitions: int) -> dict[str, Any]:
        left = None if self.until is None else self.until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeIsUpError
        name, cores = parse(contender)
        out = self.folder / "out"
        for suffix in (".json", ".npz"):
            out.with_suffix(suffix).unlink(missing_ok=True)
        arguments = ["benchmarks.worker", str(self.folder / problem), contender, str(out)]
        command = [*self._python(name, cores), "-m", *arguments, f"--repetitions={repetitions}"]
        code, text, errors = finish(command, environment(name, cores, self.workload.device), left)
        if code == UNAVAILABLE:
            raise UnavailableError(errors.strip().splitlines()[-1])
        if code is None and not out.with_suffix(".json").exists():
            raise TimeIsUpError
        if code or not out.with_suffix(".json").exists():
            raise ContenderError(f"{contender} failed:\n{text[-2000:]}\n{errors[-4000:]}")
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
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**kept, **WAIT, **counts, **hidden, "BENCHMARK_CORES": str(cores), "PYTHONPATH": python_path()}


def chosen(workload: Workload, against: Sequence[str] | None) -> Workload:
    """The workload with only the comparisons with some opponents; ``serial`` stands for ``fedloge-serial``.

    ``none`` leaves fedloge alone, in every way in which the workload compares it.

    Raises:
        ValueError: If there is no such opponent, none of them is compared in this workload, or ``none`` is not alone.
    """
    if against is None:
        return workload
    if ALONE in against:
        if len(against) > 1:
            raise ValueError(f"--against {' '.join(against)}: {ALONE} stands alone.")
        times = {c.ours: c for c in workload.comparisons if c.other is None}
        ours = dict.fromkeys(c.ours for c in workload.comparisons)
        return replace(workload, comparisons=tuple(times.get(name, Comparison(name)) for name in ours))
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


@dataclass
class Series:
    """The measurements of a workload so far. Who breaks down is left out from then on.

    Args:
        bench: Workload that is measured.
        pairs: Number of sweeps over all contenders.
        say: Function that prints a line.
        keep: Function that is called with the content of the result's file after every step.
    """

    bench: Bench
    pairs: int
    say: Callable[[str], object]
    keep: Callable[[dict[str, Any]], object]
    gates: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    sweeps: int = 0

    def __post_init__(self) -> None:
        self._about = about(self.bench.workload.name)

    def gate(self) -> None:
        """Compare everybody's result with the reference's."""
        for contender in self.bench.workload.contenders:
            try:
                self.gates[contender] = self.bench.gate(contender)
                self.say(f"{contender} {verdict(self.gates[contender])}")
            except UnavailableError as reason:
                self.skipped[contender] = str(reason)
                self.say(f"{contender} is skipped: {reason}")
            except ContenderError as error:
                self._failed(contender, error)
            self.keep(self.content())

    def time(self) -> None:
        """Time all whose result was right, in turns."""
        for sweep in range(self.pairs):
            timed = self.timed
            for contender in timed if sweep % 2 == 0 else timed[::-1]:
                try:
                    self._measured(contender, sweep, self.bench.measure(contender))
                except ContenderError as error:
                    self._failed(contender, error)
                self.keep(self.content())
            self.sweeps += 1
        self.keep(self.content())

    @property
    def timed(self) -> list[str]:
        """Everybody whose result was right and who has not broken down."""
        everyone = self.bench.workload.contenders
        return [name for name in everyone if name not in self.failed and self.gates.get(name, {}).get("passed")]

    def _measured(self, contender: str, sweep: int, measured: dict[str, Any]) -> None:
        self.runs.append({"contender": contender, "sweep": sweep, **measured})
        cut = "" if measured["complete"] else f", mean of {measured['timed']} repetitions until the time was up"
        self.say(
            f"sweep {sweep + 1}/{self.pairs} {contender}: {measured['wall_s']:.3f} s, {measured['cpu_s']:.3f} CPU s, "
            f"others used {measured['others_cores']} cores{cut}"
        )

    def _failed(self, contender: str, error: ContenderError) -> None:
        self.failed[contender] = str(error)
        self.say(f"error: {error}")

    def content(self) -> dict[str, Any]:
        """What the result's file holds."""
        bench, workload = self.bench, self.bench.workload
        return {
            "format": 1,
            **self._about,
            "kind": workload.kind,
            "about": workload.about,
            "data": "synthetic" if bench.cifar is None else "CIFAR-10",
            "device": workload.device,
            "federation": asdict(workload.federation),
            "repetitions": workload.repetitions,
            "pairs": self.pairs,
            "complete": self.sweeps == self.pairs and all(run["complete"] for run in self.runs),
            "environment": {**WAIT, "threads": "as many as the cores after @; -processes have one each"},
            "versions": bench.versions,
            "gate": self.gates,
            "skipped": self.skipped,
            "failed": self.failed,
            "runs": self.runs,
            "comparisons": compared(workload.comparisons, [run for run in self.runs if run["contender"] in self.timed]),
        }


def run(
    bench: Bench,
    pairs: int,
    say: Callable[[str], object] = print,
    keep: Callable[[dict[str, Any]], object] = lambda content: None,
) -> dict[str, Any]:
    """Gate, then time, as long as there is time; returns the content of the result's file, which ``keep`` gets too."""
    series = Series(bench, pairs, say, keep)
    try:
        bench.prepare()
        series.gate()
        series.time()
    except TimeIsUpError:
        say(f"the time is up after {len(series.runs)} measurements")
    return series.content()


def compared(comparisons: Iterable[Comparison], runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons of contenders that were timed in a sweep in common."""
    pairs = {c: (by_sweep(runs, c.ours), by_sweep(runs, c.other or c.ours)) for c in comparisons}
    return [compare(c, runs) for c, (ours, others) in pairs.items() if ours.keys() & others.keys()]


def by_sweep(runs: Iterable[dict[str, Any]], contender: str | None) -> dict[int, dict[str, Any]]:
    """A contender's runs with a timed repetition; a warm-up alone is no measurement."""
    return {run["sweep"]: run for run in runs if run["contender"] == contender and run["timed"]}


def compare(comparison: Comparison, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the runs say of a comparison, and whether its target is met."""
    ours, others = by_sweep(runs, comparison.ours), by_sweep(runs, comparison.other)
    result: dict[str, Any] = {**asdict(comparison), **seconds("ours", ours.values())}
    if others:
        pairs = [(others[sweep], ours[sweep]) for sweep in sorted(ours.keys() & others.keys())]
        wall, cpu = (paired_ratio([a[k] for a, _ in pairs], [b[k] for _, b in pairs]) for k in ("wall_s", "cpu_s"))
        result |= {**seconds("other", others.values()), "ratio": wall.median, "low": wall.low, "high": wall.high}
        result["cpu_ratio"] = cpu.median
        theirs, details = (run["details"] for run in pairs[0])
        result["worse"] = [name for name, value in details.items() if name in theirs and value > theirs[name]]
    return {**result, "met": comparison.met_by(result)}


def seconds(who: str, runs: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Median wall and CPU seconds of a repetition."""
    return {f"{who}_{short}": median(run[key] for run in runs) for short, key in (("s", "wall_s"), ("cpu_s", "cpu_s"))}


def verdict(gate: dict[str, Any]) -> str:
    """The gate's verdict in words."""
    differs = f"differs from the reference by {gate['difference']:.1e}"
    return differs if gate["passed"] else f"{differs}, more than {gate['tolerance']:g} or other entries: not timed"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a contender broke down or its result was wrong, 2 where the arguments were."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--workload", required=True, choices=WORKLOADS, nargs="+")
    parser.add_argument("--against", nargs="+", help="opponents, as naive, pfl@4 or serial, or none; default: all")
    parser.add_argument("--pairs", type=positive, default=8, help="sweeps over all contenders (8; keep none below 7)")
    parser.add_argument("--minutes", type=float, help="measure no longer, all workloads together; what is done is kept")
    parser.add_argument("--profile", choices=["full", "quick"], default="full", help="quick: tiny, to see it work")
    parser.add_argument("--data", metavar="FOLDER", help="folder of the real CIFAR-10; default: synthetic images")
    parser.add_argument("--python", nargs="+", default=[], metavar="PEER=PATH", help="a peer's interpreter")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    options = parser.parse_args(arguments)
    options.until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    try:
        pythons = interpreters(options.python)
        workloads = [chosen(WORKLOADS[name], options.against) for name in options.workload]
        for workload in workloads:
            check(workload, options)
        options.results.mkdir(parents=True, exist_ok=True)
        passed = [measure(workload, pythons, options) for workload in workloads]
    except (ValueError, OSError, FedlogeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if all(passed) else 1


def measure(workload: Workload, pythons: dict[str, Path], options: argparse.Namespace) -> bool:
    """Measure a workload and keep its result; whether all is well with every contender.

    Raises:
        ValueError: If nobody was measured.
    """
    small = workload
    if options.profile == "quick":
        small = quick(workload, "cpu" if machine.gpu() is None else None)
        if small.device != workload.device:
            print(f"{workload.name} needs a CUDA device: this is a tiny version on the CPU, which says nothing of it")
    part = [*(options.against or ()), *(["quick"] if options.profile == "quick" else [])]

    def keep(result: dict[str, Any]) -> Path:
        path: Path = options.results / f"{'-'.join([workload.name, result['date'], *part])}.json"
        asked = {"profile": options.profile, "against": options.against, "minutes": options.minutes}
        return write(path, result | asked) if result["gate"] or result["failed"] else path

    print(f"{workload.name}: {workload.about}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(small, Path(folder), pythons, options.data, options.until)
        result = run(
            bench, options.pairs, partial(print, flush=True), lambda r: keep(r) if r["gate"] or r["failed"] else None
        )
    if not result["gate"] and not result["failed"]:
        reason = "every contender was skipped" if result["skipped"] else "the time was up before the first result"
        raise ValueError(f"{workload.name} was not measured: {reason}.")
    print(f"{keep(result)}: {len(result['comparisons'])} of {len(workload.comparisons)} comparisons", flush=True)
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


def check(workload: Workload, options: argparse.Namespace) -> None:
    """Refuse what cannot be measured here.

    Raises:
        ValueError: If the workload needs a device that is missing, or data that the folder does not have.
    """
    if workload.device == "cuda" and machine.gpu() is None and options.profile == "full":
        raise ValueError(f"{workload.name} needs a CUDA device, and torch finds none.")
    if options.data is not None and workload.federation.num_classes != 10:
        raise ValueError(f"{workload.name} has {workload.federation.num_classes} classes: leave out --data.")
    needed = max(parse(contender)[1] for contender in workload.contenders)
    if needed > machine.cores():
        print(f"{workload.name} is meant for {needed} cores; here are {machine.cores()}.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
