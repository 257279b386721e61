"""What an executor is, and the training of one client, which all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch

from fedloge.federation.state import ClientStore, ClientUpdate, SharedState, Tensors
from fedloge.methods.base import Method, Phase

Worker = TypeVar("Worker")


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
    """How a local fit runs.

    Args:
        seed: Of the run.
        accelerator: Lightning's, as the next two.
        devices: See above.
        precision: See above.
        device: What they amount to.
        threads: Of torch.
        attempts: How often a client is tried.
        profile: Tell how long the parts of a local fit took.
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
    """That a client could not be trained, why in one line, and where there was an error its traceback."""

    client: int
    reason: str
    details: str = ""


@dataclass(frozen=True)
class ClientResult:
    """What came of a task: the update for the server, and the personal state, which only the store sees."""

    update: ClientUpdate
    personal: Tensors


Outcome = ClientResult | ClientFailure
"""What comes of a task."""


class Executor(ABC):
    """Trains the clients of a round; what comes out does not depend on which executor did it."""

    method: Method
    data: FederatedData
    settings: LocalSettings

    @property
    def workers(self) -> int:
        """Number of clients trained at the same time, at most."""
        return 1

    def start(self, method: Method, data: FederatedData, settings: LocalSettings) -> None:
        """Take what is trained, on which data, and how; called before the first :meth:`run`."""
        self.method, self.data, self.settings = method, data, settings

    @abstractmethod
    def run(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> Iterator[Outcome]:
        """Yield the result of every task in the order of the tasks."""

    def close(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give back processes and memory; a later :meth:`run` takes them anew."""


def largest_first(
    tasks: Sequence[ClientTask],
    sizes: Sequence[int],
    window: int,
    idle: Callable[[], Worker | None],
    submit: Callable[[Worker, int], None],
    collect: Callable[[], tuple[int, Outcome]],
) -> Iterator[Outcome]:
    """Hand tasks to workers, the largest first, and yield the results in the order of the tasks.

    A result waits until its turn has come; no task is handed out that is ``window`` or more places ahead of the next
    result, so that no more than that many ever wait, however many clients there are.

    Args:
        tasks: Of the round.
        sizes: How much work each of them is.
        window: See above.
        idle: A worker that has nothing to do, or None.
        submit: Gives a worker the task at a position.
        collect: Waits for any worker and returns position and result.
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
