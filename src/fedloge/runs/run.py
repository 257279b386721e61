"""Using a finished run: load it, take its models, test or realign them again."""

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
from fedloge.data.record import RECORD, DataRecord
from fedloge.errors import ConfigError, RunError
from fedloge.federation.parts import Parts
from fedloge.federation.progress import Progress
from fedloge.federation.results import run_summary, validate
from fedloge.federation.state import FederatedState, Tensors
from fedloge.inference.predictor import Predictor
from fedloge.methods.base import Client, Method, View
from fedloge.options import arguments
from fedloge.runs.folder import RunFolder
from fedloge.runs.identity import check_data
from fedloge.runs.locate import config_without_data, run_config
from fedloge.runs.summary import Result
from fedloge.system.live import Line
from fedloge.trainer import FederatedTrainer


class Run:
    """A run folder with its objects: :func:`load_run` rebuilds them; a run trained from Python has no configuration.

    Args:
        path: Run folder.
        trainer: Trainer with the options of the run.
        method: Method with the options of the run.
        data: Data module with the options of the run.

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

    @cached_property
    def record(self) -> DataRecord:
        """What labels and images mean to the run's models, from its folder if that has a record."""
        path = self.folder.path / RECORD
        return DataRecord.load(path) if path.is_file() else DataRecord.of(self.data.source)

    def state(self, name: str = "final") -> FederatedState:
        """The ``final`` (realigned) state, or the ``last`` one of the training."""
        return self.folder.checkpoints.load(name)

    @cached_property
    def final(self) -> FederatedState:
        """The final state, read once; it must not be changed."""
        return self.state()

    def generic(self) -> Predictor:
        """The generic model.

        Raises:
            RunError: If the method has none.
        """
        return self.predictor("global", self.generic_personal())

    def personal(self, client: int | str) -> Predictor:
        """The personal model of a client, given by its number or name.

        Raises:
            RunError: If the method has none, or there is no such client.
        """
        return self.predictor("personal", self.client_personal(client))

    @cached_property
    def partition(self) -> Partition:
        """Images and names of the clients."""
        return Partition.load(self.folder.path / "partition.json")

    def generic_personal(self) -> Tensors:
        """The generic model's entries in place of a client's; empty for most methods.

        Raises:
            RunError: If the method has no generic model.
        """
        self._require("global", "Choose a client's model.")
        counts = self.partition.train_counts.tolist()
        population = [Client(client, tuple(own)) for client, own in enumerate(counts)]
        return self.method.generic_personal(self.final.clients, population)

    def client_personal(self, client: int | str) -> Tensors:
        """Personal entries of a client, given by its number or name.

        Raises:
            RunError: If the method has no personal models, or there is no such client.
        """
        self._require("personal", "Take the generic one.")
        number = self.partition.find(client) if isinstance(client, str) else client
        if number is None or not 0 <= number < len(self.final.clients):
            raise RunError(f"client={client} does not exist: the run has {self.partition.all_words(str(client))}.")
        return self.final.clients[number]

    def predictor(self, view: View, personal: Tensors) -> Predictor:
        """A model of its own, made of the shared entries and these."""
        method = copy.deepcopy(self.method)
        method.load(self.final.shared, personal)
        return Predictor(method, view, self.record.mean, self.record.std, self.record.class_names)

    def _require(self, view: View, remedy: str) -> None:
        if view not in self.method.views:
            kind = "generic" if view == "global" else "personal"
            raise RunError(f"{type(self.method).__name__} has no {kind} model. {remedy}")

    def load_data(self) -> None:
        """Load and split the data.

        Raises:
            RunError: If they are not those of the run; names the differences.
        """
        self.data.prepare_data()
        check_data(self.folder, self.data)
        self.data.setup("test")

    def attach(self, folder: RunFolder | None = None) -> Parts:
        """Load the data and attach the trainer, for evaluation or further training.

        Args:
            folder: Run folder for the results; that of the run by default.

        Raises:
            RunError: If the data are not those of the run.
        """
        with Line("reading the data"):
            self.load_data()
        self.trainer.attach(self.method, self.data, folder or self.folder)
        return self.trainer.parts


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> Run:
    """Open a run folder that ``fedloge fit`` wrote.

    Args:
        path: Run folder.
        overrides: Options of ``fedloge fit`` to change, for example ``--trainer.accelerator=cpu``.

    Raises:
        RunError: If it is not a run.
    """
    return _open(path, build([*run_config(path), *overrides]))


