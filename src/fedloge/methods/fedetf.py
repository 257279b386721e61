"""FedETF (Li et al., No Fear of Classifier Biases: Neural Collapse Inspired Federated Learning, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloge.etf import simplex_etf
from fedloge.losses import balanced_softmax
from fedloge.methods.base import Batch, Method, View
from fedloge.models.base import Backbone
from fedloge.models.heads import FixedLinear


class FedETF(Method):
    """Unit-norm projected features u against a fixed simplex ETF V, a learnt temperature s, and a balanced loss.

    The generic model is argmax Vᵀu. The personal model is the same one: the authors' fine-tuning is not done.

    Args:
        backbone: θ.
        num_classes: C; u has as many dimensions.
        count_floor: Smallest class count assumed by the balanced loss (the authors have 1).
        **kwargs: Local SGD, see :class:`Method`.
    """

    fixed = ("etf",)

    def __init__(self, backbone: Backbone, num_classes: int, count_floor: int = 1, **kwargs: Any) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        self.count_floor = count_floor
        self.projection = nn.Linear(backbone.out_features, num_classes)
        self.scale = nn.Parameter(torch.ones(()))
        self.etf = FixedLinear(num_classes, num_classes)

    def prepare(self, generator: torch.Generator) -> None:
        """The server draws V."""
        self.etf.weight.copy_(simplex_etf(self.num_classes, self.num_classes, generator))

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """u = (P h + p0) / ‖P h + p0‖."""
        return functional.normalize(self.projection(self.backbone(images)))

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """CE(s·Vᵀu + log max(n_{k,·}, floor), y)."""
        images, labels = batch
        logits = self.scale * self.logits(self.features(images), "global")
        return {"balanced": balanced_softmax(logits, labels, self.client.class_counts, floor=self.count_floor)}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """Vᵀu."""
        logits: Tensor = self.etf(features)
        return logits
