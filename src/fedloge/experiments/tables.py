"""Values of finished runs by row and column, and what all reports of plans share."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fedloge.experiments.plan import Row
from fedloge.experiments.runner import Cell
from fedloge.report.tables import PRIVILEGES

Summary = Mapping[str, Any]

COLUMNS = {
    "GM": ("global", "acc"),
    "many": ("global", "acc_many"),
    "medium": ("global", "acc_medium"),
    "few": ("global", "acc_few"),
    "PM": ("personal", "acc_mean"),
    "worst tenth": ("personal", "acc_worst_decile"),
    "GM last 10": ("last10", "global", "mean"),
    "PM last 10": ("last10", "personal", "mean"),
    "GM best": ("best", "global", "value"),
    "PM best": ("best", "personal", "value"),
}
"""Accuracies of the tables, and where ``summary.json`` has them."""


@dataclass(frozen=True)
class Result:
    """What the finished runs of a row have in a table.

    Args:
        row: The row.
        values: A value per finished run by column; fewer where runs have none, empty if the method has no such model.
    """

    row: Row
    values: Mapping[str, Sequence[float]]

    def mean(self, column: str) -> float:
        """Mean over the runs."""
        return statistics.fmean(self.values[column])

    def deviation(self, column: str) -> float:
        """Sample standard deviation over the runs; 0 for a single one."""
        return statistics.stdev(self.values[column]) if len(self.values[column]) > 1 else 0.0


def read_summary(cell: Cell) -> dict[str, Any]:
    """``summary.json`` of a finished run."""
    summary: dict[str, Any] = json.loads((cell.run / "summary.json").read_text(encoding="utf-8"))
    return summary


def column_values(summaries: Iterable[Summary], path: Sequence[str]) -> list[float]:
    """The entry at ``path`` of each summary that has one."""
    found = []
    for summary in summaries:
        value: Any = summary
        for key in path:
            value = value.get(key) if value is not None else None
        if value is not None:
            found.append(value)
    return found


def mean_std(values: Sequence[float], form: str = ".6f") -> list[str]:
    """Mean and sample standard deviation as text, empty where there are too few values."""
    mean = format(statistics.fmean(values), form) if values else ""
    return [mean, format(statistics.stdev(values), form) if len(values) > 1 else ""]


def spread(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Mean ± sample standard deviation, in percent by default; without the deviation for a single value."""
    return " ± ".join(part for part in mean_std([scale * value for value in values], f".{digits}f") if part)


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines))


def write_csv(path: Path, head: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """A table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *lines])


def rich_table(head: Sequence[str], lines: Iterable[Sequence[str]], wrap: bool = False, **options: Any) -> Table:
    """A table for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, **options)
    for number, column in enumerate(head):
        table.add_column(column, justify="right" if number else "left", no_wrap=not wrap)
    for line in lines:
        table.add_row(*line)
    return table


def failures(cells: Iterable[Cell]) -> list[str]:
    """A line for each run that failed."""
    return [f"{cell.name}, seed {cell.seed}, failed: {cell.error} (see {cell.log})" for cell in cells if cell.error]


def partitions(summaries: Iterable[Summary]) -> str:
    """Checksums of the partitions of the data."""
    return ", ".join(sorted({summary["partition_sha256"][:12] for summary in summaries}))


def privileges(known: Mapping[str, Iterable[str]]) -> list[str]:
    """A note for each privileged knowledge of the methods."""
    return [f"Privileged knowledge: {name}: {PRIVILEGES[key]}." for name, keys in known.items() for key in keys]
