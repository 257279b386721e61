"""SCAFFOLD (Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.methods.base import Batch
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.vectors import flatten, linear_term, shared_parameters
from fedloge.models.base import Backbone


class SCAFFOLD(FedAvg):
    """FedAvg whose clients correct their drift by control variates c of the server and c_k of their own.

    A local gradient becomes g - c_k + c. After the training c_k ← c_k - c + (w^t - w_k) / (η M) (option II), where M is
    the number of plain steps that would have moved the model as far under a constant gradient: without momentum the
    number of local steps. The server adds the mean change of the c_k over all clients to c.

    Args:
        backbone: θ.
        num_classes: C.
        **kwargs: Options of :class:`FedAvg`.
    """

    personal = ("own_control",)
    renewed = ("control",)

    def __init__(self, backbone: Backbone, num_classes: int, **kwargs: Any) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        zeros = torch.zeros_like(flatten(shared_parameters(self).values()))
        self.register_buffer("control", zeros)
        self.register_buffer("own_control", zeros.clone())
        self.control: Tensor
        self.own_control: Tensor

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """FedAvg's, and a term of value zero whose gradient is c - c_k."""
        correction = linear_term(self.control - self.own_control, shared_parameters(self))
        return {**super().local_losses(batch), "correction": correction}

    def after_training(self, batches: Iterable[Batch]) -> None:
        """The client's new control variate."""
        self.own_control.add_(self.control_change())

    def report_trained(self, batches: Iterable[Batch]) -> Tensors:
        """Change of the client's control variate."""
        return {"change": self.control_change()}

    def control_change(self) -> Tensor:
        """(w^t - w_k) / (η M) - c."""
        names = shared_parameters(self)
        moved = flatten(self.anchor[name] for name in names) - flatten(names.values())
        return moved / (self.lr * plain_steps(self.client.steps, self.momentum)) - self.control

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average, and c + Σ_k (change of c_k) / K over the clients of the round."""
        control = state.shared.fixed["control"].clone()

        def reported() -> Iterator[ClientUpdate]:
            for update in updates:
                control.add_(update.report["change"], alpha=1 / len(state.clients))
                yield update

        return {**super().aggregate(reported(), state, generator), "control": control}


def plain_steps(steps: int, momentum: float) -> float:
    """Steps of plain SGD that move as far as steps with momentum m from rest: Σ_{i=1}^{steps} (1 - m^i) / (1 - m)."""
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
