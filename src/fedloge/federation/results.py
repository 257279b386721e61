"""Testing the models of a run, and writing the results to its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from fedloge.evaluation.evaluator import Evaluation
from fedloge.federation.lasting import drawn_rounds
from fedloge.federation.parts import Parts
from fedloge.federation.progress import Progress
from fedloge.federation.round import AllClients
from fedloge.federation.state import FederatedState
from fedloge.runs.coverage import coverage
from fedloge.runs.measures import headline_text
from fedloge.runs.summary import Result, summarize
from fedloge.runs.tables import class_rows, client_rows, confusion_rows


def finalize_and_test(run: Parts, state: FederatedState, train: bool) -> Result:
    """Finalise a state, test its models before and after, and validate the final ones; the state is not changed.

    Args:
        run: Parts of the run.
        state: Trained state.
        train: Run the training part of the method's ``finalize`` too, and test in detail: after the last round.
    """
    clients = AllClients(run.executor, lambda failure: run.faults.record(failure, state.round))
    final = run.method.finalize(state, run.population, clients if train else None)
    before = run.evaluator.evaluate(state, detailed=train)
    after = before if final is state else run.evaluator.evaluate(final, detailed=train)
    return Result(final, before, after, validate(run, final), clients.exchanged)


def validate(run: Parts, final: FederatedState) -> Evaluation | None:
    """Results of final models on the clients' validation images; None where no client has any."""
    return run.validator.evaluate(final) if run.validator else None


def write_round(run: Parts, progress: Progress, row: Mapping[str, float], result: Result, last: bool) -> None:
    """Write the results of a round; those of the ``last`` are kept for the final tables."""
    run.folder.append("metrics.csv", [{"round": progress.state.round, **row}])
    if last:
        progress.final = result
    else:
        write_tables(run, progress.state.round, result)


def write_tables(run: Parts, round: int, result: Result) -> None:
    """Append the accuracies of a round to ``per_class.csv`` and ``per_client.csv``."""
    names, counts = run.data.class_names, run.data.class_counts
    for before, evaluation in result.evaluations().items():
        run.folder.append("per_class.csv", class_rows(round, evaluation, before, names, counts))
        run.folder.append("per_client.csv", client_rows(round, evaluation, before, run.data.partition.names))


def write_confusion(run: Parts, result: Result) -> None:
    """Write ``confusion.csv``."""
    for before, evaluation in result.evaluations().items():
        run.folder.append("confusion.csv", confusion_rows(evaluation, before))


def run_summary(run: Parts, result: Result, exchanged: dict[str, int], seconds: float) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        run: Parts of the run.
        result: Final models and their test results.
        exchanged: Bytes that clients sent and received in all rounds.
        seconds: Seconds spent on the run.
    """
    return {
        "method": type(run.method).__name__,
        "dataset": run.data.source.name,
        "rounds": result.final.round,
        "seed": run.seed,
        **summarize(result, run.folder.rows("metrics.csv")),
        "clients": _coverage(run, result),
        **run.evaluator.protocol(),
        "privileged": list(run.method.privileged),
        "finalized": run.method.finalized,
        **exchanged,
        "partition_sha256": run.data.partition.sha256,
        "personal_masked": run.evaluator.evaluate(result.final, "train").personal() or None,
        "seconds": round(seconds, 3),
    }


def _coverage(run: Parts, result: Result) -> dict[str, Any]:
    """The clients that the numbers cover."""
    faults = run.folder.rows("faults.csv")
    drawn = drawn_rounds(run, {int(row["client"]) for row in faults}, result.final.round)
    tests = [len(run.data.client_test_indices(client.id)) for client in run.population]
    return coverage(tests, result.after, faults, {client: len(rounds) for client, rounds in drawn.items()})


def stopped(run: Parts, state: FederatedState, rounds: int) -> str:
    """Where a run stopped, with the accuracies of its last round unless a second signal interrupts their test."""
    found = ""
    with contextlib.suppress(KeyboardInterrupt):
        found = accuracies(run, state)
    return f"stopped after round {state.round} of {rounds}, which is saved{found}"


def accuracies(run: Parts, state: FederatedState) -> str:
    """The generic and personal accuracy of a run that stops early, in parentheses; empty before the first round."""
    if state.round == 0:
        return ""
    scalars = finalize_and_test(run, state, train=False).scalars()
    return " (" + ", ".join(f"{text} %" for text in headline_text(scalars)) + ")"
