"""The run folder: what a run writes, where, and how it is written.

Tensors are safetensors and everything else is text; nothing is pickled.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedloge.errors import RunError
from fedloge.evaluation.evaluator import Evaluation
from fedloge.state import ClientStore, FederatedState, SharedState

MARKER = "environment.json"
"""The first file that a run writes; a folder without it is not a run."""

Row = Mapping[str, Any]


class RunFolder:
    """A folder that belongs to one run.

    Args:
        path: Where it is, for example ``runs/quickstart``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def check_free(self, overwrite: bool) -> None:
        """Refuse to write over an older run, or over a folder that is no run at all.

        Raises:
            RunError: If the folder holds something and ``overwrite`` is off, or holds something other than a run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"trainer.run_dir={str(self.path)!r} is a file. Choose another --trainer.run_dir.")
        if not self.path.is_dir() or not any(self.path.iterdir()):
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
        try:
            if self.path.is_dir():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"trainer.run_dir={str(self.path)!r} cannot be written: {error.strerror}.") from error
        self.write_json(MARKER, {**environment(), **about})

    def require(self) -> RunFolder:
        """Raise a RunError unless the folder is a run; returns itself."""
        if not (self.path / MARKER).is_file():
            raise RunError(f"{str(self.path)!r} is not a run: it has no {MARKER}. Give the folder that fit wrote.")
        return self

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole: under a temporary name first, then renamed."""
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, self.path / name)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file; numbers that do not exist (nan) become null."""
        self.write_text(name, json.dumps(_without_nan(content), indent=2) + "\n")

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
        path = self.path / name
        known = self._columns(path)
        columns = list(dict.fromkeys([*known, *rows[0]]))
        if columns != known:
            self.write_text(name, _csv(columns, self.rows(name), header=True))
        with path.open("a", newline="", encoding="utf-8") as file:
            file.write(_csv(columns, rows))

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file, none where there is no such file."""
        path = self.path / name
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _columns(self, path: Path) -> list[str]:
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])

    # Checkpoints -------------------------------------------------------------------------------------------

    def save(self, name: str, state: FederatedState, about: Row) -> None:
        """Write a checkpoint into a folder of its own and swap it in place of the one before."""
        target, fresh, old = (self.path / "checkpoints" / f"{prefix}{name}" for prefix in ("", ".new-", ".old-"))
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        shared = {**state.shared.tensors, **state.shared.fixed}
        save_file(_savable(shared), fresh / "shared.safetensors")
        personal = {f"{k}/{entry}": tensor for k, own in enumerate(state.clients) for entry, tensor in own.items()}
        save_file(_savable(personal), fresh / "clients.safetensors")
        content = {
            "round": state.round,
            "num_clients": len(state.clients),
            "fixed": sorted(state.shared.fixed),
        }
        (fresh / "state.json").write_text(json.dumps({**content, **about}, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)

    def load(self, name: str) -> FederatedState:
        """Read a checkpoint.

        Raises:
            RunError: If it is missing, truncated or not a checkpoint.
        """
        folder = self.path / "checkpoints" / name
        about = RunFolder(folder).read_json("state.json")
        shared, personal = (_load(folder / f"{part}.safetensors") for part in ("shared", "clients"))
        clients: dict[int, dict[str, Tensor]] = {k: {} for k in range(about["num_clients"])}
        for key, tensor in personal.items():
            client, _, entry = key.partition("/")
            clients[int(client)][entry] = tensor
        fixed = {entry: shared.pop(entry) for entry in about["fixed"]}
        store = ClientStore(len(clients), clients.__getitem__)
        return FederatedState(about["round"], SharedState(shared, fixed), store)


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


def _savable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}.") from error


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
