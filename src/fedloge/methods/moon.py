"""MOON (Li, He & Song, Model-Contrastive Federated Learning, CVPR 2021)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_not_negative, check_positive
from fedloge.methods.base import Batch, Phase
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class MOON(FedAvg):
    """FedAvg that pulls features towards those of the received body, and away from those of the client's last one.

    A client adds μ · -log[exp(cos(h, h_received)/τ) / (exp(cos(h, h_received)/τ) + exp(cos(h, h_previous)/τ))] to its
    loss. The previous body is the client's own after its last training, at first the initial one.

    Args:
        backbone: θ.
        num_classes: C.
        mu: μ; the authors have 5 for CIFAR-10 and 1 for CIFAR-100. 0 is FedAvg.
        temperature: τ.
        **kwargs: Options of :class:`FedAvg`.
    """

    personal = ("previous",)

    def __init__(
        self, backbone: Backbone, num_classes: int, mu: float = 1.0, temperature: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.mu", mu, "The authors have 1 and 5.")
        check_positive("model.temperature", temperature, "The authors have 0.5.")
        self.mu, self.temperature = mu, temperature
        self.previous = copy.deepcopy(self.backbone)

    def phases(self, local_epochs: int) -> Sequence[Phase]:
        """One phase, in which the previous body stays as it is."""
        return (Phase("train", local_epochs, ("backbone", "head")),)

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy, and the contrast between the received and the previous body."""
        images, labels = batch
        h = self.features(images)
        with torch.no_grad():
            others = self.received_features(images), self.previous(images)
        similarities = [functional.cosine_similarity(h, other) / self.temperature for other in others]
        contrast = functional.cross_entropy(torch.stack(similarities, 1), torch.zeros_like(labels))
        return {"ce": functional.cross_entropy(self.head(h), labels), "contrast": self.mu * contrast}

    def after_training(self, batches: Iterable[Batch]) -> None:
        """The trained body is the previous one of the client's next round."""
        self.previous.load_state_dict(self.backbone.state_dict())
