"""FedProto (Tan et al., FedProto: Federated Prototype Learning across Heterogeneous Clients, AAAI 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_choice, check_not_negative
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.methods.base import Batch, View
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedProto(FedAvg):
    """Every client trains a model of its own; only class means of features travel, and pull the features together.

    After its training a client reports the mean feature of each of its classes. The server averages these to
    prototypes, to which clients hold their features in the next round. There is no generic model.

    Args:
        backbone: θ.
        num_classes: C.
        lam: λ, the weight of the squared distance to the prototypes.
        inference: The class whose row of the ``head`` answers most, or whose prototype is ``nearest``.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    personal = ("backbone", "head")
    renewed = ("prototypes", "known")
    views = ("personal",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        lam: float = 1.0,
        inference: Literal["head", "nearest"] = "head",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.lam", lam, "The authors have 1; 0 is local training.")
        check_choice("model.inference", inference, ("head", "nearest"))
        self.lam, self.inference = lam, inference
        self.register_buffer("prototypes", torch.zeros(num_classes, backbone.out_features))
        self.register_buffer("known", torch.zeros(num_classes))
        self.prototypes: Tensor
        self.known: Tensor

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy, and λ · mean squared distance to the prototypes, for the classes that have one."""
        images, labels = batch
        h = self.features(images)
        gaps = (h - self.prototypes[labels]).square().mean(1) * self.known[labels]
        return {"ce": functional.cross_entropy(self.head(h), labels), "prototypes": self.lam * gaps.mean()}

    def report_trained(self, batches: Iterable[Batch]) -> Tensors:
        """Sum of the features of each class, [C, d]."""
        sums = torch.zeros_like(self.prototypes)
        for images, labels in batches:
            sums.index_add_(0, labels, self.features(images))
        return {"sums": sums}

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """Σ_k n_{k,c} mean_{k,c} / Σ_k n_{k,c} for the classes that the clients of the round have."""
        old, known = state.shared.fixed["prototypes"], state.shared.fixed["known"]
        sums, counts = torch.zeros_like(old), old.new_zeros(len(old), 1)
        for update in updates:
            sums.add_(update.report["sums"])
            counts.add_(torch.tensor(update.class_counts).to(old).unsqueeze(1))
        means = torch.where(counts > 0, sums / counts.clamp(min=1), old)
        return {"prototypes": means, "known": torch.maximum(known, (counts[:, 0] > 0).to(known))}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """Scores of the head, or minus the distances to the prototypes."""
        if self.inference == "head":
            return super().logits(features, view)
        return -torch.cdist(features, self.prototypes).masked_fill(self.known == 0, float("inf"))
