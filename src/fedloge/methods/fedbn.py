"""FedBN (Li et al., Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch.nn.modules.batchnorm import _BatchNorm

from fedloge.errors import ConfigError
from fedloge.federation.aggregation import average_personal
from fedloge.federation.state import ClientStore, Tensors
from fedloge.methods.base import Client, within_any
from fedloge.methods.fedavg import FedAvg


class FedBN(FedAvg):
    """FedAvg whose BatchNorm layers, statistics included, stay with the client.

    The personal model is the shared weights with the client's own BatchNorm. The server has none, yet the paper prints
    a generic model: for testing alone, the clients' BatchNorm entries are averaged, and never broadcast.

    Args:
        backbone: θ, with BatchNorm layers.
        num_classes: C.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """Names of the BatchNorm layers, found by type, so that those of shortcuts are included."""
        return tuple(name for name, module in self.named_modules() if isinstance(module, _BatchNorm))

    def check(self) -> None:
        """Require BatchNorm layers; without them this would be FedAvg."""
        if not self.norms:
            raise ConfigError(
                "model.backbone",
                type(self.backbone).__name__,
                "has no BatchNorm layer",
                "Choose a backbone with BatchNorm, or FedAvg.",
            )

    def is_shared(self, name: str) -> bool:
        """Whether the entry belongs to no BatchNorm layer."""
        return not within_any(name, self.norms)

    def generic_personal(self, clients: ClientStore, population: Sequence[Client]) -> Tensors:
        """The clients' BatchNorm entries, averaged."""
        sizes = [client.num_examples for client in population]
        return average_personal(clients, sizes, uniform=self.agg == "uniform")
