"""FedLF (Lu et al., FedLF: Adaptive Logit Adjustment and Feature Optimization in Federated Long-Tailed Learning,
ACML 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_least, check_not_negative, check_share
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.methods.base import Batch
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedLF(FedAvg):
    """FedAvg with logits scaled by class counts, features held to class centres, and decorrelated features.

    In the loss the logit w_c·h is multiplied by α + (1-α) n_{k,c} / max_j n_{k,j}. From round ``warm_up`` + 1 on,
    features are pulled to the global centre of their class. The decorrelation is ‖K‖² / d² for the matrix K of
    correlations between the features of a batch.

    Args:
        backbone: θ.
        num_classes: C.
        alpha: α, the smallest factor of a logit; 1 leaves all as they are.
        centre: Weight of the mean absolute distance to the centres.
        decorrelation: Weight of the decorrelation.
        warm_up: Rounds before there are centres.
        **kwargs: Options of :class:`FedAvg`.
    """

    renewed = ("centres", "known")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        alpha: float = 0.5,
        centre: float = 0.5,
        decorrelation: float = 0.1,
        warm_up: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_share("model.alpha", alpha)
        check_not_negative("model.centre", centre, "0 turns it off.")
        check_not_negative("model.decorrelation", decorrelation, "0 turns it off.")
        check_least("model.warm_up", warm_up, 1)
        self.alpha, self.centre, self.decorrelation, self.warm_up = alpha, centre, decorrelation, warm_up
        self.register_buffer("centres", torch.zeros(num_classes, backbone.out_features))
        self.register_buffer("known", torch.zeros(num_classes))
        self.centres: Tensor
        self.known: Tensor

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy of the scaled logits, distance to the centres, and decorrelation."""
        images, labels = batch
        h = self.features(images)
        factors = self.alpha + (1 - self.alpha) * self.own_counts / self.own_counts.max()
        distances = (h - self.centres[labels]).abs().mean(1) * self.known[labels]
        return {
            "scaled": functional.cross_entropy(factors * self.head(h), labels),
            "centre": self.centre * distances.mean(),
            "decorrelation": self.decorrelation * correlation(h),
        }

    def report_trained(self, batches: Iterable[Batch]) -> Tensors:
        """Sum of the features of each class, [C, d]."""
        sums = torch.zeros_like(self.centres)
        for images, labels in batches:
            sums.index_add_(0, labels, self.features(images))
        return {"sums": sums}

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average, and after the warm-up the class centres of the round's clients."""
        old, known = state.shared.fixed["centres"], state.shared.fixed["known"]
        sums, counts = torch.zeros_like(old), old.new_zeros(len(old), 1)

        def reported() -> Iterator[ClientUpdate]:
            for update in updates:
                sums.add_(update.report["sums"])
                counts.add_(torch.tensor(update.class_counts).to(old).unsqueeze(1))
                yield update

        averaged = super().aggregate(reported(), state, generator)
        if state.round + 1 < self.warm_up:
            return averaged
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), old)
        return {**averaged, "centres": centres, "known": torch.maximum(known, (counts[:, 0] > 0).to(known))}


def correlation(features: Tensor) -> Tensor:
    """‖K‖² / d² of the correlations K [d, d] between features [n, d]; a constant feature correlates with none."""
    centred = features - features.mean(0)
    scaled = centred / (centred.square().mean(0) + 1e-8).sqrt()
    n, dim = features.shape
    return (scaled @ scaled.T).square().sum() / (n * dim) ** 2
