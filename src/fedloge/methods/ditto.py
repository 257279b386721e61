"""Ditto (Li et al., Fair and Robust Federated Learning Through Personalization, ICML 2021)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_not_negative
from fedloge.losses import proximal
from fedloge.methods.base import Batch, Phase, View
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class Ditto(FedAvg):
    """FedAvg for the generic model w, and a private model v_k with v ← v - η[∇F_k(v) + λ(v - w^t)].

    Args:
        backbone: θ.
        num_classes: C.
        lam: λ, how strongly v_k is held near the received w^t; 0 is local training. Keep lr · λ below 1.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    personal = ("personal_backbone", "personal_head")
    bodies = ("backbone", "personal_backbone")

    def __init__(self, backbone: Backbone, num_classes: int, lam: float = 0.75, **kwargs: Any) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.lam", lam, "Usual values are 0.1, 0.75 and 2.")
        self.lam = lam
        self.personal_backbone = copy.deepcopy(self.backbone)
        self.personal_head = copy.deepcopy(self.head)

    def phases(self, local_epochs: int) -> Sequence[Phase]:
        """w as FedAvg trains it, then v_k on batches of its own; the order does not matter, the anchor is w^t."""
        return (
            Phase("generic", local_epochs, trainable=("backbone", "head")),
            Phase("personal", local_epochs, trainable=self.personal),
        )

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy of the phase's model, and for v_k the proximal term."""
        if self.phase.name == "generic":
            return super().local_losses(batch)
        images, labels = batch
        logits = self.personal_head(self.features(images, "personal"))
        losses = {"personal": functional.cross_entropy(logits, labels)}
        if self.lam:
            own = [(n.removeprefix("personal_"), p) for n, p in self.named_parameters() if n.startswith("personal_")]
            losses["proximal"] = self.lam * proximal(own, self.anchor)
        return losses

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """Through the body of w or of v_k."""
        features: Tensor = (self.backbone if view == "global" else self.personal_backbone)(images)
        return features

    def logits(self, features: Tensor, view: View) -> Tensor:
        """The head of w or of v_k."""
        return super().logits(features, view) if view == "global" else self.personal_head(features)
