"""Checkpoints of a run: written whole, verified by checksums, and read without unpickling anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedloge.errors import RunError
from fedloge.federation.state import ClientStore, FederatedState, SharedState
from fedloge.system.storage import (
    clear_os_errors,
    file_sha256,
    read_json,
    sync_folder,
    text_sha256,
    without_nan,
    write_tensors,
    write_whole,
)

LAST, PREVIOUS, FRESH = "last", "previous", ".new-"


class Checkpoints:
    """The checkpoints of a run folder.

    Args:
        run: The run folder; checkpoints are the folders in ``RUN/checkpoints``.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.folder = run, run / "checkpoints"

    def save(self, name: str, state: FederatedState, info: Mapping[str, Any]) -> None:
        """Write a whole checkpoint, then swap it in; the one that was ``last`` before becomes ``previous``.

        At every moment there is a whole checkpoint that :meth:`newest` finds.

        Args:
            name: ``last`` or ``final``.
            state: State to save; clients are written one after the other.
            info: Further entries of ``state.json``.

        Raises:
            RunError: If the disk is full or the folder read-only; the earlier checkpoint is left untouched.
        """
        target, fresh = self.folder / name, self.folder / f"{FRESH}{name}"
        with clear_os_errors(str(self.folder)):
            try:
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir(parents=True)
                _write(fresh, state, info)
                sync_folder(self.folder)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            old = self.folder / (PREVIOUS if name == LAST else f".old-{name}")
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                target.rename(old)
            fresh.rename(target)
            sync_folder(self.folder)
            if name != LAST:
                shutil.rmtree(old, ignore_errors=True)

    def newest(self) -> str | None:
        """Name of the newest checkpoint of the training, which may be damaged; None without any.

        A save during which the process died is completed if it was whole, and removed otherwise.
        """
        fresh = self.folder / f"{FRESH}{LAST}"
        if (fresh / "state.json").is_file() and not (self.folder / LAST).exists():
            fresh.rename(self.folder / LAST)
        for leftover in (*self.folder.glob(f"{FRESH}*"), *self.folder.glob(".old-*")):
            shutil.rmtree(leftover)
        return next((name for name in (LAST, PREVIOUS) if (self.folder / name / "state.json").is_file()), None)

    def read_info(self, name: str) -> dict[str, Any]:
        """Verify the checksums of a checkpoint and return the content of its ``state.json``.

        Raises:
            RunError: If something is missing, truncated or altered; names the file, and ``previous`` if it is whole.
        """
        folder = self.folder / name
        if not folder.is_dir():
            raise RunError(f"{str(self.run)!r} has no checkpoint {name!r}.")
        content = read_json(folder / "state.json")
        expected, files = content.pop("sha256", None), content.get("files")
        if expected != text_sha256(content) or not isinstance(files, dict):
            raise RunError(f"{str(folder / 'state.json')!r} is damaged (its checksum differs). {self._remedy(name)}")
        for file, checksum in files.items():
            path = folder / file
            if not path.is_file() or file_sha256(path) != checksum:
                problem = "is damaged (its checksum differs)" if path.is_file() else "is missing"
                raise RunError(f"{str(path)!r} {problem}. {self._remedy(name)}")
        return content

    def load(self, name: str) -> FederatedState:
        """Verify and read a checkpoint; personal states are read when they are used.

        Raises:
            RunError: See :meth:`read_info`.
        """
        info, folder = self.read_info(name), self.folder / name
        with _open(folder / "shared.safetensors") as file:
            shared = {entry: file.get_tensor(entry) for entry in file.keys()}  # noqa: SIM118 - not a mapping
        clients = _open(folder / "clients.safetensors")
        entries: dict[int, list[str]] = {}
        for key in clients.keys():  # noqa: SIM118
            client, _, entry = key.partition("/")
            entries.setdefault(int(client), []).append(entry)
        fixed = {entry: shared.pop(entry) for entry in info["fixed"]}
        own = lambda k: {entry: clients.get_tensor(f"{k}/{entry}") for entry in entries.get(k, ())}  # noqa: E731
        known = set(info.get("trained", range(info["num_clients"])))  # older checkpoints do not say
        clients_of = ClientStore(info["num_clients"], own, trained=lambda: known)
        return FederatedState(info["round"], SharedState(shared, fixed), clients_of)

    def _remedy(self, damaged: str) -> str:
        """What a user can do about a damaged checkpoint."""
        if damaged != PREVIOUS:
            try:
                round = self.read_info(PREVIOUS)["round"]
            except RunError:
                pass
            else:
                return (
                    f"The one before, of round {round}, is whole: `fedloge resume {self.run} --checkpoint={PREVIOUS}`."
                )
        return "There is no other whole checkpoint: start the run again."


def _write(folder: Path, state: FederatedState, info: Mapping[str, Any]) -> None:
    shared = dict(sorted({**state.shared.tensors, **state.shared.fixed}.items()))
    write_tensors(folder / "shared.safetensors", _shapes(shared), shared.values())
    shapes = {key: pair for k, own in enumerate(state.clients) for key, pair in _shapes(own, f"{k}/").items()}
    tensors = (own[name] for own in state.clients for name in sorted(own))
    write_tensors(folder / "clients.safetensors", shapes, tensors)
    content = {
        "round": state.round,
        "num_clients": len(state.clients),
        "trained": sorted(state.clients.trained()),
        "fixed": sorted(state.shared.fixed),
        "files": {file: file_sha256(folder / file) for file in ("shared.safetensors", "clients.safetensors")},
        **info,
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
