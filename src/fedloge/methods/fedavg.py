"""FedAvg (McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fedloge.methods.base import Batch, Method, View
from fedloge.models.base import Backbone


class FedAvg(Method):
    """Average locally trained models.

    Everything is shared; a client minimises the cross-entropy over all parameters. The generic model is the server's,
    and so is every personal one: the same weights, tested on the client's own distribution.

    Args:
        backbone: θ.
        num_classes: C.
        **kwargs: Local SGD, see :class:`Method`.
    """

    def __init__(self, backbone: Backbone, num_classes: int, **kwargs: Any) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        self.head = nn.Linear(backbone.out_features, num_classes)

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy of body and head."""
        images, labels = batch
        return {"ce": functional.cross_entropy(self.head(self.features(images)), labels)}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """The one head, for either view."""
        logits: Tensor = self.head(features)
        return logits
