"""FedProx (Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fedloge.checks import check_not_negative
from fedloge.losses import proximal
from fedloge.methods.base import Batch
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedProx(FedAvg):
    """FedAvg with a pull towards the received model: cross-entropy + (μ/2)‖w - w^t‖².

    Args:
        backbone: θ.
        num_classes: C.
        mu: μ; the authors tune it in {0.001, 0.01, 0.1, 1}. 0 is FedAvg.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    def __init__(self, backbone: Backbone, num_classes: int, mu: float = 0.01, **kwargs: Any) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.mu", mu, "The authors' grid is 0.001 to 1.")
        self.mu = mu

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """FedAvg's, and the proximal term over the parameters."""
        losses = super().local_losses(batch)
        if self.mu == 0:
            return losses
        return {**losses, "proximal": self.mu * proximal(self.named_parameters(), self.anchor)}
