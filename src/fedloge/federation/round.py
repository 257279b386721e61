"""Receiving what the clients of a round send: updates for the server, personal states, and failures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fedloge.errors import RunError
from fedloge.executors.base import ClientFailure, ClientTask, Executor, Outcome
from fedloge.federation.state import ClientStore, ClientUpdate, FederatedState
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
        self._round, self._faults = round, faults

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


def train_all(
    executor: Executor, state: FederatedState, phases: Sequence[Phase], on_failure: Callable[[ClientFailure], None]
) -> ClientStore:
    """Train all clients from a state, without aggregation, and return their new personal states.

    Args:
        executor: Trains the clients.
        state: State that they start from; it is not changed.
        phases: Phases of the training.
        on_failure: Called for each client that failed; it keeps its old state.
    """
    tasks = [ClientTask(client, state.round + 1, phases) for client in range(len(state.clients))]
    trained = state.clients.fork()
    outcomes = executor.run(state.shared, state.clients, tasks)
    for _ in receive(track(outcomes, "training clients", len(tasks)), trained, on_failure):
        pass
    return trained
