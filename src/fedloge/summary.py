"""The content of ``summary.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedloge.trainer import FederatedTrainer, Result

HEADLINES = {"global": "global/acc", "personal": "personal/acc_mean"}
"""The number of each view that stands for it, a column of ``metrics.csv``."""


def summarize(
    trainer: FederatedTrainer, result: Result, rows: Sequence[Mapping[str, str]], seconds: float
) -> dict[str, Any]:
    """The headline numbers (last round, realigned), the mean of the last ten evaluations and the labelled best.

    Args:
        trainer: The trainer that ran.
        result: The final evaluation.
        rows: ``metrics.csv``.
        seconds: Wall time of the run.
    """
    data, method = trainer.data, trainer.method
    realigned = result.after is not result.before
    return {
        "method": type(method).__name__,
        "dataset": data.source.name,
        "rounds": result.final.round,
        "seed": trainer.seed,
        "global": result.after.generic() or None,
        "personal": result.after.personal() or None,
        "before_realignment": {
            "global": result.before.generic() or None,
            "personal": result.before.personal() or None,
        }
        if realigned
        else None,
        "last10": {view: _last(rows, column) for view, column in HEADLINES.items()},
        "best": {view: _best(rows, column) for view, column in HEADLINES.items()},
        "shots": {"rule": trainer.shot_rule, "groups": list(result.after.groups)},
        "mask_absent": trainer.mask_absent,
        "partition_sha256": data.partition.sha256,
        "seconds": round(seconds, 3),
    }


def _column(rows: Sequence[Mapping[str, str]], column: str) -> list[tuple[int, float]]:
    return [(int(row["round"]), float(row[column])) for row in rows if row.get(column)]


def _last(rows: Sequence[Mapping[str, str]], column: str) -> dict[str, float] | None:
    values = [value for _, value in _column(rows, column)[-10:]]
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
