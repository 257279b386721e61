"""``fedloge analyze``: analyse trained runs, alone and side by side, and write the results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedloge.analysis.diagnostics import Analysis, client_key, client_rows, describe, diagnose
from fedloge.analysis.features import Stage, Subject, open_subject
from fedloge.analysis.figures import FIGURES
from fedloge.analysis.frames import norm_rows
from fedloge.analysis.text import comparison_markdown, headline, markdown
from fedloge.collapse.lab.output import PARTS, Output
from fedloge.errors import ConfigError, RunError
from fedloge.evaluation.shots import SHOTS
from fedloge.runs.tables import run_names
from fedloge.system.live import Line, track
from fedloge.system.storage import clear_os_errors, map_floats

RESULT = "analysis.json"


def analyze_run(
    path: str | Path,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    state: Stage = "last",
    classes: Sequence[str | int] = (),
) -> Analysis:
    """Analyse a run's generic model and write tables, figures and a reading.

    Test images are used for measurement only, not for training or selection.

    Args:
        path: The run folder.
        output: Folder of the results; None takes ``RUN/analysis``. An older analysis there is replaced.
        overrides: Options of ``fedloge fit`` to change, for example ``--data.source.init_args.root=...``.
        state: State to analyse: ``last`` (as trained) or ``final`` (after realignment or fine-tuning).
        classes: Names or numbers of the classes whose curves are shown; by default the most frequent class of each of
            many, medium and few.

    Returns:
        The content of ``analysis.json``; undefined numbers are None.

    Raises:
        RunError: If the path is not a run, its method has no generic model, or the folder cannot be written.
        ConfigError: If a class or the state does not exist, or the folder holds something other than an analysis.
    """
    target = Path(output) if output else Path(path) / "analysis"
    check_output(target)
    name = Path(path).resolve().name
    with Line(f"features of {name}"):
        subject = open_subject(path, overrides, state)
    shown = choose_classes(subject, classes)
    folder = open_output(target)
    with Line(f"diagnostics of {name}"):
        result: Analysis = _tidy({"run": {"name": name, **describe(subject)}, **diagnose(subject, shown)})
    with clear_os_errors(str(folder.path)):
        folder.json(RESULT, result)
        for table, rows in tables(subject, result).items():
            if rows:
                folder.csv(f"{table}.csv", rows)
        drawn = draw(folder, {name: result})
        folder.text("analysis.md", markdown(result, drawn))
    return result


def analyze_runs(
    paths: Sequence[str | Path],
    output: str | Path,
    overrides: Sequence[str] = (),
    *,
    state: Stage = "last",
    classes: Sequence[str | int] = (),
) -> dict[str, Analysis]:
    """Analyse each run with :func:`analyze_run`, and write a table and figures that show them side by side.

    Args:
        paths: Run folders.
        output: Folder of the comparison.
        overrides: Options of ``fedloge fit`` to change in every run.
        state: State of every run to analyse.
        classes: Names or numbers of the classes whose curves are shown for every run.

    Returns:
        The analyses by the name of the run; also the content of ``analysis.json`` in ``output``.

    Raises:
        FedlogeError: In the cases of :func:`analyze_run`, and if a run is given twice.
    """
    resolved = [Path(path).resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise RunError(f"{', '.join(map(str, paths))}: a run is given twice. Give every run once.")
    check_output(Path(output))
    asked = {"runs": list(map(str, resolved)), "overrides": list(overrides), "state": state, "classes": list(classes)}
    folder = open_output(Path(output), asked)
    results = [
        folder.part(str(number), partial(analyze_run, path, None, overrides, state=state, classes=classes))
        for number, path in enumerate(track(paths, "runs"))
    ]
    named = dict(zip(run_names(resolved), results, strict=True))
    with clear_os_errors(str(folder.path)):
        folder.json(RESULT, named)
        folder.csv("comparison.csv", [headline(name, result) for name, result in named.items()])
        drawn = draw(folder, named)
        folder.text("analysis.md", comparison_markdown(named, drawn))
    folder.finish()
    return named


def choose_classes(subject: Subject, asked: Sequence[str | int]) -> list[int]:
    """The classes whose curves are shown: those given by name or number, or the most frequent of each group.

    Raises:
        ConfigError: If there is no such class, or it has no test images.
    """
    names, counts = list(subject.class_names), subject.class_counts
    tested = set(subject.test.labels.tolist())
    if asked:
        chosen = [names.index(str(own)) if str(own) in names else _number(own, names) for own in asked]
        for own, c in zip(asked, chosen, strict=True):
            if c not in tested:
                raise ConfigError("class", own, "has no test images", "Choose another class.")
        return chosen
    members = {group: [c for c in sorted(tested) if subject.groups[c] == group] for group in SHOTS}
    return [max(own, key=lambda c: int(counts[c])) for own in members.values() if own]


def _number(asked: str | int, names: Sequence[str]) -> int:
    if str(asked).isdecimal() and int(asked) < len(names):
        return int(asked)
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise ConfigError("class", asked, "is neither the name nor the number of a class", f"The classes are {known}.")


def check_output(path: Path) -> None:
    """Require a folder that is new or empty, or that holds an older analysis; called before anything is computed.

    Raises:
        ConfigError: If the folder holds something else.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / RESULT).is_file() and not (path / PARTS).is_dir():
        raise ConfigError("output", str(path), "holds something other than an analysis", "Choose another --output.")


