"""Training without a federation: the lower control for every personalised method."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.methods.fedavg import FedAvg


class LocalOnly(FedAvg):
    """Every client trains a model of its own on its own data, from the same start; nothing is shared.

    There is no generic model, since an average of models that were trained apart means nothing.

    Args:
        backbone: θ.
        num_classes: C.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    personal = ("backbone", "head")
    views = ("personal",)

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """Nothing; the clients are trained while their updates are read."""
        for _ in updates:
            pass
        return {}
