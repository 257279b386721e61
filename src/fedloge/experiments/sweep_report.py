"""What comes out of a sweep: ``sweep.csv``, ``sweep.md``, and a picture of GM and PM over its two parameters."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fedloge.experiments.runner import Cell
from fedloge.experiments.sweep import SEED, Sweep
from fedloge.experiments.tables import COLUMNS, column_values, percent, read_summary
from fedloge.runs.folder import RunFolder

SHOWN = ("GM", "many", "medium", "few", "PM", "worst tenth")
SYMBOLS = {"gamma": "γ", "beta": "β", "alpha": "α", "lam": "λ", "tau": "τ", "rho": "ρ"}
FULL = {"GM": "generic model (GM)", "PM": "personal models (PM)"}


def sweep_rows(sweep: Sweep, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row per setting: its ``settings``, the ``cells`` of its seeds, and their values of columns and metric."""
    by_name: dict[str, dict[str, Any]] = {}
    for cell, combination in zip(cells, sweep.combinations(), strict=True):
        settings = {name: value for name, value in combination if name != SEED}
        by_name.setdefault(cell.name, {"settings": settings, "cells": []})["cells"].append(cell)
    for row in by_name.values():
        done = [cell for cell in row["cells"] if cell.done]
        summaries = [read_summary(cell) for cell in done]
        row |= {column: column_values(summaries, COLUMNS[column]) for column in SHOWN}
        row["metric"] = [value for cell in done if (value := _last(cell, sweep.metric)) is not None]
        row["failed"] = "; ".join(f"seed {cell.seed}: {cell.error}" for cell in row["cells"] if cell.error)
    return list(by_name.values())


def best_row(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row with the best mean of the sweep's metric."""
    known = [row for row in rows if row["metric"]]
    choose = max if sweep.maximize else min
    return choose(known, key=lambda row: statistics.fmean(row["metric"])) if known else None


def write_sweep(sweep: Sweep, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Write the tables and the picture into the sweep's folder; returns the rows."""
    rows = sweep_rows(sweep, cells)
    sweep.output_dir.mkdir(parents=True, exist_ok=True)
    _write_csv(sweep.output_dir / "sweep.csv", rows)
    (sweep.output_dir / "sweep.md").write_text(sweep_markdown(sweep, rows), encoding="utf-8")
    plot_sweep(sweep, rows, sweep.output_dir / "sweep.png")
    return rows


def sweep_markdown(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    """The table with its notes."""
    head = _columns(rows)
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join('---' for _ in head)}|"]
    lines += [f"| {' | '.join(_line(row, rows))} |" for row in rows]
    notes = [
        "",
        "Last round, percent; mean ± standard deviation where there are several seeds.",
        best_note(sweep, rows),
    ]
    failed = [f"- {_name(row)}: {row['failed']}" for row in rows if row["failed"]]
    return "\n".join([*lines, *notes, *failed]) + "\n"


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The table for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, caption="last round (%)")
    for column in _columns(rows):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_line(row, rows))
    return table


