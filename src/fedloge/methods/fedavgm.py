"""FedAvgM (Hsu, Qi & Brown, Measuring the Effects of Non-Identical Data Distribution, arXiv 1909.06335, 2019)."""

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


class FedAvgM(FedAvg):
    """FedAvg with momentum on the server: v ← β v + Δ, w ← w + η v, where Δ is the average change of the clients.

    Buffers (BatchNorm statistics) are averaged as in FedAvg.

    Args:
        backbone: θ.
        num_classes: C.
        server_momentum: β; 0 is FedAvg.
        server_lr: η.
        **kwargs: Options of :class:`FedAvg`.
    """

    server = ("velocity",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        server_momentum: float = 0.9,
        server_lr: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_share("model.server_momentum", server_momentum)
        check_positive("model.server_lr", server_lr, "The authors have 1.")
        self.server_momentum, self.server_lr = server_momentum, server_lr
        self.register_buffer("velocity", torch.zeros_like(flatten(shared_parameters(self).values())))
        self.velocity: Tensor

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average of the buffers, and a step with momentum of the parameters."""
        averaged, old = super().aggregate(updates, state, generator), state.shared.tensors
        names = shared_parameters(self)
        start = flatten(old[name] for name in names)
        change = flatten(averaged[name] for name in names) - start
        velocity = self.server_momentum * state.shared.fixed["velocity"] + change
        moved = unflatten(start + self.server_lr * velocity, names)
        return {**averaged, **moved, "velocity": velocity}
