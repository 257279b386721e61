"""FedDyn (Acar et al., Federated Learning Based on Dynamic Regularization, ICLR 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fedloge.checks import check_positive
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.losses import proximal
from fedloge.methods.base import Batch
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.vectors import flatten, linear_term, shared_parameters, unflatten
from fedloge.models.base import Backbone


class FedDyn(FedAvg):
    """FedAvg whose clients add -⟨g_k, w⟩ + (α/2)‖w - w^t‖² to their loss, so that local and global optima agree.

    After its training a client sets g_k ← g_k - α (w_k - w^t). The server keeps h ← h - α (share of the clients in the
    round) (average - w^t), and sends w = average - h/α.

    Args:
        backbone: θ.
        num_classes: C.
        alpha: α.
        **kwargs: Options of :class:`FedAvg`.
    """

    personal = ("own_gradient",)
    server = ("history",)

    def __init__(self, backbone: Backbone, num_classes: int, alpha: float = 0.1, **kwargs: Any) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_positive("model.alpha", alpha, "The authors tune it in {0.001, 0.01, 0.1}.")
        self.alpha = alpha
        zeros = torch.zeros_like(flatten(shared_parameters(self).values()))
        self.register_buffer("own_gradient", zeros)
        self.register_buffer("history", zeros.clone())
        self.own_gradient: Tensor

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """FedAvg's, the proximal term, and a term of value zero whose gradient is -g_k."""
        shared = shared_parameters(self)
        return {
            **super().local_losses(batch),
            "proximal": self.alpha * proximal(shared.items(), self.anchor),
            "correction": linear_term(-self.own_gradient, shared),
        }

    def after_training(self, batches: Iterable[Batch]) -> None:
        """The client's new g_k."""
        names = shared_parameters(self)
        moved = flatten(names.values()) - flatten(self.anchor[name] for name in names)
        self.own_gradient.sub_(moved, alpha=self.alpha)

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average, moved by -h/α."""
        cohort = 0

        def counted() -> Iterator[ClientUpdate]:
            nonlocal cohort
            for update in updates:
                cohort += 1
                yield update

        averaged, names = super().aggregate(counted(), state, generator), shared_parameters(self)
        mean = flatten(averaged[name] for name in names)
        moved = mean - flatten(state.shared.tensors[name] for name in names)
        history = state.shared.fixed["history"] - self.alpha * cohort / len(state.clients) * moved
        return {**averaged, **unflatten(mean - history / self.alpha, names), "history": history}
