"""Models of a run: the generic one, that of a client, and that of a client that never took part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedloge.errors import ConfigError, RunError
from fedloge.federation.state import Tensors
from fedloge.methods.base import View
from fedloge.runs.folder import RunFolder
from fedloge.runs.run import Run, load_models, load_run
from fedloge.system.storage import whole

ABOUT, STATE = "client.json", "client.safetensors"
"""Files in a new client's folder."""


@dataclass(frozen=True)
class Model:
    """One of the 1 + K models, or that of a new client.

    Args:
        name: ``generic``, ``client-3``, or a new client's folder.
        view: Generic or personal.
        personal: Entries beside, or in place of, the shared ones.
        client: Name of the client; empty for other models.
    """

    name: str
    view: View
    personal: Tensors
    client: str = ""


def load_finished(path: str | Path, overrides: Sequence[str] = (), *, data: bool = False) -> Run:
    """Load a run that has final models, with its data if they are needed; otherwise these need not be at hand.

    Raises:
        RunError: If the folder is not a run, or the run is not finished.
    """
    run = (load_run if data else load_models)(path, overrides)
    if not (run.folder.path / "checkpoints" / "final").is_dir():
        raise RunError(f"{str(path)!r} has no final models: the run is not finished.")
    return run


def choose_model(run: Run, client: str | int | None = None) -> Model:
    """The generic model, or the personal one of a client, given by its number, its name or the folder of a new one.

    Raises:
        FedlogeError: If the run has no such model.
    """
    if client is None:
        return Model("generic", "global", run.generic_personal())
    number = run.partition.find(client) if isinstance(client, str) else client
    if number is not None or str(client).isdecimal():
        known = int(str(client)) if number is None else number
        personal = run.client_personal(known)
        return Model(f"client-{known}", "personal", personal, run.partition.name(known))
    folder = Path(str(client))
    if not (folder / ABOUT).is_file():
        remedy = f"The run has {run.partition.all_words(str(client))}."
        raise ConfigError("client", str(client), "is neither a client nor the folder of a new client", remedy)
    return Model(folder.name, "personal", load_client(run, folder))


def all_models(run: Run) -> list[Model]:
    """The generic model and every client's, except for a kind that the method does not have."""
    generic = [choose_model(run)] if "global" in run.method.views else []
    clients = range(len(run.final.clients)) if "personal" in run.method.views else ()
    return generic + [choose_model(run, client) for client in clients]


def save_client(run: Run, folder: Path, personal: Tensors, info: Mapping[str, Any]) -> None:
    """Write a new client's entries, and which run they belong to, to an empty folder."""
    free_folder(folder, "output")
    content = {"method": type(run.method).__name__, "shared_sha256": shared_sha256(run), **info}
    with whole(folder / STATE) as path:
        save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in personal.items()}, path)
    RunFolder(folder).write_json(ABOUT, content)


def load_client(run: Run, folder: Path) -> dict[str, Tensor]:
    """Load the entries of a new client.

    Raises:
        RunError: If the files cannot be read, or belong to another run.
    """
    about = RunFolder(folder).read_json(ABOUT)
    if about.get("shared_sha256") != shared_sha256(run):
        raise RunError(f"{str(folder)!r} was made for another run than {str(run.folder.path)!r}.")
    try:
        return load_file(folder / STATE)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{str(folder / STATE)!r} cannot be read: {error}.") from error


def free_folder(folder: Path, argument: str) -> None:
    """Make a folder, or check that an existing one is empty.

    Raises:
        ConfigError: If it is not empty, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(argument, str(folder), f"cannot be made: {error.strerror}", "Choose another.") from error
    if any(folder.iterdir()):
        raise ConfigError(argument, str(folder), "is not empty", f"Choose another --{argument}.")


def shared_sha256(run: Run) -> str:
    """Hash of the file with a run's final shared entries."""
    path = run.folder.path / "checkpoints" / "final" / "shared.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()
