"""Base class of executors, and what passes between them and the federated loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import torch

from fedloge.federation.state import ClientStore, ClientUpdate, SharedState, Tensors
from fedloge.methods.base import Method, Phase

Worker = TypeVar("Worker")


class FederatedData(Protocol):
    """Data for local training."""

    def client_counts(self, client: int) -> Sequence[int]:
        """Class counts n_{k,c} of a client, length C."""
        ...

    def client_batches(self, client: int, device: torch.device | None = None) -> Iterable[Any]:
        """Training images of a client in order, without augmentation."""
        ...

    def client_loader(self, client: int, *, seed: int, round: int, phase: int = 0) -> Any:
        """Loader of a client; every iteration over it is the next local epoch."""
        ...


@dataclass(frozen=True)
class LocalSettings:
    """Settings of a local fit.

    Args:
        seed: Run seed.
        accelerator: Lightning's ``accelerator``.
        devices: Lightning's ``devices``.
        precision: Lightning's ``precision``.
        device: Device that accelerator and devices stand for.
        threads: Threads of torch.
        attempts: Number of times that a client is tried.
        profile: Measure the seconds of the parts of a local fit.
    """

    seed: int
    accelerator: str = "cpu"
    devices: int | list[int] = 1
    precision: Any = "32-true"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int = 1
    attempts: int = 1
    profile: bool = False


@dataclass(frozen=True)
class ClientTask:
    """The local training of a client in a round."""

    client: int
    round: int
    phases: Sequence[Phase]


@dataclass(frozen=True)
class ClientFailure:
    """A client that could not be trained: one-line reason and traceback."""

    client: int
    reason: str
    details: str = ""


@dataclass(frozen=True)
class ClientResult:
    """A trained client: the update for the server, and the personal state, which only the store sees."""

    update: ClientUpdate
    personal: Tensors


Outcome = ClientResult | ClientFailure
"""Outcome of a task."""


class Executor(ABC):
    """Trains the clients of a round; the results do not depend on the executor."""

    method: Method
    data: FederatedData
    settings: LocalSettings

    @property
    def workers(self) -> int:
        """Greatest number of clients that are trained at the same time."""
        return 1

    fixed_workers: ClassVar[bool] = False
    """Whether :attr:`workers` is the number in use, and not only a limit, before the first round."""

    @property
    def idle_cores(self) -> int:
        """Number of cores of this machine that are idle while models are evaluated."""
        return 1

    def start(self, method: Method, data: FederatedData, settings: LocalSettings) -> None:
        """Set method, data and settings; called before the first :meth:`run`."""
        self.method, self.data, self.settings = method, data, settings

    @abstractmethod
    def run(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> Iterator[Outcome]:
        """Yield the outcome of every task in the order of the tasks."""

    def close(self) -> None:  # noqa: B027 - most executors hold nothing
        """Release processes and memory; a later :meth:`run` acquires them again."""


def largest_first(
    tasks: Sequence[ClientTask],
    sizes: Sequence[int],
    window: int,
    idle: Callable[[], Worker | None],
    submit: Callable[[Worker, int], None],
    collect: Callable[[], tuple[int, Outcome]],
) -> Iterator[Outcome]:
    """Hand tasks to workers, the largest first, and yield the outcomes in the order of the tasks.

    An outcome waits for its turn. No task is handed out that is ``window`` or more places ahead of the next outcome, so
    that no more than that many ever wait, however many clients there are.

    Args:
        tasks: Tasks of the round.
        sizes: Amount of work of each task.
        window: Greatest number of outcomes that wait.
        idle: Function that returns a worker without a task, or None.
        submit: Function that gives a worker the task at a position.
        collect: Function that waits for any worker and returns position and outcome.
    """
    waiting: dict[int, Outcome] = {}
    todo = sorted(range(len(tasks)), key=lambda position: (-sizes[position], position))
    for turn in range(len(tasks)):
        while turn not in waiting:
            while (ready := next((p for p in todo if p < turn + window), None)) is not None:
                worker = idle()
                if worker is None:
                    break
                todo.remove(ready)
                submit(worker, ready)
            position, result = collect()
            waiting[position] = result
        yield waiting.pop(turn)
