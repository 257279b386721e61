"""The run folder: what a run writes, where, and how it is written.

Tensors are safetensors and everything else is text; nothing is pickled.
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedloge.errors import RunError
from fedloge.evaluation.evaluator import Evaluation
from fedloge.federation.state import ClientStore, FederatedState, SharedState
from fedloge.runs.locate import MARKER as MARKER
from fedloge.runs.locate import require_run
from fedloge.system.storage import (
    clear_os_errors,
    file_sha256,
    sync_folder,
    text_sha256,
    write_tensors,
    write_whole,
)

LOCK = ".lock"
LAST, PREVIOUS, FRESH = "last", "previous", ".new-"
TABLES = ("metrics.csv", "per_class.csv", "per_client.csv", "confusion.csv", "faults.csv", "profile.csv")

Row = Mapping[str, Any]


class RunFolder:
    """A folder that belongs to one run.

    Args:
        path: Where it is, for example ``runs/quickstart``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._sizes: dict[str, dict[str, Any]] = {}

    def check_free(self, overwrite: bool) -> None:
        """Refuse to write over an older run, or over a folder that is no run at all.

        Raises:
            RunError: If the folder holds something and ``overwrite`` is off, or holds something other than a run.
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

    def create(self, overwrite: bool, about: Row) -> None:
        """Make the folder, empty; an older run goes only now, when everything else has been checked.

        Args:
            overwrite: Replace an older run.
            about: Goes into ``environment.json`` beside versions and machine.
        """
        self.check_free(overwrite)
        self._sizes = {}
        with clear_os_errors(f"trainer.run_dir={str(self.path)!r}"):
            self.path.mkdir(parents=True, exist_ok=True)
            for path in self.path.iterdir():
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.write_json(MARKER, {**environment(), **about})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; the lock of a process that died is free.

        Raises:
            RunError: If another process has the folder, or it cannot be written.
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
            if new and not self._contents():  # nothing came of it: leave nothing
                shutil.rmtree(self.path, ignore_errors=True)
            lock.release()

    def _contents(self) -> list[Path]:
        """What is there besides the lock and a file that a process died over."""
        return [path for path in self.path.iterdir() if path.name != LOCK and not path.match(".*.tmp")]

    def require(self) -> RunFolder:
        """Raise a RunError unless the folder is a run; returns itself."""
        require_run(self.path)
        return self

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole: under a temporary name first, then renamed."""
        with clear_os_errors(str(self.path / name)):
            write_whole(self.path / name, text)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file; numbers that do not exist (nan) become null."""
        self.write_text(name, json.dumps(without_nan(content), indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object.

        Raises:
            RunError: If it is missing or malformed.
        """
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{str(self.path / name)!r} cannot be read: {error}.") from error
        if not isinstance(content, dict):
            raise RunError(f"{str(self.path / name)!r} does not hold a JSON object.")
        return content

    def append(self, name: str, rows: Sequence[Row]) -> None:
        """Append rows to a CSV file; a column that it does not have yet is added, empty in the rows before."""
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
        """The rows of a CSV file, none where there is no such file."""
        path = self.path / name
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def finished(self, rounds: int) -> bool:
        """Whether the run has its summary, of so many rounds."""
        return (self.path / "summary.json").is_file() and self.read_json("summary.json")["rounds"] == rounds

    def table_sizes(self) -> dict[str, dict[str, Any]]:
        """Columns and number of rows of every table there is, for :meth:`cut_tables`."""
        return {name: self._size(name) for name in TABLES if (self.path / name).exists()}

    def cut_tables(self, sizes: Mapping[str, Mapping[str, Any]]) -> None:
        """Bring the tables back to what they were when :meth:`table_sizes` was asked; a torn last row goes too.

        Raises:
            RunError: If rows were lost.
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

    # Checkpoints -------------------------------------------------------------------------------------------

    def save(self, name: str, state: FederatedState, about: Row) -> None:
        """Write a checkpoint whole, and swap it in place of the one before, which ``last`` keeps as ``previous``.

        At every moment there is a whole checkpoint that :meth:`newest` finds.

        Args:
            name: ``last`` or ``final``.
            state: What to save; clients are written one after the other.
            about: Goes into ``state.json``.

        Raises:
            RunError: If the disk is full or the folder read-only; the checkpoint before stays as it is.
        """
        folder = self.path / "checkpoints"
        target, fresh = folder / name, folder / f"{FRESH}{name}"
        with clear_os_errors(str(folder)):
            try:
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir(parents=True)
                _write_checkpoint(fresh, state, about)
                sync_folder(folder)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            old = folder / (PREVIOUS if name == LAST else f".old-{name}")
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                target.rename(old)
            fresh.rename(target)
            sync_folder(folder)
            if name != LAST:
                shutil.rmtree(old, ignore_errors=True)

    def newest(self) -> str | None:
        """The name of the newest checkpoint of the training, or None; it may be damaged.

        A save that a process died over is completed, if it was whole, or else removed.
        """
        folder = self.path / "checkpoints"
        fresh = folder / f"{FRESH}{LAST}"
        if (fresh / "state.json").is_file() and not (folder / LAST).exists():
            fresh.rename(folder / LAST)
        for leftover in (*folder.glob(f"{FRESH}*"), *folder.glob(".old-*")):
            shutil.rmtree(leftover)
        return next((name for name in (LAST, PREVIOUS) if (folder / name / "state.json").is_file()), None)

    def about(self, name: str) -> dict[str, Any]:
        """``state.json`` of a checkpoint, after checking it and every file it speaks of.

        Raises:
            RunError: If something is missing, truncated or altered, naming the file and the checkpoint before.
        """
        folder = self.path / "checkpoints" / name
        if not folder.is_dir():
            raise RunError(f"{str(self.path)!r} has no checkpoint {name!r}.")
        content = RunFolder(folder).read_json("state.json")
        expected, files = content.pop("sha256", None), content.get("files")
        if expected != text_sha256(content) or not isinstance(files, dict):
            raise RunError(f"{str(folder / 'state.json')!r} is damaged (its checksum differs). {self._offer(name)}")
        for file, checksum in files.items():
            path = folder / file
            if not path.is_file() or file_sha256(path) != checksum:
                problem = "is damaged (its checksum differs)" if path.is_file() else "is missing"
                raise RunError(f"{str(path)!r} {problem}. {self._offer(name)}")
        return content

    def load(self, name: str) -> FederatedState:
        """Read a checkpoint; clients are read when they are asked for.

        Raises:
            RunError: As :meth:`about`.
        """
        about, folder = self.about(name), self.path / "checkpoints" / name
        with _open(folder / "shared.safetensors") as file:
            shared = {entry: file.get_tensor(entry) for entry in file.keys()}  # noqa: SIM118 - not a mapping
        clients = _open(folder / "clients.safetensors")
        entries: dict[int, list[str]] = {}
        for key in clients.keys():  # noqa: SIM118
            client, _, entry = key.partition("/")
            entries.setdefault(int(client), []).append(entry)
        fixed = {entry: shared.pop(entry) for entry in about["fixed"]}
        own = lambda k: {entry: clients.get_tensor(f"{k}/{entry}") for entry in entries.get(k, ())}  # noqa: E731
        return FederatedState(about["round"], SharedState(shared, fixed), ClientStore(about["num_clients"], own))

    def _offer(self, damaged: str) -> str:
        """What to do about a damaged checkpoint."""
        if damaged != PREVIOUS:
            try:
                round = self.about(PREVIOUS)["round"]
            except RunError:
                pass
            else:
                return (
                    f"The one before, of round {round}, is whole: `fedloge resume {self.path} --checkpoint={PREVIOUS}`."
                )
        return "There is no other whole checkpoint: start the run again."


def environment() -> dict[str, Any]:
    """Versions, machine, threads, git commit and command, for ``environment.json``."""
    packages = ("fedloge", "torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")
    return {
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        "platform": platform.platform(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "command": sys.argv[1:],
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def class_rows(round: int, view: str, matrix: Tensor | None, names: Sequence[str], n_train: Sequence[int]) -> list[Row]:
    """Rows of ``per_class.csv`` for one view; none where the method has no such model."""
    if matrix is None:
        return []
    columns = zip(names, n_train, matrix.sum(1).tolist(), matrix.diagonal().tolist(), strict=True)
    return [
        {
            "round": round,
            "view": view,
            "class": c,
            "name": name,
            "n_train": int(train),
            "n_test": test,
            "accuracy": correct / test if test else math.nan,
        }
        for c, (name, train, test, correct) in enumerate(columns)
    ]


def client_rows(round: int, view: str, evaluation: Evaluation) -> list[Row]:
    """Rows of ``per_client.csv`` for one view."""
    return [
        {
            "round": round,
            "view": view,
            "client": score.client,
            "n_train": score.n_train,
            "n_test": score.n_test,
            "accuracy": score.accuracy,
            "macro_f1": score.macro_f1,
            "weighted_f1": score.weighted_f1,
        }
        for score in evaluation.clients
    ]


def confusion_rows(view: str, matrix: Tensor | None) -> list[Row]:
    """Rows of ``confusion.csv`` for one view, one for every non-zero cell of a confusion matrix [C, C]."""
    if matrix is None:
        return []
    cells = matrix.nonzero().tolist()
    return [{"view": view, "class": c, "predicted": p, "count": int(matrix[c, p])} for c, p in cells]


def _csv(columns: Sequence[str], rows: Sequence[Row], header: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns)
    if header:
        writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _write_checkpoint(folder: Path, state: FederatedState, about: Row) -> None:
    shared = dict(sorted({**state.shared.tensors, **state.shared.fixed}.items()))
    write_tensors(folder / "shared.safetensors", _shapes(shared), shared.values())
    shapes = {key: pair for k, own in enumerate(state.clients) for key, pair in _shapes(own, f"{k}/").items()}
    tensors = (own[name] for own in state.clients for name in sorted(own))
    write_tensors(folder / "clients.safetensors", shapes, tensors)
    content = {
        "round": state.round,
        "num_clients": len(state.clients),
        "fixed": sorted(state.shared.fixed),
        "files": {file: file_sha256(folder / file) for file in ("shared.safetensors", "clients.safetensors")},
        **about,
    }
    content = without_nan(content)
    write_whole(folder / "state.json", json.dumps({**content, "sha256": text_sha256(content)}, indent=2) + "\n")


def _shapes(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {prefix + name: (tensors[name].dtype, tensors[name].shape) for name in sorted(tensors)}


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}.") from error


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value


def without_nan(value: Any) -> Any:
    """A JSON value with null in place of numbers that do not exist."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
