"""APFL (Deng, Kamani & Mahdavi, Adaptive Personalized Federated Learning, arXiv 2003.13461, 2020)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_share
from fedloge.methods.base import Batch, View, within
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class APFL(FedAvg):
    """FedAvg for the generic model w, and personal mixtures α_k v_k + (1-α_k) w with models v_k of the clients.

    In every step w is trained as in FedAvg, and v_k and α_k by the loss of the mixture, through which no gradient
    reaches w. The mixture has the BatchNorm statistics of v_k.

    Args:
        backbone: θ.
        num_classes: C.
        alpha: α_k before the first round.
        adaptive: Learn α_k, kept within [0, 1].
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    personal = ("own_backbone", "own_head", "alpha")
    bodies = ("backbone", "own_backbone")

    def __init__(
        self, backbone: Backbone, num_classes: int, alpha: float = 0.5, adaptive: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_share("model.alpha", alpha)
        self.adaptive = adaptive
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self.own_backbone, self.own_head = copy.deepcopy(self.backbone), copy.deepcopy(self.head)

    def mixed(self, part: str, inputs: Tensor) -> Tensor:
        """Output of the mixture's ``backbone`` or ``head``."""
        alpha = self.alpha if self.adaptive else self.alpha.detach()
        generic = dict(getattr(self, part).named_parameters())
        own = getattr(self, f"own_{part}")
        weights = {name: alpha * v + (1 - alpha) * generic[name].detach() for name, v in own.named_parameters()}
        output: Tensor = torch.func.functional_call(own, weights, (inputs,))
        return output

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy of w, and of the mixture."""
        images, labels = batch
        self._clamp()
        logits = self.mixed("head", self.mixed("backbone", images))
        return {**super().local_losses(batch), "personal": functional.cross_entropy(logits, labels)}

    def after_training(self, batches: Iterable[Batch]) -> None:
        """Bring α_k back into [0, 1]."""
        self._clamp()

    @torch.no_grad()
    def _clamp(self) -> None:
        self.alpha.clamp_(0, 1)

    def sgd_options(self) -> Mapping[str, Mapping[str, float]]:
        """No weight decay of α_k."""
        return {"alpha": {"weight_decay": 0.0}}

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """Through the body of w or of the mixture."""
        return super().features(images, view) if view == "global" else self.mixed("backbone", images)

    def logits(self, features: Tensor, view: View) -> Tensor:
        """The head of w or of the mixture."""
        return super().logits(features, view) if view == "global" else self.mixed("head", features)

    def has_own_body(self, personal: Mapping[str, Tensor]) -> bool:
        """Every client has its own mixture."""
        return any(within(name, "own_backbone") for name in personal)
