"""Bytes that a round exchanges, and its mean training loss."""

from __future__ import annotations

import functools

from fedloge.federation.state import ClientUpdate, FederatedState, Tensors, num_bytes
from fedloge.methods.base import Method, within_any


class Traffic:
    """Counts the bytes that a round exchanges, and averages its training losses.

    What is fixed for good is sent once to all clients, before the first round.

    Args:
        method: Method being trained.
        state: State at the start of the round.
    """

    def __init__(self, method: Method, state: FederatedState) -> None:
        fixed = state.shared.fixed
        renewed = {name: tensor for name, tensor in fixed.items() if within_any(name, method.renewed)}
        once = {
            name: tensor for name, tensor in fixed.items() if not within_any(name, (*method.renewed, *method.server))
        }
        self._common = {**state.shared.tensors, **renewed}
        self._sent: Tensors = self._common
        self._downlink = functools.partial(method.downlink, state)
        self.bytes_down = num_bytes(once) * len(state.clients) if state.round == 0 else 0
        self.bytes_up = self.examples = 0
        self.loss = 0.0
        self.client_seconds: dict[str, float] = {}

    def count_survey(self, update: ClientUpdate) -> None:
        """Count what a client received and sent in the exchange before the training."""
        self.bytes_down += num_bytes({**self._sent, **self._downlink(update.client)})
        self.bytes_up += num_bytes(update.report)

    def answered(self, entries: Tensors) -> None:
        """The clients that train were surveyed, and receive only the entries that the server has changed since."""
        self._sent = {name: tensor for name, tensor in self._common.items() if name in entries}

    def count(self, update: ClientUpdate) -> None:
        """Count what a client received and sent, and add its loss and times."""
        self.bytes_down += num_bytes({**self._sent, **self._downlink(update.client)})
        self.bytes_up += num_bytes(update.tensors) + num_bytes(update.report)
        self.examples += update.num_examples
        self.loss += update.metrics["loss"] * update.num_examples
        for part, seconds in update.seconds.items():
            name = f"client/{part}"
            self.client_seconds[name] = self.client_seconds.get(name, 0.0) + seconds

    def scalars(self) -> dict[str, float]:
        """Columns of ``metrics.csv``."""
        loss = self.loss / self.examples if self.examples else float("nan")
        return {"train/loss": loss, "comm/bytes_up": self.bytes_up, "comm/bytes_down": self.bytes_down}
