"""Fed-RoD (Chen & Chao, On Bridging Generic and Personalized Federated Learning, ICLR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_not_negative
from fedloge.losses import balanced_softmax
from fedloge.methods.base import Batch, View
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedROD(FedAvg):
    """A generic head G trained with a class-balanced loss, and a private head P_k that learns the residual.

    The generic model is G h, the personal one G h + P_k h. P_k starts at zero and never trains the body or G.

    Args:
        backbone: θ.
        num_classes: C.
        balanced: Balance G's loss by the client's training counts; False gives the variant with plain cross-entropy.
        count_floor: Smallest class count assumed; 0 gives an absent class no gradient, 1 pushes it down.
        personal_lr: Learning rate of P_k; None takes ``lr``.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    personal = ("personal_head",)
    idle: ClassVar = {("balanced", False): ("count_floor",)}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        balanced: bool = True,
        count_floor: int = 0,
        personal_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.count_floor", count_floor, "Choose 0 or 1.")
        check_not_negative("model.personal_lr", personal_lr, "null takes model.lr.")
        self.balanced, self.count_floor, self.personal_lr = balanced, count_floor, personal_lr
        self.personal_head = nn.Linear(backbone.out_features, num_classes)
        nn.init.zeros_(self.personal_head.weight)
        nn.init.zeros_(self.personal_head.bias)

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Balanced loss of G for body and G; cross-entropy of the sum, all but P_k detached."""
        images, labels = batch
        h = self.features(images)
        generic = self.head(h)
        if self.balanced:
            loss = balanced_softmax(generic, labels, self.own_counts, floor=self.count_floor)
        else:
            loss = functional.cross_entropy(generic, labels)
        both = generic.detach() + self.personal_head(h.detach())
        return {"generic": loss, "personal": functional.cross_entropy(both, labels)}

    def learning_rates(self) -> Mapping[str, float]:
        """Learning rate of P_k, if given."""
        return {} if self.personal_lr is None else {"personal_head": self.personal_lr}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """G h, plus P_k h for the personal model."""
        logits = super().logits(features, view)
        return logits if view == "global" else logits + self.personal_head(features)
