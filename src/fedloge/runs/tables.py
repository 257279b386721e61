"""Rows of the tables in a run folder, and the names of its models in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.evaluation.evaluator import Evaluation
from fedloge.evaluation.metrics import per_class_accuracy
from fedloge.methods.base import View

Row = dict[str, Any]


@dataclass(frozen=True)
class ModelView:
    """A model of a run whose numbers a table holds.

    Args:
        model: ``global``, the generic model, or ``personal``, the personal models.
        before: Whether the numbers are from before the last step of the method (realignment, fine-tuning).
    """

    model: View
    before: bool = False

    @property
    def name(self) -> str:
        """Name in the column ``view`` of the tables: ``global`` or ``global_before``, for example."""
        return self.model + ("_before" if self.before else "")

    @property
    def prefix(self) -> str:
        """Prefix of its columns of ``metrics.csv``: ``global/`` or ``before_realignment/global/``, for example."""
        return ("before_realignment/" if self.before else "") + f"{self.model}/"

    @classmethod
    def parse(cls, name: str) -> ModelView:
        """The view of a name in the tables.

        Raises:
            ValueError: If there is no such view.
        """
        for view in VIEWS:
            if view.name == name:
                return view
        raise ValueError(f"view {name!r} is not one of {', '.join(view.name for view in VIEWS)}")


VIEWS = tuple(ModelView(model, before) for model in ("global", "personal") for before in (False, True))


def class_rows(
    round: int, evaluation: Evaluation, before: bool, names: Sequence[str], n_train: Sequence[int]
) -> list[Row]:
    """Rows of ``per_class.csv``: the accuracy of each class by each model that the method has.

    Args:
        round: Round that was evaluated.
        evaluation: Its test results.
        before: Whether these are from before the last step of the method.
        names: Class names, length C.
        n_train: Training images of each class, length C.
    """
    rows: list[Row] = []
    for model, matrix in evaluation.confusions().items():
        columns = zip(names, n_train, matrix.sum(1).tolist(), per_class_accuracy(matrix).tolist(), strict=True)
        for c, (name, train, tested, accuracy) in enumerate(columns):
            row = {"round": round, "view": ModelView(model, before).name, "class": c, "name": name}
            rows.append(row | {"n_train": int(train), "n_test": tested, "accuracy": accuracy})
    return rows


def client_rows(round: int, evaluation: Evaluation, before: bool, names: Sequence[str] = ()) -> list[Row]:
    """Rows of ``per_client.csv``: the scores of each client's personal model on its own test set.

    Args:
        round: Round that was evaluated.
        evaluation: Its test results.
        before: Whether these are from before the last step of the method.
        names: Names of all clients, if they have any.
    """
    return [
        {
            "round": round,
            "view": ModelView("personal", before).name,
            "client": score.client,
            "n_train": score.n_train,
            "n_test": score.n_test,
            "accuracy": score.accuracy,
            "macro_f1": score.macro_f1,
            "weighted_f1": score.weighted_f1,
            "balanced_acc": score.balanced_acc,
            **score.details,
            **({"name": names[score.client]} if names else {}),
        }
        for score in evaluation.clients
    ]


def confusion_rows(evaluation: Evaluation, before: bool) -> list[Row]:
    """Rows of ``confusion.csv``, one for every cell of a confusion matrix that is not zero."""
    return [
        {"view": ModelView(model, before).name, "class": c, "predicted": p, "count": int(matrix[c, p])}
        for model, matrix in evaluation.confusions().items()
        for c, p in matrix.nonzero().tolist()
    ]


def run_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many parents as are needed to tell them apart."""
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return ["/".join(folder.parts[-depth:]) for folder in folders]