def best_note(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    """Which setting was best, and what that is worth."""
    best = best_row(sweep, rows)
    if best is None:
        return f"No run has {sweep.metric}."
    value = statistics.fmean(best["metric"])
    return f"Best {sweep.metric}: {value:.4g} at {_name(best)}, chosen on the test set: optimistic."


def plot_sweep(sweep: Sweep, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """GM and PM over the first two parameters that vary, averaged over all else; over one, curves.

    Where the parameters have few values it is a heat map, otherwise a dot for each run.
    """
    varied = varied_parameters(rows)[:2]
    panels = [panel for panel in FULL if any(row[panel] for row in rows)]
    if not varied or not panels:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    discrete = all(parameter.values for parameter in sweep.parameters if parameter.name in varied)
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        points = [(row["settings"], 100 * statistics.fmean(row[panel])) for row in rows if row[panel]]
        if len(varied) == 1:
            _draw_curve(axes, varied[0], points)
        elif discrete:
            _draw_heat_map(axes, varied[0], varied[1], points, [row["settings"] for row in rows])
        else:
            _draw_dots(figure, axes, varied[0], varied[1], points)
        axes.set_title(f"{FULL[panel]}, accuracy (%)", fontsize=10)
    figure.savefig(path)


Settings = Mapping[str, Any]
Points = Sequence[tuple[Settings, float]]


def _draw_heat_map(axes: Any, down: str, across: str, points: Points, everything: Sequence[Settings]) -> None:
    ys, xs = (_ordered(dict.fromkeys(settings[name] for settings in everything)) for name in (down, across))
    ys = ys[::-1]
    found: dict[tuple[int, int], list[float]] = {}
    for settings, value in points:
        found.setdefault((ys.index(settings[down]), xs.index(settings[across])), []).append(value)
    means = {place: statistics.fmean(values) for place, values in found.items()}
    grid = [[means.get((y, x), float("nan")) for x in range(len(xs))] for y in range(len(ys))]
    low, high = min(means.values()), max(means.values())
    axes.imshow(grid, cmap="viridis", aspect="auto", vmin=low, vmax=high)
    for (y, x), value in means.items():
        dark = value <= low + 0.6 * (high - low)
        axes.text(x, y, f"{value:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=10)
    axes.set_xticks(range(len(xs)), map(str, xs))
    axes.set_yticks(range(len(ys)), map(str, ys))
    _label(axes, down, across)


def _label(axes: Any, down: str, across: str) -> None:
    axes.set_xlabel(_symbol(across))
    axes.set_ylabel(_symbol(down), rotation=0 if len(_symbol(down)) == 1 else 90)


def _draw_dots(figure: Any, axes: Any, down: str, across: str, points: Points) -> None:
    xs, ys = ([settings[name] for settings, _ in points] for name in (across, down))
    dots = axes.scatter(xs, ys, c=[value for _, value in points], cmap="viridis", s=60, edgecolors="grey")
    figure.colorbar(dots, ax=axes)
    _label(axes, down, across)
    for axis, values in (("x", xs), ("y", ys)):
        if _numbers(values) and min(values) > 0 and max(values) / min(values) > 10:
            getattr(axes, f"set_{axis}scale")("log")


def _draw_curve(axes: Any, name: str, points: Points) -> None:
    found: dict[Any, list[float]] = {}
    for settings, value in points:
        found.setdefault(settings[name], []).append(value)
    values = _ordered(found)
    places = values if _numbers(values) else list(map(str, values))
    axes.plot(places, [statistics.fmean(found[value]) for value in values], marker="o")
    axes.set_xlabel(_symbol(name))
    axes.grid(alpha=0.3)


def varied_parameters(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that have more than one value."""
    names = rows[0]["settings"] if rows else ()
    return [name for name in names if len({str(row["settings"][name]) for row in rows}) > 1]


def _ordered(values: Any) -> list[Any]:
    return sorted(values) if _numbers(values) else list(values)


def _numbers(values: Any) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _symbol(name: str) -> str:
    short = name.rpartition(".")[2]
    return SYMBOLS.get(short, short)


def _name(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in row["settings"].items()) or "the only setting"


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [*(_symbol(name) for name in (rows[0]["settings"] if rows else ())), *SHOWN]


def _line(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not any(cell.done for cell in row["cells"]):
        values = ["failed" if row["failed"] else "", *[""] * (len(SHOWN) - 1)]
    else:
        values = [percent(row[column]) for column in SHOWN]
    return [*map(str, row["settings"].values()), *values]


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        parts = [f"{column} {part}" for column in SHOWN for part in ("mean", "std")]
        writer.writerow([*(rows[0]["settings"] if rows else ()), "seeds", *parts, "failed"])
        for row in rows:
            numbers = [text for column in SHOWN for text in _mean_std(row[column])]
            seeds = sum(cell.done for cell in row["cells"])
            writer.writerow([*row["settings"].values(), seeds, *numbers, row["failed"]])


def _mean_std(values: Sequence[float]) -> tuple[str, str]:
    mean = f"{statistics.fmean(values):.6f}" if values else ""
    return mean, f"{statistics.stdev(values):.6f}" if len(values) > 1 else ""


def _last(cell: Cell, metric: str) -> float | None:
    known = [row[metric] for row in RunFolder(cell.run).rows("metrics.csv") if row.get(metric)]
    return float(known[-1]) if known else None
