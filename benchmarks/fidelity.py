"""Train as the released code did, and lay the curves over those that its authors logged.

``python -m benchmarks.fidelity --reference FOLDER --check`` compares what needs no training (:mod:`benchmarks.facts`).

``python -m benchmarks.fidelity --reference FOLDER --root cifar10_lt.zip --rounds 51 --minutes 9`` trains the parity
configurations (ResNet-18, which wants a GPU) and compares GM, PM and head/middle/tail at equal rounds. The same command
again resumes it, until all rounds are done; further options are those of ``fedloge fit``. The result goes
to ``benchmarks/results/fidelity-SETTING-DATE.json`` and ``.png``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.facts import CONFIGS, facts, table
from benchmarks.released import COLUMNS, METHODS, SETTINGS, Curves, Setting, curves
from benchmarks.worker import versions
from fedloge import cli
from fedloge.errors import FedlogeError
from fedloge.runs.folder import RunFolder

LOGGED = (10, 50)
"""The rounds that the criterion averages over, first and last, as the logs count them (from 0)."""
TOLERANCE = 0.03
"""How far the averages of GM and PM may be from the released ones."""

MINI = (
    "--data.source=Digits",
    "--data.num_clients=4",
    "--data.imbalance_factor=5",
    "--model.backbone=SmallCNN",
    "--model.backbone.channels=[8, 16]",
    "--model.backbone.in_channels=1",
    "--trainer.local_epochs=1",
)
"""Digits and a tiny network through the same steps, to see that they work; its numbers mean nothing."""


def train(method: str, folder: Path, options: Sequence[str], seconds: float | None) -> None:
    """Begin a run, or go on with it, until its rounds are done or the time is up; whole rounds are kept.

    Raises:
        FedlogeError: If the run cannot begin or go on.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    config = str(CONFIGS / f"{method}_parity.yaml")
    arguments = ["--config", config, *options, f"--trainer.run_dir={folder}", "--report=false", "--resume"]
    with _stopped_after(seconds):
        cli.fit(arguments)


@contextlib.contextmanager
def _stopped_after(seconds: float | None) -> Iterator[None]:
    """Send this process SIGTERM when the time is up, on which a run saves and ends, and take that for an end."""
    up = threading.Event()

    def stop() -> None:
        up.set()
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(threading.TIMEOUT_MAX if seconds is None else seconds, stop)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # for when no round has begun
    timer.start()
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not up.is_set():
            raise
        print(f"time is up: {interrupt}")
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def measured(method: str, folder: Path) -> Curves:
    """The curves of a run so far, as the logs have them: before realignment."""
    prefix = "before_realignment/" if method == "fedloge" else ""
    rows = RunFolder(folder).rows("metrics.csv")
    return {key: {int(r["round"]): float(r[prefix + column]) for r in rows} for key, column in COLUMNS.items()}


def pace(folder: Path) -> dict[str, Any]:
    """How many rounds a run has done, and how long one took."""
    seconds = [float(row["time/round_s"]) for row in RunFolder(folder).rows("metrics.csv")]
    return {"rounds": len(seconds), "seconds_per_round": round(float(np.median(seconds)), 1) if seconds else None}


def compare(released: Curves, ours: Curves) -> dict[str, Any]:
    """The curves at equal rounds, and how far apart they are on average over :data:`LOGGED`.

    The logs are thinner from round 20 on, so the average is that of the difference as a broken line over the rounds.
    """
    first, last = (number + 1 for number in LOGGED)
    points, differences = {}, {}
    for key, theirs in released.items():
        shared = sorted(theirs.keys() & ours[key].keys())
        points[key] = {number: [theirs[number], round(ours[key][number], 4)] for number in shared}
        window = [number for number in shared if first <= number <= last]
        gaps = np.array([ours[key][number] - theirs[number] for number in window])
        if len(window) > 1:
            area = float(np.diff(window) @ (gaps[1:] + gaps[:-1])) / 2
            differences[key] = round(area / (window[-1] - window[0]), 4)
    over = [window[0], window[-1]] if differences else []
    met = all(abs(differences[key]) <= TOLERANCE for key in ("gm_acc", "pm_acc")) if over == [first, last] else None
    return {"points": points, "over": over, "differences": differences, "met": met}


