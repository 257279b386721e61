"""Rows with the values of their finished runs, and the tables and files that are made of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedloge.experiments.runner import Cell
from fedloge.report.tables import PRIVILEGES
from fedloge.runs.folder import RunFolder
from fedloge.runs.measures import CostPerRound, Measure, Summary, mean_std, read_all
from fedloge.system.storage import clear_os_errors
from fedloge.tables import Table


@dataclass(frozen=True)
class Row:
    """A row of a plan's table, in one setting.

    Args:
        name: Name in the table.
        cells: Runs, one per seed; none where nothing is trained.
        setting: Name of the setting; empty if the plan has only one.
        options: What distinguishes the row: arguments of its method, or values of a sweep's parameters.
        printed: Values that the paper prints, by measure.
        values: A value per finished run by measure; empty if the method has no such model.
    """

    name: str
    cells: Sequence[Cell] = ()
    setting: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    printed: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def done(self) -> list[Cell]:
        """The finished runs."""
        return [cell for cell in self.cells if cell.done]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """``summary.json`` of the finished runs."""
        return [cell.read("summary.json") for cell in self.done]

    @property
    def failed(self) -> str:
        """Errors of the runs by seed, empty if none failed."""
        return "; ".join(f"seed {cell.seed}: {cell.error}" for cell in self.cells if cell.error)

    def measured(self, summaries: Sequence[Summary], measures: Iterable[Measure]) -> Row:
        """The row with values from the summaries of its finished runs, or from parts of them."""
        return replace(self, values={measure.key: read_all(summaries, measure) for measure in measures})

    def mean(self, key: str) -> float:
        """Mean of a measure over the runs."""
        return statistics.fmean(self.values[key])

    def text(self, measure: Measure) -> str:
        """Our value and in parentheses the paper's, such as ``43.5 ± 0.3 (43.50)``; or why there is none."""
        ours, printed, seeds = self.values.get(measure.key), self.printed.get(measure.key), len(self.cells)
        if ours is None:
            return ""
        if ours:
            text = measure.text([self.mean(measure.key)] if isinstance(measure, CostPerRound) else ours)
            text += f", {len(ours)} of {seeds} seeds" if len(ours) < seeds else ""
        else:
            complete = any(not cell.error for cell in self.done)
            text = "none" if complete else "failed" if self.failed else ""
        if printed is None:
            return text
        return f"{text} ({100 * printed:.2f})" if is_share(measure) else f"{text} ({printed:g})"


def last_values(row: Row, column: str) -> list[float]:
    """The last value of a column of ``metrics.csv`` of each finished run that has it."""
    columns = [
        [line[column] for line in RunFolder(cell.run).rows("metrics.csv") if line.get(column)] for cell in row.done
    ]
    return [float(values[-1]) for values in columns if values]


def is_share(measure: Measure) -> bool:
    """Whether a measure is shown in percent."""
    return measure.scale == 100


def table(
    rows: Sequence[Row], measures: Sequence[Measure], head: Sequence[str], label: Callable[[Row], Sequence[str]]
) -> Table:
    """A line per label, and for each setting of its rows a column per measure.

    Args:
        rows: Rows with their values.
        measures: Measures to show.
        head: Headings of the labels.
        label: Labels of a row, one per heading.
    """
    by_place = {(tuple(label(row)), row.setting): row for row in rows}
    labels = dict.fromkeys(tuple(label(row)) for row in rows)
    places = [(setting, measure) for setting in dict.fromkeys(row.setting for row in rows) for measure in measures]
    lines = [[*each, *(by_place[each, setting].text(measure) for setting, measure in places)] for each in labels]
    columns = [*head, *(column_name(setting, measure.key) for setting, measure in places)]
    return Table("", columns, lines, names=len(head))


def write(folder: Path, name: str, values: Table, markdown: str, picture: bytes | None = None) -> Path:
    """Write ``NAME.csv``, ``NAME.md`` and, if there is a picture, ``NAME.png``; returns the path of ``NAME.md``.

    Raises:
        RunError: If the folder cannot be written.
    """
    path = folder / f"{name}.md"
    with clear_os_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".csv").write_text(values.csv(), encoding="utf-8", newline="")
        path.write_text(markdown, encoding="utf-8")
        if picture is not None:
            path.with_suffix(".png").write_bytes(picture)
    return path


def column_name(setting: str, column: str) -> str:
    """Heading of a column in a setting."""
    return f"{setting}: {column}" if setting else column


def csv_head(measures: Iterable[Measure]) -> list[str]:
    """Headings of :func:`csv_values`."""
    return [f"{measure.key} {part}" for measure in measures for part in ("mean", "std")]


def csv_values(row: Row, measures: Iterable[Measure]) -> list[str]:
    """Mean and sample standard deviation of each measure, empty where there are too few values."""
    scales = {measure.key: 1 if is_share(measure) else measure.scale for measure in measures}
    pairs = (mean_std([scale * value for value in row.values.get(key, ())]) for key, scale in scales.items())
    return ["" if math.isnan(number) else f"{number:.6f}" for pair in pairs for number in pair]


def failures(cells: Iterable[Cell]) -> list[str]:
    """A line for each run that failed."""
    return [f"{cell.name}, seed {cell.seed}, failed: {cell.error} (see {cell.log})" for cell in cells if cell.error]


def partitions(summaries: Iterable[Summary]) -> str:
    """Checksums of the partitions of the data."""
    return ", ".join(sorted({summary["partition_sha256"][:12] for summary in summaries}))


def privileges(known: Mapping[str, Iterable[str]]) -> list[str]:
    """A note for each privileged knowledge of the methods."""
    return [f"Privileged knowledge: {name}: {PRIVILEGES[key]}." for name, keys in known.items() for key in keys]
