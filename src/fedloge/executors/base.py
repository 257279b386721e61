"""What an executor is, and the training of one client, which all of them share."""

from __future__ import annotations

import contextlib
import logging
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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

    def client_batches(self, client: int, device: torch.device | None = None) -> Iterable[Any]:
        """A client's training images in order, without augmentation."""
        ...

    def client_loader(self, client: int, *, seed: int, round: int, phase: int = 0) -> Any:
        """Batches of a client; every iteration over it is the next local epoch."""
        ...


@dataclass(frozen=True)
class LocalSettings:
    """How a local fit runs: the run's seed, the arguments of Lightning's Trainer, and the device they amount to."""

    seed: int
    accelerator: str = "cpu"
    devices: int | list[int] = 1
    precision: Any = "32-true"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


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
    client = Client(task.client, tuple(map(int, data.client_counts(task.client))), task.round)
    phases = {number: phase for number, phase in enumerate(task.phases) if phase.epochs}
    with _isolated_random_state(derive(settings.seed, task.round, task.client, Stream.MODULE)):
        method.begin(client, shared, personal)
        report = _report(method, "report_received", data, client, settings.device)
        for number, phase in phases.items():
            method.begin_phase(phase)
            loader = data.client_loader(task.client, seed=settings.seed, round=task.round, phase=number)
            with quiet_lightning(), _interrupts_as_usual():
                local_trainer(settings, phase.epochs).fit(method, loader)
        report = {**report, **_report(method, "report_trained", data, client, settings.device)}
    kept = {name for phase in phases.values() for name in phase.keep}
    own = {name: tensor.clone() for name, tensor in method.personal_entries(kept).items()}
    return ClientResult(_update(method, client, report), own)


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


@torch.no_grad()
def _report(method: Method, hook: str, data: FederatedData, client: Client, device: torch.device) -> Tensors:
    if getattr(type(method), hook) is getattr(Method, hook):
        return {}
    method.to(device).eval()
    report: Tensors = getattr(method, hook)(data.client_batches(client.id, device))
    return {name: tensor.cpu() for name, tensor in report.items()}


def _update(method: Method, client: Client, report: Tensors) -> ClientUpdate:
    return ClientUpdate(
        client=client.id,
        tensors=method.shared_state().tensors,
        num_examples=client.num_examples,
        class_counts=client.class_counts,
        metrics=method.local_metrics(),
        report=report,
    )


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