def about(part: str = "") -> dict[str, Any]:
    """Where, when and with what a result was made."""
    return {**results.about(f"fidelity{part}"), "versions": versions()}


def protocol(setting: Setting, scale: str, root: str | None, options: Sequence[str]) -> dict[str, Any]:
    """What was compared with what, and how."""
    first, last = (number + 1 for number in LOGGED)
    return {
        "scale": scale,
        "setting": {"IF": setting.imbalance_factor, "alpha": setting.alpha},
        "data": Path(root).name if root else None,
        "options": [option for option in options if not option.startswith("--data.source")],
        "points": "by round: released, ours; round r is after r rounds of training, round r - 1 of the logs; one seed",
        "gm": "on the balanced test set, FedLoGe's through SSE-C",
        "pm": "mean over the clients, FedLoGe's of phi_k + psi without the classes that a client has no test image of "
        "(privileged), FedAvg's of the generic model and all classes; head/middle/tail by the client's own test images",
        "criterion": f"mean difference over rounds {first} to {last} within {TOLERANCE} for GM and for PM",
    }


def summary_lines(method: str, run: Mapping[str, Any]) -> str:
    """The comparison of a run with the released one, as text."""
    lines = [f"{METHODS[method]}: {run['rounds']} rounds, {run['seconds_per_round']} s each (median)"]
    for key, points in run["points"].items():
        if points:
            number, (theirs, ours) = list(points.items())[-1]
            lines.append(f"  {key:10} round {number}: released {theirs:.4f}, ours {ours:.4f}")
            if run["over"]:
                lines[-1] += "; mean difference in rounds {} to {} {:+.4f}".format(
                    *run["over"], run["differences"][key]
                )
    still = f"open: asks for full scale and rounds {LOGGED[0] + 1} to {LOGGED[1] + 1}"
    verdict = {True: "met", False: "NOT met", None: still}[run["met"]]
    return "\n".join([*lines, f"  criterion: {verdict}"])


def overlay(path: Path, title: str, runs: Mapping[str, tuple[Curves, Curves]]) -> None:
    """A picture with a row for each method: released (dashed) and ours, GM and PM."""
    from matplotlib.figure import Figure

    names = {"acc": "all", "head": "head", "middle": "middle", "tail": "tail"}
    figure = Figure(figsize=(11, 3.6 * len(runs)), layout="constrained")
    figure.suptitle(f"{title}: released (dashed) and ours")
    for row, (method, (released, ours)) in zip(figure.subplots(len(runs), 2, squeeze=False), runs.items(), strict=True):
        shown = max([LOGGED[1] + 1, *(number for values in ours.values() for number in values)])
        for axes, model in zip(row, ("gm", "pm"), strict=True):
            for color, (part, name) in zip(("C0", "C2", "C1", "C3"), names.items(), strict=True):
                key = f"{model}_{part}"
                axes.plot(*_line(released[key], shown), "--.", color=color)
                axes.plot(*_line(ours[key], shown), "-", marker="o", markersize=3, color=color, label=name)
            axes.set(title=f"{METHODS[method]}, {model.upper()}", xlabel="rounds", ylabel="accuracy", ylim=(0, 1))
            axes.legend()
    figure.savefig(path, dpi=110)


def _line(curve: Mapping[int, float], last: int) -> tuple[list[int], list[float]]:
    numbers = [number for number in sorted(curve) if number <= last]
    return numbers, [curve[number] for number in numbers]


