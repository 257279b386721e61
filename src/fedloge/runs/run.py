"""Using a run that is done: load it, take its models, test them again, realign them again."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fedloge.config import FedlogeCLI, SaveConfig, build
from fedloge.data.datamodule import FederatedDataModule
from fedloge.data.partition import Partition
from fedloge.errors import ConfigError, RunError
from fedloge.federation.state import FederatedState, Tensors
from fedloge.inference.predictor import Predictor
from fedloge.methods.base import Client, Method, View
from fedloge.runs.folder import RunFolder
from fedloge.runs.locate import run_config
from fedloge.runs.summary import Result
from fedloge.trainer import FederatedTrainer


class Run:
    """A run folder with its objects: :func:`load_run` rebuilds them; a run trained from Python has no configuration.

    Args:
        path: The run folder.
        trainer: As the run was trained with.
        method: Likewise.
        data: Likewise.

    Raises:
        RunError: If the folder is not a run.
    """

    def __init__(self, path: str | Path, trainer: FederatedTrainer, method: Method, data: FederatedDataModule) -> None:
        self.folder = RunFolder(path).require()
        self.trainer, self.method, self.data = trainer, method, data

    @property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``."""
        return self.folder.read_json("summary.json")

    def state(self, name: str = "final") -> FederatedState:
        """The ``final`` (realigned) state, or the ``last`` one of the training."""
        return self.folder.load(name)

    @cached_property
    def final(self) -> FederatedState:
        """The final state, read once; it is for reading alone."""
        return self.state()

    def generic(self) -> Predictor:
        """The generic model.

        Raises:
            RunError: If the method has none.
        """
        return self.predictor("global", self.generic_personal())

    def personal(self, client: int) -> Predictor:
        """The personal model of a client.

        Raises:
            RunError: If the method has none, or there is no such client.
        """
        return self.predictor("personal", self.client_personal(client))

    def generic_personal(self) -> Tensors:
        """What stands in the generic model where a client's entries would be: for most methods nothing.

        Raises:
            RunError: If the method has no generic model.
        """
        self._require("global", "Choose a client's model.")
        counts = Partition.load(self.folder.path / "partition.json").train_counts.tolist()
        population = [Client(client, tuple(own)) for client, own in enumerate(counts)]
        return self.method.generic_personal(self.final.clients, population)

    def client_personal(self, client: int) -> Tensors:
        """A client's entries.

        Raises:
            RunError: If the method has no personal models, or there is no such client.
        """
        self._require("personal", "Take the generic one.")
        clients = self.final.clients
        if not 0 <= client < len(clients):
            raise RunError(f"client={client} does not exist: the run has clients 0 to {len(clients) - 1}.")
        return clients[client]

    def predictor(self, view: View, personal: Tensors) -> Predictor:
        """The shared entries with these as a model of its own."""
        method = copy.deepcopy(self.method)
        method.load(self.final.shared, personal)
        source = self.data.source
        return Predictor(method, view, source.mean, source.std, source.class_names)

    def _require(self, view: View, remedy: str) -> None:
        if view not in self.method.views:
            kind = "generic" if view == "global" else "personal"
            raise RunError(f"{type(self.method).__name__} has no {kind} model. {remedy}")

    def attach(self) -> None:
        """Load the data, for evaluation or further training."""
        self.data.prepare_data()
        self.data.setup("test")
        self.trainer.attach(self.method, self.data)
        self.trainer.folder = self.folder


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> Run:
    """Open a run folder that ``fedloge fit`` wrote.

    Args:
        path: The folder.
        overrides: Options of ``fedloge fit`` to change, for example ``--trainer.accelerator=cpu``.

    Raises:
        RunError: If it is not a run.
    """
    return _open(path, build([*run_config(path), *overrides]))


def _open(path: str | Path, cli: FedlogeCLI) -> Run:
    return Run(path, cli.trainer, cli.model, cli.datamodule)


def test_run(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate a saved run again; nothing is written.

    Returns:
        The summary with the accuracies as they come out now.
    """
    run = load_run(path, overrides)
    old = run.summary
    run.attach()
    final = run.state("final")
    after = run.trainer.evaluator.evaluate(final)
    run.trainer.exchanged = {name: old[name] for name in run.trainer.exchanged}
    before = run.trainer.evaluator.evaluate(run.state("last")) if old["before_realignment"] else after
    return run.trainer.summarize(Result(final, before, after), old["seconds"])


def realign_run(
    path: str | Path, options: Mapping[str, Any], output_dir: str | None = None, overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], Path]:
    """Do stages 2 and 3 again from the trained state, with other options, into a run folder of its own.

    Args:
        path: The trained run; it is left as it is.
        options: Arguments of the method, ``ga_scale`` for example.
        output_dir: The new run folder; None takes ``realigned-1``, ``-2``, … inside the run.
        overrides: Further options of ``fedloge fit``.

    Returns:
        The summary and the new folder.
    """
    source = RunFolder(path).require()
    target = RunFolder(output_dir or _next_free(source.path))
    target.check_free(overwrite=False)
    arguments = [f"--model.{name}={value}" for name, value in options.items()]
    cli = build([*run_config(path), *arguments, f"--trainer.run_dir={target.path}", *overrides])
    run = _open(path, cli)
    state = run.state("last")
    run.attach()
    if run.method.finalize(state, run.trainer.population) is state:
        raise ConfigError("RUN", str(path), f"is a {type(run.method).__name__} run, which has no realignment", "")
    target.create(overwrite=False, about=run.trainer.about())
    run.trainer.folder = target
    SaveConfig(cli.resolved()).on_run_start(run.trainer)
    shutil.copy(source.path / "partition.json", target.path)
    shutil.copytree(source.path / "checkpoints" / "last", target.path / "checkpoints" / "last")
    return run.trainer.finish(state, seconds=0.0), target.path


def _next_free(path: Path) -> Path:
    number = 1
    while (path / f"realigned-{number}").exists():
        number += 1
    return path / f"realigned-{number}"
