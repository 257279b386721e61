"""Execution of many runs: each is a cell with its own folder and process; finished ones are skipped."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fedloge.config import given_options
from fedloge.errors import FedlogeError, RunError
from fedloge.options import Options, dump, meaning, read_mapping
from fedloge.system.interrupts import Interrupts, end_with_parent, forkserver_context, terminate_self
from fedloge.system.output import Lenient


@dataclass
class Cell:
    """One of many runs.

    Args:
        name: Name of its row, for example a method.
        seed: Run seed.
        options: Options of ``fedloge fit``, nested as in YAML; with a source, options of ``fedloge realign``.
        folder: Folder that holds the runs of the row.
        source: Cell whose trained run is realigned instead of training; None trains.
        error: One-line reason of a failure; None if there was none.
    """

    name: str
    seed: int
    options: Options
    folder: Path
    source: Cell | None = None
    error: str | None = field(default=None, compare=False)

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / f"seed-{self.seed}"

    @property
    def config(self) -> Path:
        """File of the options."""
        return self.folder / f"seed-{self.seed}.yaml"

    @property
    def log(self) -> Path:
        """File of the run's output."""
        return self.folder / f"seed-{self.seed}.log"

    @property
    def done(self) -> bool:
        """Whether the run is finished and did not fail."""
        return not self.error and (self.run / "summary.json").is_file()

    @property
    def share(self) -> float:
        """Evaluated part of the rounds; a run that ended has nothing left."""
        if self.done or self.error:
            return 1.0
        rounds = self.options.get("trainer", {}).get("rounds")
        return min(self.round / rounds, 1.0) if rounds else 0.0

    @property
    def round(self) -> int:
        """Last evaluated round; 0 if there is none."""
        metrics = self.run / "metrics.csv"
        last = metrics.read_text(encoding="utf-8").rstrip().rpartition("\n")[2] if metrics.is_file() else ""
        number = last.partition(",")[0]
        return int(number) if number.isdecimal() else 0

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the run folder."""
        content: dict[str, Any] = json.loads((self.run / name).read_text(encoding="utf-8"))
        return content

    def check(self) -> None:
        """Refuse to reuse a run that was made with other options.

        Raises:
            RunError: Naming an option in which the existing run differs.
        """
        if not self.run.exists():
            return
        old, new = meaning(read_mapping(self.config, "options")) if self.config.is_file() else {}, meaning(self.options)
        if old and old != new and self.source is None:
            with suppress(FedlogeError):  # it may be spelled otherwise
                old = meaning(given_options(["--config", str(self.config)]))
        differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if differing:
            key = differing[0]
            raise RunError(
                f"{str(self.run)!r} was run with other options ({key}: {old.get(key)!r} there, {new.get(key)!r} now; "
                f"{len(differing)} differ). Choose another --output_dir, or delete that folder to run it again."
            )


def run_cells(
    cells: Sequence[Cell], jobs: int | None = None, on_change: Callable[[Sequence[Cell]], None] = lambda cells: None
) -> None:
    """Run the cells that are not done in processes of their own; interrupted runs resume.

    A failed cell keeps the last line of its log as its ``error`` and does not stop the others. A cell that realigns
    another's run waits for it.

    Args:
        cells: Cells in the order of execution.
        jobs: Number of processes at the same time; None starts one per core.
        on_change: Called with the cells several times a second.

    Raises:
        RunError: If a cell's run exists and was made with other options.
    """
    from fedloge.system.storage import clear_os_errors, write_whole

    for cell in cells:
        cell.check()
    jobs = jobs or os.cpu_count() or 1
    start = _context()
    waiting = [cell for cell in cells if not cell.done]
    running: list[tuple[Cell, BaseProcess]] = []
    try:
        while waiting or running:
            for cell in [cell for cell in waiting if cell.source and cell.source.error]:
                waiting.remove(cell)
                cell.error = "the run that it realigns failed"
            ready = [cell for cell in waiting if cell.source is None or cell.source.done]
            for cell in ready[: jobs - len(running)]:
                waiting.remove(cell)
                with clear_os_errors(str(cell.folder)):
                    cell.folder.mkdir(parents=True, exist_ok=True)
                    write_whole(cell.config, dump(cell.options))
                process = start(target=_in_child, args=(cell,))
                process.start()
                running.append((cell, process))
            wait([process.sentinel for _, process in running], timeout=0.5)
            for cell, process in [pair for pair in running if not pair[1].is_alive()]:
                running.remove((cell, process))
                cell.error = None if process.exitcode == 0 else _last_line(cell.log)
            on_change(cells)
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.join()


def _context() -> Callable[..., BaseProcess]:
    """Constructor of processes; where the platform can fork, they start with torch already imported."""
    constructor: Callable[..., BaseProcess] = forkserver_context(["fedloge.runs.run"]).Process
    return constructor


def fit_cell(cell: Cell) -> None:
    """Train a cell's run, or resume it from its newest checkpoint."""
    from fedloge.runs.run import fit_run

    fit_run(["--config", str(cell.config), f"--trainer.run_dir={cell.run}", "--report=false"], "last")


def realign_cell(cell: Cell) -> None:
    """Realign the run of a cell's source; an unfinished realignment is discarded first."""
    from fedloge.runs.run import realign_run

    assert cell.source is not None
    if cell.run.exists():
        shutil.rmtree(cell.run)
    realign_run(cell.source.run, cell.options, str(cell.run))


def _in_child(cell: Cell) -> None:
    end_with_parent(terminate_self)
    with Interrupts(), cell.log.open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = Lenient(log)
        try:
            realign_cell(cell) if cell.source else fit_cell(cell)
        except BaseException as error:
            if isinstance(error, FedlogeError):
                print(error)
            elif isinstance(error, KeyboardInterrupt):
                print(f"interrupted; {str(error) or 'what was saved until then is kept'}")
            elif not isinstance(error, SystemExit):
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(1)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "the process was killed"
