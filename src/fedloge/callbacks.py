"""What a callback of a federated run can hook into, beside Lightning's own hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning import Callback

if TYPE_CHECKING:
    from fedloge.trainer import FederatedTrainer


class FederatedCallback(Callback):
    """Base of callbacks for :class:`FederatedTrainer`; every hook does nothing by default."""

    def on_resume(self, trainer: FederatedTrainer) -> None:
        """Before a run goes on from a checkpoint, and before anything in its folder changes; may refuse by raising."""

    def on_run_start(self, trainer: FederatedTrainer) -> None:
        """The run folder exists and the data are split; no round has begun."""

    def on_round_start(self, trainer: FederatedTrainer, round: int, cohort: list[int]) -> None:
        """A round begins with these clients."""

    def on_client_end(self, trainer: FederatedTrainer, round: int, client: int) -> None:
        """A client of the round has been trained."""

    def on_round_end(self, trainer: FederatedTrainer, round: int, metrics: Mapping[str, float]) -> None:
        """A round is over; ``metrics`` is a row of ``metrics.csv``, or empty where the round was not evaluated."""

    def on_run_end(self, trainer: FederatedTrainer, summary: Mapping[str, Any]) -> None:
        """The final models are evaluated and saved; ``summary`` is the content of ``summary.json``."""
