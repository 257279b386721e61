"""Results of a sweep: ``sweep.csv``, ``sweep.md``, and ``sweep.png`` with GM and PM over its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.table import Table as RichTable

from fedloge.experiments import tables
from fedloge.experiments.figures import sweep_figure, symbol
from fedloge.experiments.sweep import Sweep
from fedloge.experiments.tables import Row
from fedloge.plotting import png
from fedloge.runs.measures import GENERIC, PM, WORST_TENTH, chosen_on
from fedloge.tables import Table

SHOWN = (*GENERIC, PM, WORST_TENTH)
METRIC = "metric"


def sweep_rows(sweep: Sweep) -> list[Row]:
    """Rows with the values of each setting, and those of the sweep's metric."""
    rows = []
    for row in sweep.rows:
        metric = tables.last_values(row, sweep.metric)
        values = row.measured(row.summaries, SHOWN).values
        rows.append(replace(row, values={**values, METRIC: metric}))
    return rows


def write_sweep(sweep: Sweep) -> list[Row]:
    """Write the tables and the picture into the sweep's folder; returns the rows with their values."""
    rows = sweep_rows(sweep)
    head = [*_parameters(rows), "seeds", *tables.csv_head(SHOWN), "failed"]
    lines = [[*row.options.values(), len(row.done), *tables.csv_values(row, SHOWN), row.failed] for row in rows]
    figure = sweep_figure(sweep, rows)
    picture = png(figure, dpi=110) if figure is not None else None
    tables.write(sweep.output_dir, "sweep", Table("", head, lines), sweep_markdown(sweep, rows), picture)
    return rows


def sweep_markdown(sweep: Sweep, rows: Sequence[Row]) -> str:
    """The table with its notes."""
    notes = [
        "Last round, percent; mean ± standard deviation where there are several seeds.",
        best_note(sweep, rows),
        *(f"- {_name(row)}: {row.failed}" for row in rows if row.failed),
    ]
    return "\n".join([_table(rows).markdown(), "", *notes]) + "\n"


def sweep_table(rows: Sequence[Row]) -> RichTable:
    """The table for a terminal."""
    return _table(rows).rich("last round (%)", box=box.SIMPLE_HEAD)


def best_note(sweep: Sweep, rows: Sequence[Row]) -> str:
    """The setting with the best mean of the sweep's metric."""
    known = [row for row in rows if row.values[METRIC]]
    if not known:
        return f"No run has {sweep.metric}."
    best = (max if sweep.maximize else min)(known, key=lambda row: row.mean(METRIC))
    value = best.mean(METRIC)
    return f"Best {sweep.metric}: {value:.4g} at {_name(best)}, {chosen_on(sweep.metric)}."


def _table(rows: Sequence[Row]) -> Table:
    head = [symbol(name) for name in _parameters(rows)]
    return tables.table(rows, SHOWN, head, lambda row: list(map(str, row.options.values())))


def _parameters(rows: Sequence[Row]) -> list[str]:
    return list(rows[0].options) if rows else []


def _name(row: Row) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.options.items()) or "the only setting"
