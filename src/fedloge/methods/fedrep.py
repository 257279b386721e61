"""FedRep (Collins et al., Exploiting Shared Representations for Personalized Federated Learning, ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedloge.checks import check_not_negative
from fedloge.errors import ConfigError
from fedloge.federation.aggregation import average_personal
from fedloge.federation.state import ClientStore, FederatedState, Tensors
from fedloge.methods.base import Client, Phase, TrainClients
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedRep(FedAvg):
    """A private head trained on the frozen body, then the shared body trained through the frozen head.

    The generic model that papers print is the body with the average of the private heads: computed for testing alone,
    never broadcast.

    Args:
        backbone: θ.
        num_classes: C.
        head_epochs: Epochs of the head in a round, instead of ``trainer.local_epochs``.
        body_epochs: Epochs of the body in a round; 1 + 5 costs about as much as the others' 5, the authors have 10 + 5.
        final_head_epochs: Epochs of training every client's head after the last round.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    personal = ("head",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        head_epochs: int = 10,
        body_epochs: int = 5,
        final_head_epochs: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        if head_epochs < 1:
            raise ConfigError("model.head_epochs", head_epochs, "must be at least 1", "The authors have 10.")
        for name, value in (("body_epochs", body_epochs), ("final_head_epochs", final_head_epochs)):
            check_not_negative(f"model.{name}", value, "0 turns it off.")
        self.head_epochs, self.body_epochs, self.final_head_epochs = head_epochs, body_epochs, final_head_epochs

    def phases(self, local_epochs: int) -> Sequence[Phase]:
        """The head, then the body."""
        return (
            Phase("head", self.head_epochs, trainable=("head",)),
            Phase("body", self.body_epochs, trainable=("backbone",)),
        )

    def generic_personal(self, clients: ClientStore, population: Sequence[Client]) -> Tensors:
        """The clients' heads, averaged."""
        sizes = [client.num_examples for client in population]
        return average_personal(clients, sizes, uniform=self.agg == "uniform")

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """Train the heads of all clients for ``final_head_epochs``."""
        if train is None or self.final_head_epochs == 0:
            return state
        heads = train(state, (Phase("head", self.final_head_epochs, trainable=("head",)),))
        return FederatedState(state.round, state.shared, heads)
