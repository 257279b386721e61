"""Progress of many runs, live in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import track
from rich.table import Table as RichTable
from rich.text import Text

from fedloge.experiments.runner import Cell
from fedloge.markup import rich_text
from fedloge.report.progress import redraws
from fedloge.runs.locate import MARKER
from fedloge.runs.measures import HEADLINES, read_all
from fedloge.system.live import duration
from fedloge.tables import Table

T = TypeVar("T")


class CellProgress:
    """The live view of many runs; without a terminal, a line for each run that ended and each tenth of the rounds.

    Args:
        console: Output; standard output by default.
        rows: Heading of the rows' names.
        clock: Seconds of a clock.
    """

    def __init__(
        self, console: Console | None = None, rows: str = "method", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console, self.rows, self.clock = console or Console(), rows, clock
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._printed: set[tuple[str, int]] = set()
        self._start: tuple[float, float] | None = None
        self._tenths = 0

    def __enter__(self) -> CellProgress:
        if redraws(self.console):
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def update(self, cells: Sequence[Cell]) -> None:
        """Show the state of the cells."""
        share = sum(cell.share for cell in cells) / len(cells)
        left = self._left(share)
        if redraws(self.console):
            self._live.update(live_table(cells, self.rows, left), refresh=True)
            return
        ended = [cell for cell in cells if (cell.done or cell.error) and (cell.name, cell.seed) not in self._printed]
        for cell in ended:
            self._printed.add((cell.name, cell.seed))
            about = f"{len(self._printed)}/{len(cells)}  {cell.name}, seed {cell.seed}: "
            self.console.print(rich_text(about) + cell_status(cell) + rich_text(left))
        if int(10 * share) > self._tenths and not ended:
            self.console.print(
                rich_text(f"{len(self._printed)}/{len(cells)}  {share:.0%} of the rounds are done{left}")
            )
        self._tenths = int(10 * share)

    def _left(self, share: float) -> str:
        """The time left, at the pace since the start; empty while there is none."""
        now = self.clock()
        self._start = self._start or (now, share)
        since, before = self._start
        if share <= before or share == 1:
            return ""
        return f"; about {duration((now - since) * (1 - share) / (share - before))} left"


def live_table(cells: Sequence[Cell], rows: str = "method", left: str = "") -> RichTable:
    """State of every cell by name and seed: waiting, its round, its result, or failed."""
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    done = sum(cell.done for cell in cells)
    lines = []
    for name in dict.fromkeys(cell.name for cell in cells):
        by_seed = {cell.seed: cell_status(cell) for cell in cells if cell.name == name}
        lines.append([name, *(by_seed.get(seed, "") for seed in seeds)])
    title = f"{done} of {len(cells)} runs done{left}; GM / PM (%)"
    return Table(title, [rows, *(f"seed {seed}" for seed in seeds)], lines).rich(box=box.SIMPLE_HEAD)


def list_cells(cells: Sequence[Cell], console: Console) -> None:
    """Print the runs of a plan: state, name, seed and folder of each."""
    lines = [f"{len(cells)} runs, of which {sum(cell.done for cell in cells)} are done"]
    for cell in cells:
        state = "done" if cell.done else cell_status(cell).plain
        lines.append(f"  {state:<10} {cell.name}, seed {cell.seed}: {cell.run}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def counted(items: Sequence[T], what: str, console: Console) -> Iterator[T]:
    """Go through items and show how far that is; without a terminal, a line for each tenth."""
    if redraws(console):
        yield from track(items, what, console=console, transient=True)
        return
    for number, item in enumerate(items):
        yield item
        if 10 * (number + 1) // len(items) > 10 * number // len(items):
            console.print(rich_text(f"{what}: {number + 1}/{len(items)}"))


def cell_status(cell: Cell) -> Text:
    """State of a cell in a few words."""
    if cell.error:
        return rich_text("failed", "red")
    if cell.done:
        summary = cell.read("summary.json")
        found = (measure.text(read_all([summary], measure)) or "none" for measure in HEADLINES)
        return rich_text(" / ".join(found))
    if not cell.round:
        return rich_text("starting" if (cell.run / MARKER).is_file() else "waiting", "dim")
    return rich_text(f"round {cell.round}", "dim")
