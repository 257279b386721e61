"""What an executor is, and the training of one client, which all of them share."""

from __future__ import annotations

import contextlib
import logging
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning import Trainer

from fedloge.methods.base import Client, Method, Phase
from fedloge.seeding import Stream, derive
from fedloge.state import ClientStore, ClientUpdate, SharedState, Tensors


class FederatedData(Protocol):
    """What local training needs of the data."""

    def client_counts(self, client: int) -> Sequence[int]:
        """n_{k,c}, length C."""
        ...

    def client_loader(self, client: int, *, seed: int, round: int, phase: int = 0) -> Any:
        """Batches of a client; every iteration over it is the next local epoch."""
        ...


@dataclass(frozen=True)
class LocalSettings:
    """How a local fit runs: the run's seed and the arguments of Lightning's Trainer."""

    seed: int
    accelerator: str = "cpu"
    devices: int | list[int] = 1
    precision: Any = "32-true"


@dataclass(frozen=True)
class ClientTask:
    """The local training of a client in a round."""

    client: int
    round: int
    phases: Sequence[Phase]


@dataclass(frozen=True)
class ClientResult:
    """What came of a task: the update for the server, and the personal state, which only the store sees."""

    update: ClientUpdate
    personal: Tensors


class Executor(Protocol):
    """Trains the clients of a round."""

    def run(self, shared: SharedState, clients: ClientStore, tasks: Iterable[ClientTask]) -> Iterator[ClientResult]:
        """Yield the result of every task in the order of the tasks."""
        ...


def train_client(
    method: Method,
    data: FederatedData,
    settings: LocalSettings,
    task: ClientTask,
    shared: SharedState,
    personal: Tensors,
) -> ClientResult:
    """Train one client from the state it received: a Lightning fit per phase.

    The result depends on the arguments alone: data order and augmentation come from (seed, round, client), and
    torch's global generators, which dropout reads, are seeded from them too and restored afterwards.
    """
    counts = tuple(int(count) for count in data.client_counts(task.client))
    client = Client(task.client, sum(counts), counts)
    with _isolated_random_state(derive(settings.seed, task.round, task.client, Stream.MODULE)):
        method.begin(client, shared, personal)
        for number, phase in enumerate(task.phases):
            if phase.epochs == 0:
                continue
            method.begin_phase(phase)
            loader = data.client_loader(task.client, seed=settings.seed, round=task.round, phase=number)
            with quiet_lightning(), _interrupts_as_usual():
                local_trainer(settings, phase.epochs).fit(method, loader)
    return _result(method, client)


def local_trainer(settings: LocalSettings, epochs: int) -> Trainer:
    """A minimal Trainer for one fit; a used one would train nothing once ``max_epochs`` is reached."""
    return Trainer(
        max_epochs=epochs,
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=settings.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _result(method: Method, client: Client) -> ClientResult:
    update = ClientUpdate(
        client=client.id,
        tensors=method.shared_state().tensors,
        num_examples=client.num_examples,
        class_counts=client.class_counts,
        metrics=method.local_metrics(),
    )
    return ClientResult(update, {name: tensor.clone() for name, tensor in method.personal_entries().items()})


@contextlib.contextmanager
def _isolated_random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _interrupts_as_usual() -> Iterator[None]:
    """Ctrl-C in a fit makes Lightning ignore all further ones and leave with SystemExit; undo both."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep a Trainer's own messages out of the terminal: four lines per local fit would drown the run's."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # A client's loader is a plain iterable: advice about DataLoader workers does not apply to it.
        warnings.filterwarnings("ignore", module="lightning.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
