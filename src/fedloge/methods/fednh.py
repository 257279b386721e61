"""FedNH (Dai et al., Tackling Data Heterogeneity in Federated Learning with Class Prototypes, AAAI 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_choice, check_positive, check_share
from fedloge.etf import closest_frame, simplex_etf
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.methods.base import Backward, Batch, Losses, Method, Phase, View
from fedloge.models.base import Backbone
from fedloge.models.heads import FixedLinear, random_head


class FedNH(Method):
    """A head of unit prototypes that clients never train and the server moves slowly towards the class means.

    The prototypes W start spread evenly over the sphere. Logits are s·W ĥ with ĥ = h/‖h‖ and a learnt scale s. After
    its training a client reports the mean ĥ of each of its classes. The generic model is the server's, the personal
    one the client's own as it was just before the server averaged.

    Args:
        backbone: θ.
        num_classes: C.
        rho: ρ of W ← norm(ρ W + (1-ρ) means).
        scale: s before training.
        start: W before training: an ``etf``, or ``orthogonal`` rows, which the authors' code has.
        clip: Largest norm of a step's gradient, all parameters together.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    renewed = ("prototypes",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        rho: float = 0.9,
        scale: float = 20.0,
        start: Literal["etf", "orthogonal"] = "etf",
        clip: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_share("model.rho", rho)
        check_choice("model.start", start, ("etf", "orthogonal"))
        check_positive("model.clip", clip, "The authors have 10.")
        self.rho, self.start, self.clip = rho, start, clip
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.prototypes = FixedLinear(backbone.out_features, num_classes)

    def prepare(self, generator: torch.Generator) -> None:
        """The server spreads W: a simplex ETF where the dimension allows one, the closest frame otherwise."""
        shape = self.num_classes, self.backbone.out_features
        if self.start == "orthogonal":
            self.prototypes.weight.copy_(functional.normalize(random_head(*shape, "orthogonal", generator)))
            return
        frame = (simplex_etf if shape[1] >= shape[0] - 1 else closest_frame)(*shape, generator)
        self.prototypes.weight.copy_(functional.normalize(frame))

    def phases(self, local_epochs: int) -> Sequence[Phase]:
        """One phase that trains body and scale; the client keeps its trained model."""
        return (Phase("train", local_epochs, ("backbone", "scale"), keep=("backbone", "scale", "prototypes")),)

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """CE(s·W ĥ, y)."""
        images, labels = batch
        return {"ce": functional.cross_entropy(self.logits(self.features(images), "personal"), labels)}

    def local_gradients(self, batch: Batch, optimizer: Any, backward: Backward = torch.autograd.backward) -> Losses:
        """Gradients of the loss, scaled down where their norm is above ``clip``."""
        losses = super().local_gradients(batch, optimizer, backward)
        nn.utils.clip_grad_norm_(self.parameters(), self.clip)
        return losses

    def report_trained(self, batches: Iterable[Batch]) -> Tensors:
        """Mean ĥ of each class, scaled to unit norm, [C, d]; zero for a class that the client does not have."""
        sums = torch.zeros_like(self.prototypes.weight)
        for images, labels in batches:
            sums.index_add_(0, labels, functional.normalize(self.features(images)))
        return {"means": functional.normalize(sums)}

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average, and W ← norm(ρ W + (1-ρ) norm(Σ_k n_{k,c} mean_{k,c})) for the classes seen."""
        old = state.shared.fixed["prototypes.weight"]
        sums, counts = torch.zeros_like(old), old.new_zeros(len(old), 1)

        def reported() -> Iterator[ClientUpdate]:
            for update in updates:
                sizes = torch.tensor(update.class_counts).to(old).unsqueeze(1)
                sums.add_(sizes * update.report["means"])
                counts.add_(sizes)
                yield update

        averaged = super().aggregate(reported(), state, generator)
        moved = functional.normalize(self.rho * old + (1 - self.rho) * functional.normalize(sums))
        return {**averaged, "prototypes.weight": torch.where(counts > 0, moved, old)}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """s·W ĥ."""
        logits: Tensor = self.scale * self.prototypes(functional.normalize(features))
        return logits