def open_output(path: Path, settings: Mapping[str, Any] | None = None) -> Output:
    """Create the folder, or reuse that of an older analysis; with settings, one that was stopped goes on.

    Raises:
        RunError: If the folder cannot be created.
    """
    return Output(str(path), overwrite=True, settings=settings)


def draw(folder: Output, results: Mapping[str, Analysis]) -> list[str]:
    """Draw every figure that has data; returns the names of the files."""
    drawn = []
    for name, figure_of in track(FIGURES.items(), "figures", len(FIGURES)):
        figure = figure_of(results)
        if figure is not None:
            folder.figure(f"{name}.png", figure, colours=256)
            drawn.append(f"{name}.png")
    return drawn


def tables(subject: Subject, result: Analysis) -> dict[str, list[dict[str, Any]]]:
    """The rows of the CSV files by name."""
    found = {
        "degeneration": list(_curve_rows(result["degeneration"]["curves"])),
        "classes": result["degeneration"]["classes"],
        "tsne": [
            {**facts, "x": x, "y": y}
            for facts, (x, y) in zip(result["tsne"]["classes"], result["tsne"]["points"], strict=True)
        ],
        "frames": [{"head": name, **row} for name, row in result["frames"].items()],
        "norms": list(_norm_rows(subject)),
        "collapse": [{"features": part, **result["collapse"][part]} for part in ("train", "test")],
    }
    if result["pruning"]:
        found["pruning"] = list(_pruning_rows(result["pruning"]))
    return found


def _curve_rows(curves: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    columns = ("coordinate", "mean", "variance", "relative", "masked")
    for curve in curves:
        for values in zip(*(curve[name] for name in columns), strict=True):
            yield {"class": curve["class"], "name": curve["name"], **dict(zip(columns, values, strict=True))}


def _pruning_rows(pruning: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for head, orders in pruning["heads"].items():
        for order, curves in orders.items():
            for i, ratio in enumerate(pruning["ratios"]):
                accuracies = {group: values[i] for group, values in curves.items()}
                yield {"head": head, "order": order, "ratio": ratio, **accuracies}


def _norm_rows(subject: Subject) -> Iterator[dict[str, Any]]:
    for name, head in subject.heads.items():
        for row in norm_rows(subject.class_counts, head.weight):
            yield {"head": name, "client": "", **row}
    for name in subject.client_heads:
        for client, rows in client_rows(subject, name):
            for row in rows:
                yield {"head": client_key(name), "client": client, **row}


def _tidy(content: Any) -> Any:
    """JSON values with seven digits, and None for numbers that are not finite."""
    return map_floats(content, lambda number: float(f"{number:.7g}") if math.isfinite(number) else None)
