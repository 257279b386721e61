"""Results of a sweep: ``sweep.csv``, ``sweep.md``, and ``sweep.png`` with GM and PM over its parameters."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table as RichTable

from fedloge.experiments import tables
from fedloge.experiments.figures import sweep_figure, symbol
from fedloge.experiments.runner import Cell
from fedloge.experiments.sweep import Sweep
from fedloge.experiments.tables import Result
from fedloge.runs.folder import RunFolder
from fedloge.runs.measures import GENERIC, PM, WORST_TENTH
from fedloge.tables import Table

SHOWN = (*GENERIC, PM, WORST_TENTH)
METRIC = "metric"


def sweep_results(sweep: Sweep) -> list[Result]:
    """Results of each setting, with the values of the sweep's metric."""
    results = []
    for row in sweep.rows:
        result = Result.read(row, row.summaries, SHOWN)
        metric = [value for cell in row.done if (value := _last(cell, sweep.metric)) is not None]
        results.append(Result(row, {**result.values, METRIC: metric}))
    return results


def _last(cell: Cell, metric: str) -> float | None:
    """The last value of a column of ``metrics.csv``."""
    known = [row[metric] for row in RunFolder(cell.run).rows("metrics.csv") if row.get(metric)]
    return float(known[-1]) if known else None


def write_sweep(sweep: Sweep) -> list[Result]:
    """Write the tables and the picture into the sweep's folder; returns the results."""
    results, folder = sweep_results(sweep), sweep.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    head = [*_parameters(results), "seeds", *tables.csv_head(SHOWN), "failed"]
    lines = [
        [*row.options.values(), len(row.done), *tables.csv_values(result, SHOWN), row.failed]
        for result in results
        for row in [result.row]
    ]
    (folder / "sweep.csv").write_text(Table("", head, lines).csv(), encoding="utf-8", newline="")
    (folder / "sweep.md").write_text(sweep_markdown(sweep, results), encoding="utf-8")
    figure = sweep_figure(sweep, results)
    if figure is not None:
        figure.savefig(folder / "sweep.png", dpi=110)
    return results


def sweep_markdown(sweep: Sweep, results: Sequence[Result]) -> str:
    """The table with its notes."""
    notes = [
        "Last round, percent; mean ± standard deviation where there are several seeds.",
        best_note(sweep, results),
        *(f"- {_name(result)}: {result.row.failed}" for result in results if result.row.failed),
    ]
    return "\n".join([_table(results).markdown(), "", *notes]) + "\n"


def sweep_table(results: Sequence[Result]) -> RichTable:
    """The table for a terminal."""
    return _table(results).rich("last round (%)", box=box.SIMPLE_HEAD)


def best_note(sweep: Sweep, results: Sequence[Result]) -> str:
    """The setting with the best mean of the sweep's metric."""
    known = [result for result in results if result.values[METRIC]]
    if not known:
        return f"No run has {sweep.metric}."
    best = (max if sweep.maximize else min)(known, key=lambda result: result.mean(METRIC))
    value = best.mean(METRIC)
    return f"Best {sweep.metric}: {value:.4g} at {_name(best)}, chosen on the test set: optimistic."


def _table(results: Sequence[Result]) -> Table:
    head = [symbol(name) for name in _parameters(results)]
    return tables.table(results, SHOWN, head, lambda row: list(map(str, row.options.values())))


def _parameters(results: Sequence[Result]) -> list[str]:
    return list(results[0].row.options) if results else []


def _name(result: Result) -> str:
    return ", ".join(f"{name}={value}" for name, value in result.row.options.items()) or "the only setting"
