"""The clients that the numbers of a run cover: how many were tested, and which failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedloge.evaluation.evaluator import Evaluation
from fedloge.evaluation.shots import SHOTS

Coverage = Mapping[str, Any]
"""``clients`` of ``summary.json``, see :func:`coverage`."""

NAMED = 5
"""Largest number of clients that a sentence names."""


def coverage(
    tests: Sequence[int],
    evaluation: Evaluation | None = None,
    faults: Iterable[Mapping[str, str]] = (),
    drawn: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """The clients of a run that were tested or failed, for ``summary.json``.

    Args:
        tests: Number of test images of every client.
        evaluation: Test results of the run.
        faults: Rows of ``faults.csv``.
        drawn: Number of rounds that each client in ``faults`` was drawn for.

    Returns:
        ``count``, ``tested``, ``tested_by_group`` (clients with test images of many, medium and few), ``not_tested``,
        and ``failed``, a mapping per client with its number, ``failures``, ``rounds`` and last ``reason``.
    """
    faults = list(faults)
    failures = Counter(int(row["client"]) for row in faults)
    reasons = {int(row["client"]): row["reason"] for row in faults}
    scores = evaluation.clients if evaluation else ()
    groups = {group: sum(score.groups[group] == score.groups[group] for score in scores) for group in SHOTS}
    return {
        "count": len(tests),
        "tested": sum(map(bool, tests)),
        "tested_by_group": groups if scores else {},
        "not_tested": [client for client, images in enumerate(tests) if not images],
        "failed": [
            {"client": k, "failures": failures[k], "rounds": (drawn or {}).get(k, failures[k]), "reason": reasons[k]}
            for k in sorted(failures)
        ],
    }


def clients_words(known: Coverage | None) -> str:
    """``the clients``, or ``56 of 238 clients`` where not all of them are tested."""
    if known is None or known["tested"] == known["count"]:
        return "the clients"
    return f"{known['tested']} of {known['count']} clients"


def mean_words(known: Coverage | None) -> str:
    """What a mean over clients covers: ``mean over clients (medium over 9, few over 6 of 10)``."""
    over = clients_words(known).removeprefix("the ")
    if known is None:
        return f"mean over {over}"
    fewer = [f"{group} over {n}" for group, n in known["tested_by_group"].items() if 0 < n < known["tested"]]
    return f"mean over {over}" + (f" ({', '.join(fewer)} of {known['count']})" if fewer else "")


def client_notes(known: Coverage | None) -> list[str]:
    """A sentence about the clients that are not tested, and one for each client that failed."""
    if known is None:
        return []
    missing, failed = known["not_tested"], known["failed"]
    notes = []
    if missing:
        are = "has no test images and is" if len(missing) == 1 else "have no test images and are"
        notes.append(f"{len(missing)} of {known['count']} clients {are} not tested: {_listed(missing)}.")
    notes += [_failure_words(one) for one in failed[:NAMED]]
    if len(failed) > NAMED:
        notes.append(f"{len(failed)} of {known['count']} clients failed; faults.csv lists them all.")
    return notes


def _failure_words(one: Mapping[str, Any]) -> str:
    failures, rounds = one["failures"], one["rounds"]
    if failures >= rounds:
        return f"Client {one['client']} was never trained, it failed in all of its {rounds} rounds: {one['reason']}."
    return f"Client {one['client']} failed in {failures} of its {rounds} rounds: {one['reason']}."


def _listed(clients: Sequence[int]) -> str:
    more = len(clients) - NAMED
    return ", ".join(map(str, clients[:NAMED])) + (f" and {more} more" if more > 0 else "")