def load_models(path: str | Path, overrides: Sequence[str] = ()) -> Run:
    """Open a run folder for the use of its models, for which its data need not be at hand.

    Args:
        path: Run folder.
        overrides: Options of ``fedloge fit`` to change.

    Raises:
        RunError: If it is not a run.
    """
    record = Path(path) / RECORD
    if not record.is_file() or any(override.startswith("--data.source") for override in overrides):
        return load_run(path, overrides)
    return _open(path, build([*config_without_data(path, record), *overrides]))


def _open(path: str | Path, cli: FedlogeCLI) -> Run:
    return Run(path, cli.trainer, cli.model, cli.datamodule)


def fit_run(args: Sequence[str], checkpoint: str | None = None, log_format: str = "text", quiet: bool = False) -> None:
    """Train, realign and evaluate a run, and write its folder.

    Args:
        args: Options of ``fedloge fit``.
        checkpoint: Checkpoint to resume from, ``last`` or ``previous``; None starts a new run.
        log_format: ``text``, or ``json`` for a JSON object per line.
        quiet: Print errors only.

    Raises:
        FedlogeError: If an option is wrong or the run cannot be completed.
    """
    from rich.console import Console

    from fedloge.report.progress import JsonProgress, RunProgress
    from fedloge.report.write import WriteReport
    from fedloge.tracking import agent_options

    cli = build([*args, *agent_options(args)])
    progress = [] if quiet else [JsonProgress() if log_format == "json" else RunProgress()]
    console = Console(quiet=quiet or log_format == "json")
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    callbacks.insert(0, SaveConfig(cli.resolved()))  # loggers read the saved configuration
    callbacks += [*progress, *([WriteReport(console)] if cli.config.report else [])]
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    finally:
        for callback in progress:
            callback.stop()


def test_run(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate a finished run again; nothing is written.

    Returns:
        Summary with the new accuracies.
    """
    run = load_run(path, overrides)
    old = run.summary
    parts, final = run.attach(), run.state("final")
    after = parts.evaluator.evaluate(final, detailed=True)
    before = parts.evaluator.evaluate(run.state("last"), detailed=True) if old["before_realignment"] else after
    exchanged = {name: old[name] for name in ("bytes_up", "bytes_down")}
    return run_summary(parts, Result(final, before, after, validate(parts, final)), exchanged, old["seconds"])


def realign_run(
    path: str | Path, options: Mapping[str, Any], output_dir: str | None = None, overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], Path]:
    """Repeat stages 2 and 3 from the trained state with other options, and write the results to a new run folder.

    Args:
        path: Trained run; it is not changed.
        options: Arguments of the method, ``ga_scale`` for example.
        output_dir: New run folder; ``realigned-1``, ``-2``, … inside the run by default.
        overrides: Further options of ``fedloge fit``.

    Returns:
        Summary, and path of the new folder.
    """
    source = RunFolder(path).require()
    target = RunFolder(output_dir or _next_free(source.path))
    target.check_free(overwrite=False)
    own = arguments(options, "model.")
    cli = build([*run_config(path), *own, f"--trainer.run_dir={target.path}", *overrides])
    run = _open(path, cli)
    state, parts = run.state("last"), run.attach(target)
    if run.method.finalize(state, parts.population) is state:
        raise ConfigError("RUN", str(path), f"is a {type(run.method).__name__} run, which has no realignment", "")
    target.create(overwrite=False, info=parts.info())
    try:
        SaveConfig(cli.resolved()).on_run_start(run.trainer)
        for name in ("partition.json", RECORD, "faults.csv"):
            if (source.path / name).is_file():
                shutil.copy(source.path / name, target.path)
        shutil.copytree(source.path / "checkpoints" / "last", target.path / "checkpoints" / "last")
        return run.trainer.finish(Progress(state)), target.path
    except BaseException:
        shutil.rmtree(target.path, ignore_errors=True)  # half of a run would block the next try
        raise


def _next_free(path: Path) -> Path:
    number = 1
    while (path / f"realigned-{number}").exists():
        number += 1
    return path / f"realigned-{number}"
