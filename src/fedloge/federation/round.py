"""Receiving what the clients of a round send: updates for the server, personal states, and failures."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from fedloge.errors import RunError
from fedloge.executors.base import ClientFailure, ClientTask, Executor, Outcome
from fedloge.federation.state import ClientStore, ClientUpdate, FederatedState, Tensors
from fedloge.federation.traffic import Traffic
from fedloge.methods.base import Method, Phase
from fedloge.runs.folder import RunFolder
from fedloge.system.live import track

OnClientFailure = Literal["retry", "skip", "abort"]


@dataclass(frozen=True)
class Faults:
    """Records failed clients, and decides whether the run continues without them.

    Args:
        folder: Run folder, for ``faults.csv`` and ``faults.log``.
        on_client_failure: ``abort`` ends the run at the first failure.
        attempts: Number of attempts that a client had.
        min_clients: Fraction of a round's clients that must survive.
    """

    folder: RunFolder
    on_client_failure: OnClientFailure
    attempts: int
    min_clients: float

    def record(self, failure: ClientFailure, round: int) -> None:
        """Write a failure to ``faults.csv`` and its traceback to ``faults.log``, and warn.

        Raises:
            RunError: If a failure ends the run.
        """
        client, reason = failure.client, failure.reason
        row = {"round": round, "client": client, "reason": reason, "attempts": self.attempts}
        self.folder.append("faults.csv", [row])
        with (self.folder.path / "faults.log").open("a", encoding="utf-8") as file:
            file.write(f"round {round}, client {client}: {reason}\n{failure.details}\n")
        if self.on_client_failure == "abort":
            raise RunError(
                f"round {round}: client {client} failed: {reason}. "
                "--trainer.on_client_failure=retry or skip would continue without it."
            )
        warnings.warn(f"round {round} continues without client {client}: {reason}", stacklevel=2)

    def check_survivors(self, survivors: int, clients: int, round: int) -> None:
        """Check that enough clients of a round survived.

        Raises:
            RunError: If they are fewer than ``min_clients`` requires, or none.
        """
        if survivors and survivors >= self.min_clients * clients:
            return
        last = self.folder.rows("faults.csv")[-1]
        raise RunError(
            f"round {round}: {survivors} of {clients} clients survived, trainer.min_clients={self.min_clients} "
            f"requires more. Client {last['client']}: {last['reason']}. See {self.folder.path / 'faults.log'}."
        )


class Received:
    """What a round has received from its clients so far.

    Args:
        method: Method that is trained.
        state: State at the start of the round.
        round: Number of the round.
        faults: Records failed clients.

    Attributes:
        clients: Fork of the personal states with those of the trained clients.
        traffic: Bytes exchanged and mean training loss.
        failures: Clients that failed.
    """

    def __init__(self, method: Method, state: FederatedState, round: int, faults: Faults) -> None:
        self.clients, self.traffic = state.clients.fork(), Traffic(method, state)
        self.failures: list[ClientFailure] = []
        self._method, self._round, self._faults = method, round, faults

    def first_exchange(
        self, executor: Executor, state: FederatedState, cohort: Sequence[int], generator: torch.Generator
    ) -> tuple[Tensors, Sequence[int]]:
        """Survey the cohort before it trains, if the method does so.

        Returns:
            Entries that the server changed, and the clients that answered.
        """
        if type(self._method).survey is Method.survey or type(self._method).answer is Method.answer:
            return {}, cohort
        answered = []

        def surveys() -> Iterator[ClientUpdate]:
            fail = functools.partial(self._faults.record, round=self._round)
            for update in survey(executor, state, cohort, fail):
                answered.append(update.client)
                self.traffic.count_survey(update)
                yield update
            self._faults.check_survivors(len(answered), len(cohort), self._round)

        entries = self._method.answer(surveys(), state, generator)
        self.traffic.answered(entries)
        return entries, answered

    def updates(
        self, outcomes: Iterable[Outcome], cohort: int, on_client_end: Callable[[int], None]
    ) -> Iterator[ClientUpdate]:
        """Receive the outcomes one by one and pass the updates on to the server.

        Args:
            outcomes: Outcomes in client order.
            cohort: Number of clients in the round.
            on_client_end: Called with each client that was trained.

        Raises:
            RunError: At the end, if too few clients survived.
        """
        survivors = 0
        for update in receive(outcomes, self.clients, self._record):
            survivors += 1
            self.traffic.count(update)
            on_client_end(update.client)
            yield update
        self._faults.check_survivors(survivors, cohort, self._round)

    def _record(self, failure: ClientFailure) -> None:
        self.failures.append(failure)
        self._faults.record(failure, self._round)


def receive(
    outcomes: Iterable[Outcome], clients: ClientStore, on_failure: Callable[[ClientFailure], None]
) -> Iterator[ClientUpdate]:
    """Yield each update as it arrives and keep none: memory is constant in the number of clients.

    Args:
        outcomes: Outcomes in client order.
        clients: Store for the new personal states.
        on_failure: Called for each client that failed.
    """
    for outcome in outcomes:
        if isinstance(outcome, ClientFailure):
            on_failure(outcome)
        else:
            clients[outcome.update.client] = outcome.personal
            yield outcome.update


def start_tasks(executor: Executor, state: FederatedState, tasks: Sequence[ClientTask]) -> Iterator[Outcome]:
    """Run tasks from a state, of which each client gets what the method sends to it; see :meth:`Executor.run`."""
    return executor.run(executor.method.broadcast(state.shared), executor.method.addressed(state), tasks)


def survey(
    executor: Executor, state: FederatedState, clients: Iterable[int], on_failure: Callable[[ClientFailure], None]
) -> Iterator[ClientUpdate]:
    """Yield what clients report of a state (:meth:`Method.survey`), without any training; nothing is stored."""
    tasks = [ClientTask(client, state.round + 1, ()) for client in clients]
    for outcome in start_tasks(executor, state, tasks):
        if isinstance(outcome, ClientFailure):
            on_failure(outcome)
        else:
            yield outcome.update


class AllClients:
    """All clients after the last round, for :meth:`Method.finalize`.

    Args:
        executor: Trains the clients.
        on_failure: Called for each client that failed; it keeps its old state.

    Attributes:
        exchanged: Bytes that surveys sent up and down.
    """

    def __init__(self, executor: Executor, on_failure: Callable[[ClientFailure], None]) -> None:
        self._executor, self._on_failure = executor, on_failure
        self.exchanged = {"bytes_up": 0, "bytes_down": 0}

    def __call__(self, state: FederatedState, phases: Sequence[Phase], /) -> ClientStore:
        """Train all clients from a state, without aggregation, and return their new personal states."""
        tasks = [ClientTask(client, state.round + 1, phases) for client in range(len(state.clients))]
        trained = state.clients.fork()
        outcomes = track(start_tasks(self._executor, state, tasks), "training clients", len(tasks))
        for _ in receive(outcomes, trained, self._on_failure):
            pass
        return trained

    def survey(self, state: FederatedState) -> Iterator[ClientUpdate]:
        """Yield what every client reports of a state."""
        traffic = Traffic(self._executor.method, replace(state, round=max(state.round, 1)))
        for update in survey(self._executor, state, range(len(state.clients)), self._on_failure):
            traffic.count_survey(update)
            yield update
        self.exchanged["bytes_up"] += traffic.bytes_up
        self.exchanged["bytes_down"] += traffic.bytes_down
