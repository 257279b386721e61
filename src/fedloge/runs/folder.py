"""The files of a run folder. Tensors are stored as safetensors and everything else as text; nothing is pickled."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedloge.checks import check_choice
from fedloge.errors import RunError
from fedloge.runs.checkpoint import LAST, Checkpoints
from fedloge.runs.environment import environment
from fedloge.runs.locate import MARKER, require_run
from fedloge.system.storage import clear_os_errors, read_json, without_nan, write_whole

LOCK = ".lock"
TABLES = ("metrics.csv", "per_class.csv", "per_client.csv", "confusion.csv", "faults.csv", "profile.csv")

Row = Mapping[str, Any]


class RunFolder:
    """The folder of one run.

    Args:
        path: Path of the folder, for example ``runs/quickstart``.

    Attributes:
        path: Path of the folder.
        checkpoints: Checkpoints in the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path)
        self._sizes: dict[str, dict[str, Any]] = {}

    def check_free(self, overwrite: bool) -> None:
        """Refuse to overwrite an earlier run, or a folder that is not a run.

        Raises:
            RunError: If the folder holds files that are not a run, or a run and ``overwrite`` is off.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"trainer.run_dir={str(self.path)!r} is a file. Choose another --trainer.run_dir.")
        if not self.path.is_dir() or not self._contents():
            return
        if not (self.path / MARKER).is_file():
            raise RunError(
                f"trainer.run_dir={str(self.path)!r} holds files but is not a run (no {MARKER}), so it is left alone. "
                "Choose another --trainer.run_dir."
            )
        if not overwrite:
            raise RunError(
                f"trainer.run_dir={str(self.path)!r} already holds a run. Choose another --trainer.run_dir, or pass "
                "--trainer.overwrite=true to replace it."
            )

    def create(self, overwrite: bool, info: Row) -> None:
        """Create the folder and its ``environment.json``, deleting an earlier run; call it after all other checks.

        Args:
            overwrite: Replace an earlier run.
            info: Further entries of ``environment.json``, beside versions and machine.
        """
        self.check_free(overwrite)
        self._sizes = {}
        with clear_os_errors(f"trainer.run_dir={str(self.path)!r}"):
            self.path.mkdir(parents=True, exist_ok=True)
            for path in self.path.iterdir():
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.write_json(MARKER, {**environment(), **info})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder; the lock of a dead process is free.

        Raises:
            RunError: If another process holds the lock, or the folder cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"trainer.run_dir={str(self.path)!r} is a file. Choose another --trainer.run_dir.")
        new = not self.path.exists()
        with clear_os_errors(f"trainer.run_dir={str(self.path)!r}"):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise RunError(
                    f"trainer.run_dir={str(self.path)!r} is in use by another process. Wait for it, or choose another "
                    "--trainer.run_dir."
                ) from error
        try:
            yield
        finally:
            if new and not self._contents():  # the run never began: leave no trace
                shutil.rmtree(self.path, ignore_errors=True)
            lock.release()

    def _contents(self) -> list[Path]:
        """Files besides the lock and temporary files that a killed process left."""
        return [path for path in self.path.iterdir() if path.name != LOCK and not path.match(".*.tmp")]

    def require(self) -> RunFolder:
        """Raise a RunError unless the folder is a run; returns itself."""
        require_run(self.path)
        return self

    def write_text(self, name: str, text: str) -> None:
        """Write a text file under a temporary name, then rename it."""
        with clear_os_errors(str(self.path / name)):
            write_whole(self.path / name, text)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file with null in place of nan."""
        self.write_text(name, json.dumps(without_nan(content), indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object.

        Raises:
            RunError: If it is missing or malformed.
        """
        return read_json(self.path / name)

    def append(self, name: str, rows: Sequence[Row]) -> None:
        """Append rows to a CSV file; a new column is added, empty in the earlier rows."""
        if not rows:
            return
        path, known = self.path / name, self._size(name)
        columns = list(dict.fromkeys([*known["columns"], *rows[0]]))
        if columns != known["columns"]:
            self.write_text(name, _csv(columns, self.rows(name), header=True))
        with clear_os_errors(str(path)), path.open("a", newline="", encoding="utf-8") as file:
            file.write(_csv(columns, rows))
        self._sizes[name] = {"columns": columns, "rows": known["rows"] + len(rows)}

    def rows(self, name: str) -> list[dict[str, str]]:
        """Rows of a CSV file; none if it does not exist."""
        path = self.path / name
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def find_checkpoint(self, asked: str | None) -> str | None:
        """Name of the checkpoint to resume from, the newest for ``last``; None starts the run.

        Raises:
            ConfigError: If it is neither ``last`` nor ``previous``.
        """
        check_choice("ckpt_path", asked, (None, LAST, "previous"))
        if asked is None or not (self.path / MARKER).is_file():
            return None
        newest = self.checkpoints.newest()
        return newest if asked == LAST else asked

    def finished(self, rounds: int) -> bool:
        """Whether the run has a summary of this number of rounds."""
        return (self.path / "summary.json").is_file() and self.read_json("summary.json")["rounds"] == rounds

    def table_sizes(self) -> dict[str, dict[str, Any]]:
        """Columns and number of rows of every existing table, for :meth:`cut_tables`."""
        return {name: self._size(name) for name in TABLES if (self.path / name).exists()}

    def cut_tables(self, sizes: Mapping[str, Mapping[str, Any]]) -> None:
        """Cut the tables back to earlier :meth:`table_sizes`; an incomplete last row is removed too.

        Raises:
            RunError: If a table has fewer rows than that.
        """
        self._sizes = {}
        for name in TABLES:
            if name not in sizes:
                (self.path / name).unlink(missing_ok=True)
                continue
            columns, count = sizes[name]["columns"], sizes[name]["rows"]
            rows = self.rows(name)[:count]
            if len(rows) < count:
                raise RunError(f"{str(self.path / name)!r} has lost rows: {len(rows)} are left of {count}.")
            self.write_text(name, _csv(columns, [{key: row[key] for key in columns} for row in rows], header=True))

    def _size(self, name: str) -> dict[str, Any]:
        if name not in self._sizes:
            path = self.path / name
            self._sizes[name] = {"columns": self._columns(path), "rows": len(self.rows(name))}
        return self._sizes[name]

    def _columns(self, path: Path) -> list[str]:
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])


def _csv(columns: Sequence[str], rows: Sequence[Row], header: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns)
    if header:
        writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value
