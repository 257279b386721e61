"""Fed-GraB (Xiao et al., Fed-GraB: Federated Long-tailed Learning with Self-Adjusting Gradient Balancer,
NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_not_negative
from fedloge.methods.base import Batch
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedGraB(FedAvg):
    """FedAvg with a binary loss per class, in which a controller of each client balances every class's gradients.

    The client accumulates Δ_c, the sizes of the positive gradients of logit c minus those of the negative ones. A PID
    controller with target Δ_c = 0 gives an output u_c, and the positive examples of the class the weight
    f(u_c) = (10/9) / (1/9 + exp(-0.05 u_c)), which is 1 at zero and at most 10. Negative ones have weight 1.

    Args:
        backbone: θ.
        num_classes: C.
        proportional: K_P of the controller.
        integral: K_I.
        derivative: K_D.
        **kwargs: Options of :class:`FedAvg`.
    """

    personal = ("balance", "errors", "output")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        proportional: float = 10.0,
        integral: float = 0.01,
        derivative: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        for name, value in (("proportional", proportional), ("integral", integral), ("derivative", derivative)):
            check_not_negative(f"model.{name}", value, "The authors have 10, 0.01 and 0.1.")
        self.proportional, self.integral, self.derivative = proportional, integral, derivative
        self.register_buffer("balance", torch.zeros(num_classes))
        self.register_buffer("errors", torch.zeros(2, num_classes))
        self.register_buffer("output", torch.zeros(num_classes))
        self.balance: Tensor
        self.errors: Tensor
        self.output: Tensor

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Σ_c of the weighted binary cross-entropies, mean over the batch."""
        images, labels = batch
        logits = self.head(self.features(images))
        classes = torch.arange(self.num_classes, device=labels.device)  # one_hot would read values back
        positive = (labels[:, None] == classes).to(logits)
        weights = positive * self.positive_weights() + 1 - positive
        sizes = weights * (logits.detach().sigmoid() - positive).abs() / len(labels)
        self.balance.add_((sizes * (2 * positive - 1)).sum(0).to(self.balance))
        losses = functional.binary_cross_entropy_with_logits(logits, positive, weights, reduction="sum")
        return {"balanced": losses / len(labels)}

    def positive_weights(self) -> Tensor:
        """Weights f(u) [C] after an incremental step of the controller."""
        error, (last, before) = -self.balance, self.errors
        step = self.proportional * (error - last) + self.integral * error
        self.output.add_(step + self.derivative * (error - 2 * last + before))
        self.errors.copy_(torch.stack([error, last]))
        return (10 / 9) / (1 / 9 + torch.exp(-0.05 * self.output))
