"""FedLC (Zhang et al., Federated Learning with Label Distribution Skew via Logits Calibration, ICML 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_not_negative
from fedloge.methods.base import Batch
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedLC(FedAvg):
    """FedAvg whose clients lower the logit of a class by τ n_{k,c}^{-1/4} in the loss: the rarer, the more.

    A class that the client does not have gets -∞, and so no gradient.

    Args:
        backbone: θ.
        num_classes: C.
        tau: τ; 0 is FedAvg, up to the absent classes.
        **kwargs: Options of :class:`FedAvg`.
    """

    def __init__(self, backbone: Backbone, num_classes: int, tau: float = 1.0, **kwargs: Any) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.tau", tau, "The authors have 1.")
        self.tau = tau

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """CE(W h - τ n_{k,·}^{-1/4}, y)."""
        images, labels = batch
        logits = self.head(self.features(images))
        margins = self.own_counts.clamp(min=1) ** -0.25
        calibrated = (logits - self.tau * margins).masked_fill(self.own_counts == 0, float("-inf"))
        return {"calibrated": functional.cross_entropy(calibrated, labels)}
