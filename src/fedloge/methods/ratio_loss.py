"""Ratio Loss (Wang et al., Addressing Class Imbalance in Federated Learning, AAAI 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_least, check_not_negative
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.losses import head_gradients, update_ratios
from fedloge.methods.base import Batch
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class RatioLoss(FedAvg):
    """The server probes the model with balanced images of its own and weights everyone's loss by class.

    For each class the probe takes one gradient step of the head on that class's images; from how far the classes move
    it (:func:`fedloge.losses.update_ratios`) come ratios R_c, and the weights α + β R_c of the next rounds' loss. The
    images of the server are privileged knowledge.

    Args:
        backbone: θ.
        num_classes: C.
        alpha: Constant α of the class weights.
        beta: Factor β of the ratios in the class weights; 0 is FedAvg.
        refresh_every: Rounds between two probes, the first of which is in the first round.
        **kwargs: Options of :class:`FedAvg`.
    """

    renewed = ("class_weights",)
    privileged = ("auxiliary",)
    idle: ClassVar = {("beta", 0): ("refresh_every",)}

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        alpha: float = 1.0,
        beta: float = 0.1,
        refresh_every: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.alpha", alpha, "The authors have 1.")
        check_not_negative("model.beta", beta, "The authors have 0.1; 0 is FedAvg.")
        check_least("model.refresh_every", refresh_every, 1)
        self.alpha, self.beta, self.refresh_every = alpha, beta, refresh_every
        self.register_buffer("class_weights", torch.ones(num_classes))
        self.class_weights: Tensor

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """mean_i a_{y_i} · CE_i."""
        images, labels = batch
        losses = functional.cross_entropy(self.head(self.features(images)), labels, reduction="none")
        return {"ratio": (self.class_weights[labels] * losses).mean()}

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average and, if a probe is due, new class weights from w^t, the model at the start of the round."""
        averaged = super().aggregate(updates, state, generator)
        if state.round % self.refresh_every:
            return averaged
        return {**averaged, "class_weights": self.alpha + self.beta * self.probe(state)}

    @torch.no_grad()
    def probe(self, state: FederatedState) -> Tensor:
        """R_c [C] of the model in ``state``."""
        assert self.server_data.auxiliary is not None
        images, labels = (tensor.to(self.device) for tensor in self.server_data.auxiliary)
        self.load(state.shared, {})
        self.eval()
        h = torch.cat([self.features(part) for part in torch.split(images, 500)])
        steps, _ = head_gradients(self.head(h), h, labels)
        return update_ratios(-steps).cpu()
