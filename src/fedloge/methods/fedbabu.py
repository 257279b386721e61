"""FedBABU (Oh et al., FedBABU: Toward Enhanced Representation for Federated Image Classification, ICLR 2022)."""

from __future__ import annotations

from typing import Any, Literal

from fedloge.methods.fedavg_ft import FedAvgFT
from fedloge.models.base import Backbone


class FedBABU(FedAvgFT):
    """Federate the body through one random head that nobody trains; fine-tune both for the personal models.

    Args:
        backbone: θ.
        num_classes: C.
        finetune_epochs: Epochs of fine-tuning after the last round; 0 leaves the personal model the generic one.
        finetune_part: ``full`` as in the paper, or the ``head`` alone.
        finetune_lr: Learning rate of fine-tuning; None takes a tenth of ``lr``.
        **kwargs: Options of :class:`FedAvg`.
    """

    fixed = ("head",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        finetune_epochs: int = 5,
        finetune_part: Literal["head", "full"] = "full",
        finetune_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, finetune_epochs, finetune_part, finetune_lr, **kwargs)
        self.finetune_lr = self.lr / 10 if finetune_lr is None else finetune_lr
