"""Failures of clients that last: the rounds that a client was drawn for, and whether it can be trained at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedloge.errors import RunError
from fedloge.executors.base import ClientFailure, ClientTask
from fedloge.federation.parts import Parts
from fedloge.federation.sampling import sample_cohort
from fedloge.federation.state import FederatedState
from fedloge.methods.base import Phase
from fedloge.runs.coverage import NAMED


def drawn_rounds(run: Parts, clients: Iterable[int], rounds: int) -> dict[int, list[int]]:
    """The rounds up to ``rounds`` that each of some clients was drawn for."""
    drawn: dict[int, list[int]] = {client: [] for client in clients}
    for number in range(1, rounds + 1) if drawn else ():
        for client in drawn.keys() & sample_cohort(run.seed, number, len(run.population), run.participation):
            drawn[client].append(number)
    return drawn


def refuse_lasting(
    run: Parts, state: FederatedState, failures: Sequence[ClientFailure], phases: Sequence[Phase]
) -> None:
    """End a run in which a client cannot be trained, instead of leaving that client out of every round.

    A client that failed in every round that it was drawn for is tried on the batches of the next round, and the result
    is dropped. If it fails there too, with an error of the same kind, the fault lasts.

    Args:
        run: Parts of the run.
        state: State after the round.
        failures: Clients that failed in the round.
        phases: Phases of local training.

    Raises:
        RunError: If a client cannot be trained; names these clients, and the reason of the first.
    """
    untrained = _never_trained(run, failures, state.round)
    tasks = [ClientTask(failure.client, state.round + 1, phases) for failure in untrained]
    outcomes = run.executor.run(state.shared, state.clients, tasks) if tasks else ()
    lasting = [
        failure
        for failure, outcome in zip(untrained, outcomes, strict=True)
        if isinstance(outcome, ClientFailure) and _kind(outcome) == _kind(failure)
    ]
    if lasting:
        clients = f"{len(lasting)} clients fail" if len(lasting) > 1 else "a client fails"
        reasons = "; ".join(f"client {failure.client}: {failure.reason}" for failure in lasting[:NAMED])
        raise RunError(
            f"round {state.round}: {clients} in every round: {reasons}. See {run.folder.path / 'faults.log'}. "
            "--trainer.on_client_failure=skip trains without such clients."
        )


def _never_trained(run: Parts, failures: Sequence[ClientFailure], round: int) -> list[ClientFailure]:
    drawn = drawn_rounds(run, [failure.client for failure in failures], round)
    failed = {(int(row["client"]), int(row["round"])) for row in run.folder.rows("faults.csv")} if failures else set()
    return [one for one in failures if all((one.client, number) in failed for number in drawn[one.client])]


def _kind(failure: ClientFailure) -> str:
    """Class of the error, or the whole reason of a failure without one."""
    return failure.reason.partition(":")[0]
