"""Progress of many runs, live in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from fedloge.experiments.runner import Cell
from fedloge.markup import rich_text
from fedloge.report.progress import redraws
from fedloge.runs.measures import HEADLINES, read_all
from fedloge.tables import Table


class CellProgress:
    """The live view of many runs; without a terminal, a line for each finished run.

    Args:
        console: Output; standard output by default.
        rows: Heading of the rows' names.
    """

    def __init__(self, console: Console | None = None, rows: str = "method") -> None:
        self.console, self.rows = console or Console(), rows
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._printed: set[tuple[str, int]] = set()

    def __enter__(self) -> CellProgress:
        if redraws(self.console):
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def update(self, cells: Sequence[Cell]) -> None:
        """Show the state of the cells."""
        if redraws(self.console):
            self._live.update(live_table(cells, self.rows), refresh=True)
            return
        for cell in cells:
            key = cell.name, cell.seed
            if (cell.done or cell.error) and key not in self._printed:
                self._printed.add(key)
                about = f"{len(self._printed)}/{len(cells)}  {cell.name}, seed {cell.seed}: "
                self.console.print(rich_text(about) + cell_status(cell))


def live_table(cells: Sequence[Cell], rows: str = "method") -> RichTable:
    """State of every cell by name and seed: waiting, its round, its result, or failed."""
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    done = sum(cell.done for cell in cells)
    lines = []
    for name in dict.fromkeys(cell.name for cell in cells):
        by_seed = {cell.seed: cell_status(cell) for cell in cells if cell.name == name}
        lines.append([name, *(by_seed.get(seed, "") for seed in seeds)])
    title = f"{done} of {len(cells)} runs done; GM / PM (%)"
    return Table(title, [rows, *(f"seed {seed}" for seed in seeds)], lines).rich(box=box.SIMPLE_HEAD)


def cell_status(cell: Cell) -> Text:
    """State of a cell in a few words."""
    if cell.error:
        return rich_text("failed", "red")
    if cell.done:
        summary = cell.read("summary.json")
        found = (measure.text(read_all([summary], measure)) or "none" for measure in HEADLINES)
        return rich_text(" / ".join(found))
    metrics = cell.run / "metrics.csv"
    if not metrics.is_file():
        return rich_text("starting" if (cell.run / "environment.json").is_file() else "waiting", "dim")
    last = metrics.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    return rich_text(f"round {last.partition(',')[0]}", "dim")
