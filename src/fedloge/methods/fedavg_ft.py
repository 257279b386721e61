"""FedAvg with local fine-tuning: the plain control for every personalised method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from fedloge.checks import check_choice, check_not_negative
from fedloge.federation.state import FederatedState
from fedloge.methods.base import Client, Phase, TrainClients
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedAvgFT(FedAvg):
    """FedAvg whose final model every client fine-tunes on its own data and keeps; the generic one stays as it is.

    Until the last round is over, the personal model is the generic one.

    Args:
        backbone: θ.
        num_classes: C.
        finetune_epochs: Epochs of fine-tuning; 0 leaves the personal model the generic one.
        finetune_part: Part to fine-tune: the ``head`` on the frozen body, or the ``full`` model.
        finetune_lr: Learning rate of fine-tuning; None takes ``lr``.
        **kwargs: Options of :class:`FedAvg`.
    """

    idle: ClassVar = {("finetune_epochs", 0): ("finetune_part", "finetune_lr")}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        finetune_epochs: int = 5,
        finetune_part: Literal["head", "full"] = "head",
        finetune_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.finetune_epochs", finetune_epochs, "0 turns it off.")
        check_choice("model.finetune_part", finetune_part, ("head", "full"))
        check_not_negative("model.finetune_lr", finetune_lr, "null takes model.lr.")
        self.finetune_epochs, self.finetune_part, self.finetune_lr = finetune_epochs, finetune_part, finetune_lr

    def learning_rates(self) -> Mapping[str, float]:
        """Learning rate of fine-tuning, if given."""
        if self.phase.name != "finetune" or self.finetune_lr is None:
            return {}
        return dict.fromkeys(("backbone", "head"), self.finetune_lr)

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """Every client fine-tunes the generic model and keeps the result as its personal model."""
        if train is None or self.finetune_epochs == 0:
            return state
        parts = ("backbone", "head") if self.finetune_part == "full" else ("head",)
        return replace(state, clients=train(state, (Phase("finetune", self.finetune_epochs, parts, keep=parts),)))
