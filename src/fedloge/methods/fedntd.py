"""FedNTD (Lee et al., Preservation of the Global Knowledge by Not-True Distillation, NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_not_negative, check_positive
from fedloge.methods.base import Batch
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedNTD(FedAvg):
    """FedAvg that distils what the received model says about the classes other than the true one.

    Args:
        backbone: θ.
        num_classes: C, at least 3: of two classes only one is not true.
        beta: β, the weight of the distillation; 0 is FedAvg.
        temperature: T of the distillation.
        **kwargs: Options of :class:`FedAvg`.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, beta: float = 1.0, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.beta", beta, "The authors have 1.")
        check_positive("model.temperature", temperature, "The authors have 1.")
        self.beta, self.temperature = beta, temperature

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy, and β · KL from the received model's to this one's distribution over the not-true classes."""
        images, labels = batch
        logits = self.head(self.features(images))
        with torch.no_grad():
            h = self.received_features(images)
            teacher = functional.linear(h, self.anchor["head.weight"], self.anchor["head.bias"])
        distilled = not_true_divergence(teacher, logits, labels, self.temperature)
        return {"ce": functional.cross_entropy(logits, labels), "distillation": self.beta * distilled}


def not_true_divergence(teacher: Tensor, student: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T² · KL between softmaxes over the classes that are not the true one, mean over the batch.

    Args:
        teacher: Logits [n, C], without a gradient.
        student: Logits [n, C].
        labels: int64 [n].
        temperature: T.
    """
    classes = torch.arange(student.shape[1] - 1, device=labels.device)
    others = classes + (classes >= labels[:, None])
    target, scores = (torch.log_softmax(z.gather(1, others) / temperature, 1) for z in (teacher, student))
    return temperature**2 * functional.kl_div(scores, target, reduction="batchmean", log_target=True)
