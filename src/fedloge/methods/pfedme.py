"""pFedMe (Dinh, Tran & Nguyen, Personalized Federated Learning with Moreau Envelopes, NeurIPS 2020)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_least, check_positive
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.losses import proximal
from fedloge.methods.base import Backward, Batch, Losses, View
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.vectors import shared_parameters
from fedloge.models.base import Backbone


class pFedMe(FedAvg):  # noqa: N801 - the method's name
    """A personal model near the generic one, by Moreau envelopes: θ_k ≈ argmin F_k(θ) + (λ/2)‖θ - w‖².

    For every batch the client moves θ_k by ``inner_steps`` gradient steps on that objective, and then its copy of w by
    η λ (w - θ_k). θ_k starts from the received w in every round. The server sends (1-β) w + β · average.

    Args:
        backbone: θ.
        num_classes: C.
        lam: λ; keep lr · λ and inner_lr · λ below 1.
        inner_steps: Gradient steps of θ_k for each batch.
        inner_lr: Learning rate of θ_k.
        beta: β.
        **kwargs: Options of local SGD, which moves w, see :class:`Method`.
    """

    personal = ("own_backbone", "own_head")
    bodies = ("backbone", "own_backbone")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        lam: float = 15.0,
        inner_steps: int = 5,
        inner_lr: float = 0.03,
        beta: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_positive("model.lam", lam, "The authors have 15.")
        check_least("model.inner_steps", inner_steps, 1)
        check_positive("model.inner_lr", inner_lr, "The authors tune it between 0.005 and 0.1.")
        check_positive("model.beta", beta, "1 takes the average.")
        self.lam, self.inner_steps, self.inner_lr, self.beta = lam, inner_steps, inner_lr, beta
        self.own_backbone, self.own_head = copy.deepcopy(self.backbone), copy.deepcopy(self.head)

    def before_training(self, batches: Iterable[Batch]) -> None:
        """θ_k starts from the received model."""
        self.own_backbone.load_state_dict(self.backbone.state_dict())
        self.own_head.load_state_dict(self.head.state_dict())

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """F_k(θ_k), and (λ/2)‖θ_k - w‖² with w held fixed."""
        images, labels = batch
        logits = self.own_head(self.own_backbone(images))
        fixed = {name: parameter.detach() for name, parameter in shared_parameters(self).items()}
        pull = self.lam * proximal(self._own(), fixed)
        return {"personal": functional.cross_entropy(logits, labels), "proximal": pull}

    def _own(self) -> list[tuple[str, Tensor]]:
        """Parameters of θ_k under the names of those of w."""
        own = [(name, parameter) for name, parameter in self.named_parameters() if name.startswith("own_")]
        return [(name.removeprefix("own_"), parameter) for name, parameter in own]

    def local_gradients(self, batch: Batch, optimizer: Any, backward: Backward = torch.autograd.backward) -> Losses:
        """Move θ_k, and put λ (w - θ_k) into the gradients of w; the optimiser has none of θ_k's."""
        own = dict(self._own())
        for _ in range(self.inner_steps):
            losses = super().local_gradients(batch, optimizer, backward)
            with torch.no_grad():
                for parameter in own.values():
                    parameter.sub_(parameter.grad, alpha=self.inner_lr)  # type: ignore[arg-type]
        optimizer.zero_grad()
        for name, parameter in shared_parameters(self).items():
            parameter.grad = self.lam * (parameter.detach() - own[name].detach())
        return losses

    def after_training(self, batches: Iterable[Batch]) -> None:
        """The generic model, through which no image went, takes the BatchNorm statistics of θ_k."""
        own = dict(self.own_backbone.named_buffers())
        for name, buffer in self.backbone.named_buffers():
            buffer.copy_(own[name])

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """(1-β) w + β · FedAvg's average; buffers are averaged."""
        averaged, old = super().aggregate(updates, state, generator), state.shared.tensors
        moved = {name: torch.lerp(old[name], averaged[name], self.beta) for name in shared_parameters(self)}
        return {**averaged, **moved}

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """Through the body of w or of θ_k."""
        features: Tensor = (self.backbone if view == "global" else self.own_backbone)(images)
        return features

    def logits(self, features: Tensor, view: View) -> Tensor:
        """The head of w or of θ_k."""
        return super().logits(features, view) if view == "global" else self.own_head(features)
