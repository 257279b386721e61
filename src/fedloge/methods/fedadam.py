"""FedAdam (Reddi et al., Adaptive Federated Optimization, ICLR 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fedloge.checks import check_positive, check_share
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.vectors import flatten, shared_parameters, unflatten
from fedloge.models.base import Backbone


class FedAdam(FedAvg):
    """FedAvg with Adam on the server: the average change Δ of the clients takes the place of the gradient.

    m ← β1 m + (1-β1) Δ, v ← β2 v + (1-β2) Δ², w ← w + η m / (√v + τ), without a correction of the bias (Algorithm 2).
    Buffers (BatchNorm statistics) are averaged as in FedAvg.

    Args:
        backbone: θ.
        num_classes: C.
        server_lr: η.
        beta1: β1.
        beta2: β2.
        tau: τ, how little a step adapts; v starts at τ².
        **kwargs: Options of :class:`FedAvg`.
    """

    server = ("first_moment", "second_moment")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        server_lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_positive("model.server_lr", server_lr, "The authors tune it between 0.001 and 1.")
        check_share("model.beta1", beta1)
        check_share("model.beta2", beta2)
        check_positive("model.tau", tau, "The authors have 0.001.")
        self.server_lr, self.beta1, self.beta2, self.tau = server_lr, beta1, beta2, tau
        zeros = torch.zeros_like(flatten(shared_parameters(self).values()))
        self.register_buffer("first_moment", zeros)
        self.register_buffer("second_moment", torch.full_like(zeros, tau**2))

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average of the buffers, and a step of the adaptive optimiser on the parameters."""
        averaged, old, moments = super().aggregate(updates, state, generator), state.shared.tensors, state.shared.fixed
        names = shared_parameters(self)
        start = flatten(old[name] for name in names)
        change = flatten(averaged[name] for name in names) - start
        first = self.beta1 * moments["first_moment"] + (1 - self.beta1) * change
        second = self.second_moments(moments["second_moment"], change.square())
        moved = unflatten(start + self.server_lr * first / (second.sqrt() + self.tau), names)
        return {**averaged, **moved, "first_moment": first, "second_moment": second}

    def second_moments(self, old: Tensor, squares: Tensor) -> Tensor:
        """v of this round from the last one's and Δ²."""
        return self.beta2 * old + (1 - self.beta2) * squares
