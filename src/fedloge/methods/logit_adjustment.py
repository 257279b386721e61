"""FedAvg with logit adjustment (Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from fedloge.checks import check_choice, check_not_negative
from fedloge.losses import balanced_softmax
from fedloge.methods.base import Batch, View
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class LogitAdjustment(FedAvg):
    """FedAvg with the class prior taken out of the logits: the cheap control for every long-tail method.

    The prior is that of all clients together, N_c / N, which the server has to be told: privileged knowledge.

    Args:
        backbone: θ.
        num_classes: C.
        tau: How much of the prior is taken out.
        mode: ``train`` adds τ log π to the logits in the loss; ``posthoc`` trains as FedAvg does and subtracts it
            from the generic model's logits (the personal models keep the prior, which is partly their own).
        **kwargs: As for FedAvg.
    """

    fixed = ("class_counts",)
    privileged = ("class_counts",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        tau: float = 1.0,
        mode: Literal["train", "posthoc"] = "train",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.tau", tau, "1 takes out the whole prior.")
        check_choice("model.mode", mode, ("train", "posthoc"))
        self.tau, self.mode = tau, mode
        self.register_buffer("class_counts", torch.ones(num_classes))
        self.class_counts: Tensor

    def prepare(self, generator: torch.Generator) -> None:
        """The server tells the clients N_c; a class without any image counts as one."""
        assert self.server_data.class_counts is not None
        self.class_counts.copy_(torch.tensor(self.server_data.class_counts).clamp(min=1))

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """CE(W h + τ log N, y), or plain CE."""
        if self.mode == "posthoc":
            return super().local_losses(batch)
        images, labels = batch
        logits = self.head(self.features(images))
        return {"adjusted": balanced_softmax(logits, labels, self.class_counts, strength=self.tau)}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """As trained, or W h - τ log N for the generic model."""
        logits = super().logits(features, view)
        return logits - self.tau * self.class_counts.log() if (self.mode, view) == ("posthoc", "global") else logits
