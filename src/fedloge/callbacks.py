"""Hooks of a federated run for callbacks, beside Lightning's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning import Callback

if TYPE_CHECKING:
    from fedloge.trainer import FederatedTrainer


class FederatedCallback(Callback):
    """Base of callbacks for :class:`FederatedTrainer`; every hook does nothing by default."""

    def on_resume(self, trainer: FederatedTrainer) -> None:
        """Called before a run resumes and before anything in its folder changes; may refuse by raising."""

    def on_run_start(self, trainer: FederatedTrainer) -> None:
        """Called when the run folder exists and the data are split, before the first round."""

    def on_round_start(self, trainer: FederatedTrainer, round: int, cohort: list[int]) -> None:
        """Called before a round with the clients of its cohort."""

    def on_client_end(self, trainer: FederatedTrainer, round: int, client: int) -> None:
        """Called after a client of the round has been trained."""

    def on_round_end(self, trainer: FederatedTrainer, round: int, metrics: Mapping[str, float]) -> None:
        """Called after a round; ``metrics`` is its row of ``metrics.csv``, empty if it was not evaluated."""

    def on_run_end(self, trainer: FederatedTrainer, summary: Mapping[str, Any]) -> None:
        """Called when the final models are saved; ``summary`` is the content of ``summary.json``."""
