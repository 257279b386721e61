"""What comes out of a run: the final evaluation, and the numbers of ``summary.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedloge.evaluation.evaluator import Evaluation
from fedloge.federation.state import FederatedState
from fedloge.methods.base import View
from fedloge.runs.measures import HEADLINES, KINDS


@dataclass(frozen=True)
class Result:
    """The final models of a state, and the test results before and after realignment (the same where there is none).

    Args:
        final: The final models.
        before: Test results before realignment.
        after: Test results of the final models.
        val: Validation results of the final models; None where no client has validation images.
        exchanged: Bytes that clients sent and received for the final models.
    """

    final: FederatedState
    before: Evaluation
    after: Evaluation
    val: Evaluation | None = None
    exchanged: Mapping[str, int] = field(default_factory=dict)

    def evaluations(self) -> dict[bool, Evaluation]:
        """Test results by whether they are from before realignment, if there is one."""
        return {False: self.after} if self.after is self.before else {False: self.after, True: self.before}

    def scalars(self) -> dict[str, float]:
        """The headline numbers, where there is a realignment those from before it, and those of the validation."""
        before = {} if self.after is self.before else self.before.scalars("before_realignment/")
        return {**self.after.scalars(), **before, **(self.val.scalars("val/") if self.val else {})}


def summarize(result: Result, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The headline numbers (last round, realigned), those before, the mean of the last ten rounds and the best.

    Args:
        result: The final evaluation.
        rows: ``metrics.csv``.
    """
    realigned = result.after is not result.before
    return {
        **views(result.after),
        "before_realignment": views(result.before) if realigned else None,
        "last10": {view: _last(rows, measure.path) for view, measure in zip(KINDS, HEADLINES, strict=True)},
        "best": {view: _best(rows, measure.path) for view, measure in zip(KINDS, HEADLINES, strict=True)},
        **({"val": views(result.val)} if result.val else {}),
    }


def views(evaluation: Evaluation) -> dict[str, Any]:
    """Numbers of both models, with the details where there are any; None for one that the method does not have."""
    numbers: dict[View, dict[str, float]] = {"global": evaluation.generic(), "personal": evaluation.personal()}
    return {view: ({**own, **evaluation.details.get(view, {})} if own else None) for view, own in numbers.items()}


def _column(rows: Sequence[Mapping[str, str]], column: str) -> list[tuple[int, float]]:
    return [(int(row["round"]), float(row[column])) for row in rows if row.get(column)]


def _last(rows: Sequence[Mapping[str, str]], column: str) -> dict[str, float] | None:
    found = _column(rows, column)
    values = [value for number, value in found if number > found[-1][0] - 10]
    if not values:
        return None
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return {"mean": mean, "std": deviation, "evaluations": len(values)}


def _best(rows: Sequence[Mapping[str, str]], column: str) -> dict[str, float] | None:
    """The best evaluation on the test set: optimistic, for comparison with papers that print it."""
    values = _column(rows, column)
    if not values:
        return None
    number, value = max(values, key=lambda pair: pair[1])
    return {"value": value, "round": number}