def run(options: argparse.Namespace, more: Sequence[str]) -> Path:
    """Train what is asked for, compare, and write the result.

    Raises:
        FedlogeError: If the reference, the data or an option is not what it must be.
        Interrupted: After Ctrl-C or SIGTERM; the same command resumes.
    """
    setting = SETTINGS[options.setting]
    released = {method: curves(options.reference, method, setting) for method in options.method}
    arguments = [*data_options(setting, options.root), *(MINI if options.scale == "mini" else ()), *more]
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    compared, pairs = {}, {}
    for method in options.method:
        folder = options.runs / f"fidelity-{options.setting}-{method}-{options.scale}"
        left = None if until is None else until - time.monotonic()
        if left is None or left > 0:
            train(method, folder, [*arguments, f"--trainer.rounds={options.rounds}"], left)
        ours = measured(method, folder)
        pairs[method] = released[method], ours
        compared[method] = {**pace(folder), **compare(*pairs[method])}
        if options.scale != "full":
            compared[method]["met"] = None
        print(summary_lines(method, compared[method]))
    compared = {method: run for method, run in compared.items() if run["rounds"]}
    if not compared:
        raise FedlogeError(f"no round was done in --minutes={options.minutes:g}. Give it more: whole rounds are kept.")
    some = "" if len(compared) == len(METHODS) else "-" + "-".join(compared)
    suffix = some if options.scale == "full" else f"{some}-{options.scale}"
    pairs = {method: pairs[method] for method in compared}
    result = {**about(), **protocol(setting, options.scale, options.root, arguments), "runs": compared}
    path = write(options.results, f"fidelity-{options.setting}{suffix}", result)
    overlay(path.with_suffix(".png"), f"{setting.words}{suffix.replace('-', ', ')}", pairs)
    return path


def check(options: argparse.Namespace) -> int:
    """Print and keep the facts that need no training; 1 where one differs.

    Raises:
        FedlogeError: If the reference is not what it must be.
    """
    found = list(facts(options.reference))
    agreeing = sum(fact.agrees for fact in found)
    print(table(found))
    print(f"\n{agreeing} of {len(found)} facts agree")
    print(write(options.results, "fidelity-check", {**about("-check"), "facts": [asdict(fact) for fact in found]}))
    return int(agreeing < len(found))


def write(folder: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Write a result as JSON, and return where."""
    return results.write(folder / f"{name}-{result['date']}.json", result)


def data_options(setting: Setting, root: str | None) -> list[str]:
    """Options of ``fedloge fit`` for a setting and the place of the images: CIFAR-10's own files, a folder or a zip."""
    chosen = [f"--data.alpha={setting.alpha}", f"--data.imbalance_factor={setting.imbalance_factor}"]
    if root is None:
        return chosen
    original = (Path(root) / "cifar-10-batches-py").is_dir()
    return [*chosen, *([] if original else ["--data.source=ImageFolder"]), f"--data.source.init_args.root={root}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a fact differs, 2 where the arguments were wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__, allow_abbrev=False)
    parser.add_argument("--reference", required=True, metavar="FOLDER", help="the released numbers, three JSON files")
    parser.add_argument("--check", action="store_true", help="only what needs no training and no images")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--setting", choices=SETTINGS, default="a", help="column of the paper's Table 1 (a)")
    parser.add_argument("--rounds", type=int, default=LOGGED[1] + 1, help="(51: up to round 50 of the logs)")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command resumes")
    parser.add_argument("--root", help="the images: a folder or zip with train/ and test/, or CIFAR-10's own (data)")
    parser.add_argument("--scale", choices=["full", "mini"], default="full", help="mini: to see that it works")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (runs)")
    parser.add_argument("--results", type=Path, default=results.RESULTS, metavar="FOLDER", help="where the result goes")
    options, more = parser.parse_known_args(arguments)
    try:
        if options.check:
            return check(options)
        print(run(options, more))
    except FedlogeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"interrupted; {stop}; the same command resumes", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
