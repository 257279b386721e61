"""One table type, written as Markdown, as CSV, or for a terminal."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedloge.markup import markdown_text, rich_text

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """A table; the caller formats numbers.

    Args:
        title: Title; may be empty.
        columns: Name of each column.
        rows: Cells of each row, written with ``str``; for a terminal a cell may be a ``Text`` of rich.
        names: Number of leading columns that hold words and are aligned left; the others hold numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    names: int = 1

    def markdown(self) -> str:
        """Markdown, without a newline at the end; the title is a heading of level two."""
        line = ["---" if i < self.names else "---:" for i in range(len(self.columns))]
        head, *rows = ([markdown_text(cell) for cell in row] for row in (self.columns, *self.rows))
        text = "\n".join(f"| {' | '.join(row)} |" for row in (head, line, *rows))
        return f"## {markdown_text(self.title)}\n\n{text}" if self.title else text

    def csv(self, end: str = "\r\n") -> str:
        """Comma-separated values without the title; ``end`` ends each line."""
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator=end).writerows([self.columns, *self.rows])
        return text.getvalue()

    def rich(self, caption: str | None = None, *, wrap: bool = False, **options: Any) -> RichTable:
        """A table for rich.

        Args:
            caption: Text below the table.
            wrap: Whether cells that do not fit are wrapped, not cut.
            options: Further arguments of ``rich.table.Table``.
        """
        from rich.table import Table as RichTable

        title = rich_text(self.title, "table.title") if self.title else None
        below = rich_text(caption, "table.caption") if caption else None
        table = RichTable(title=title, caption=below, **options)
        for i, column in enumerate(self.columns):
            table.add_column(rich_text(column), justify="left" if i < self.names else "right", no_wrap=not wrap)
        for row in self.rows:
            table.add_row(*map(rich_text, row))
        return table


def from_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table of rows with the same keys, at least one; :func:`cell` formats the values."""
    words = [isinstance(value, str) and not value[:1].isdigit() for value in rows[0].values()]
    names = next((i for i, word in enumerate(words) if not word), len(words))
    return Table(title, list(rows[0]), [[cell(value) for value in row.values()] for row in rows], names)


def cell(value: Any) -> str:
    """Text of a cell: floats with four decimals, or in scientific notation; nan and None give an empty cell."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if math.isnan(value):
        return ""
    return f"{value:.1e}" if value and not 1e-3 <= abs(value) < 1e4 else f"{value:.4f}"


def print_table(title: str, rows: Sequence[Mapping[str, Any]], caption: str | None = None) -> None:
    """Print rows with the same keys as a table; 200 columns wide where the output is not a terminal."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(from_rows(title, rows).rich(caption, wrap=True))
