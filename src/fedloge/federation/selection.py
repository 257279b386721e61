"""Keeping the checkpoint of the round with the best validation result, beside the last."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from fedloge.data.datamodule import FederatedDataModule
from fedloge.errors import ConfigError, did_you_mean
from fedloge.federation.parts import Parts
from fedloge.federation.progress import Progress
from fedloge.federation.results import finalize_and_test
from fedloge.runs.measures import COLUMNS, VALIDATION_PREFIX, higher_is_better
from fedloge.runs.summary import views

BEST, BEST_FINAL = "best", "best-final"
"""Checkpoints of the chosen round: as trained, and with its final models."""


def check_metric(metric: str | None) -> None:
    """Check that ``trainer.keep_best`` names a validation result.

    Raises:
        ConfigError: If it is measured on test data, or unknown.
    """
    if metric is None:
        return
    known = [VALIDATION_PREFIX + column for column in COLUMNS]
    if not metric.startswith(VALIDATION_PREFIX):
        remedy = (
            f"Choose {VALIDATION_PREFIX}{metric}." if VALIDATION_PREFIX + metric in known else f"Choose {known[0]}."
        )
        raise ConfigError("trainer.keep_best", metric, "is no validation result; test data select nothing", remedy)
    if metric not in known:
        remedy = did_you_mean(metric, known).strip() or f"Choose one of {', '.join(known)}."
        raise ConfigError("trainer.keep_best", metric, "is unknown", remedy)


def check_validation(metric: str | None, data: FederatedDataModule) -> None:
    """Check that there are images that ``trainer.keep_best`` can choose by.

    Raises:
        ConfigError: If no client has validation images.
    """
    if metric is not None and data.validation() is None:
        remedy = "Set --data.val_fraction=0.1, or choose a source with validation images."
        raise ConfigError("trainer.keep_best", metric, "but no client has validation images", remedy)


@dataclass(frozen=True)
class Selection:
    """Chooses a round of a run by its validation results. Ties go to the earlier round.

    The choice is read from ``metrics.csv``, so a resumed run makes the same one.

    Args:
        metric: Column of ``metrics.csv``, ``val/global/acc`` for example.
        run: Parts of the run.
    """

    metric: str
    run: Parts

    def best(self) -> tuple[int, float] | None:
        """Number and value of the best round so far; None before the first."""
        rows = [row for row in self.run.folder.rows("metrics.csv") if row.get(self.metric)]
        values = [(int(row["round"]), float(row[self.metric])) for row in rows]
        sign = 1 if higher_is_better(self.metric) else -1
        return max(values, key=lambda pair: sign * pair[1], default=None)

    def keep(self, progress: Progress) -> None:
        """Save the state of the last completed round if it is the best so far."""
        found = self.best()
        if found and found[0] == progress.state.round:
            about = {"chosen_by": self.metric, "value": found[1]}
            self.run.folder.checkpoints.save(BEST, progress.state, {**self.run.identity(), **progress.info(), **about})

    def summary(self) -> dict[str, Any]:
        """Finalise, test and save the chosen round's models; its entry in ``summary.json``."""
        checkpoints, found = self.run.folder.checkpoints, self.best()
        if found is None or checkpoints.read_info(BEST)["round"] != found[0]:
            warnings.warn(f"no round is kept: its checkpoint is not that of the best {self.metric}", stacklevel=2)
            return {}
        state = checkpoints.load(BEST)
        result = finalize_and_test(self.run, state, train=True)
        about = {"metric": self.metric, "round": found[0], "value": found[1]}
        checkpoints.save(BEST_FINAL, result.final, {**self.run.identity(), **about})
        return {"selected": {**about, **views(result.after)}}
