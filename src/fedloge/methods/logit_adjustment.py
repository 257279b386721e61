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

    The prior N_c / N is that of all clients together, which is privileged knowledge of the server.

    Args:
        backbone: θ.
        num_classes: C.
        tau: Strength τ with which the prior is removed; 1 removes all of it.
        mode: ``train`` adds τ log π to the logits in the loss; ``posthoc`` trains as FedAvg does and subtracts it
            from the generic model's logits (the personal models keep the prior, which is partly their own).
        **kwargs: Options of :class:`FedAvg`.
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
        check_not_negative("model.tau", tau, "1 removes the whole prior.")
        check_choice("model.mode", mode, ("train", "posthoc"))
        self.tau, self.mode = tau, mode
        self.register_buffer("class_counts", torch.ones(num_classes))
        self.class_counts: Tensor

    def prepare(self, generator: torch.Generator) -> None:
        """Store N_c, which the server broadcasts; a class without images counts as one."""
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
        """W h, or W h - τ log N for the post-hoc adjusted generic model."""
        logits = super().logits(features, view)
        return logits - self.tau * self.class_counts.log() if (self.mode, view) == ("posthoc", "global") else logits
