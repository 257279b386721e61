"""Values of finished runs by row and column, and the tables that are made of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedloge.experiments.plan import Row
from fedloge.experiments.runner import Cell
from fedloge.report.tables import PRIVILEGES
from fedloge.runs.measures import CostPerRound, Measure, Summary, mean_std, read_all
from fedloge.tables import Table


@dataclass(frozen=True)
class Result:
    """What the finished runs of a row have in a table.

    Args:
        row: The row.
        values: A value per finished run by column; empty if the method has no such model.
    """

    row: Row
    values: Mapping[str, Sequence[float]]

    @classmethod
    def read(cls, row: Row, summaries: Sequence[Summary], measures: Iterable[Measure]) -> Result:
        """Values from the summaries of a row's finished runs, or from parts of them."""
        return cls(row, {measure.key: read_all(summaries, measure) for measure in measures})

    def mean(self, column: str) -> float:
        """Mean over the runs."""
        return statistics.fmean(self.values[column])

    def text(self, measure: Measure) -> str:
        """Our value and in parentheses the paper's, such as ``43.5 ± 0.3 (43.50)``; or why there is none."""
        ours, printed, seeds = self.values.get(measure.key), self.row.printed.get(measure.key), len(self.row.cells)
        if ours is None:
            return ""
        if ours:
            text = measure.text([self.mean(measure.key)] if isinstance(measure, CostPerRound) else ours)
            text += f", {len(ours)} of {seeds} seeds" if len(ours) < seeds else ""
        else:
            complete = any(not cell.error for cell in self.row.done)
            text = "none" if complete else "failed" if self.row.failed else ""
        if printed is None:
            return text
        return f"{text} ({100 * printed:.2f})" if is_share(measure) else f"{text} ({printed:g})"


def is_share(measure: Measure) -> bool:
    """Whether a measure is shown in percent."""
    return measure.scale == 100


def table(
    results: Sequence[Result], measures: Sequence[Measure], head: Sequence[str], label: Callable[[Row], Sequence[str]]
) -> Table:
    """A line per row, and for each of its settings a column per measure.

    Args:
        results: Results of the rows.
        measures: Measures to show.
        head: Headings of the labels.
        label: Labels of a row, one per heading.
    """
    by_place = {(tuple(label(result.row)), result.row.setting): result for result in results}
    labels = dict.fromkeys(tuple(label(result.row)) for result in results)
    places = [(each, m) for each in dict.fromkeys(result.row.setting for result in results) for m in measures]
    lines = [[*each, *(by_place[each, setting].text(measure) for setting, measure in places)] for each in labels]
    columns = [*head, *(column_name(setting, measure.key) for setting, measure in places)]
    return Table("", columns, lines, names=len(head))


def column_name(setting: str, column: str) -> str:
    """Heading of a column in a setting."""
    return f"{setting}: {column}" if setting else column


def csv_head(measures: Iterable[Measure]) -> list[str]:
    """Headings of :func:`csv_values`."""
    return [f"{measure.key} {part}" for measure in measures for part in ("mean", "std")]


def csv_values(result: Result, measures: Iterable[Measure]) -> list[str]:
    """Mean and sample standard deviation of each measure, empty where there are too few values."""
    scales = {measure.key: 1 if is_share(measure) else measure.scale for measure in measures}
    pairs = (mean_std([scale * value for value in result.values.get(key, ())]) for key, scale in scales.items())
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
