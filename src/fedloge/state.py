"""What moves between server and clients: shared state, client updates, and the clients' personal state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

Tensors = Mapping[str, Tensor]
"""Named tensors, the names being those of the method's ``state_dict``."""


@dataclass(frozen=True)
class SharedState:
    """What every client receives at the start of a round.

    Args:
        tensors: Entries that clients train and the server averages (θ and ψ for FedLoGe).
        fixed: Entries that the server makes and no client changes (SSE-C); which of them travel when, the method says.
    """

    tensors: Tensors
    fixed: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class ClientUpdate:
    """What a client sends back: never a personal entry.

    Args:
        client: Which client, 0 … K-1.
        tensors: The shared entries after local training.
        num_examples: n_k, the weight of this client in the average.
        class_counts: n_{k,c}, length C.
        metrics: Scalars of the local training, ``loss`` among them.
        report: What the method has the client measure besides (class means, say); never averaged with the entries.
    """

    client: int
    tensors: Tensors
    num_examples: int
    class_counts: tuple[int, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    report: Tensors = field(default_factory=dict)


class ClientStore:
    """The personal state of every client, untouched while a client is not sampled.

    A client that was never stored has its ``initial`` state, which must depend on the client alone.

    Args:
        num_clients: K.
        initial: The state of a client before its first round.
    """

    def __init__(self, num_clients: int, initial: Callable[[int], Tensors]) -> None:
        self.num_clients = num_clients
        self._initial = initial
        self._states: dict[int, Tensors] = {}

    def __getitem__(self, client: int) -> Tensors:
        """The state of ``client``; treat it as read-only."""
        if not 0 <= client < self.num_clients:
            raise IndexError(f"client {client} does not exist: the run has clients 0 to {self.num_clients - 1}")
        state = self._states.get(client)
        return self._initial(client) if state is None else state

    def __setitem__(self, client: int, state: Tensors) -> None:
        self._states[client] = state

    def __len__(self) -> int:
        return self.num_clients

    def __iter__(self) -> Iterator[Tensors]:
        return (self[client] for client in range(self.num_clients))

    def map(self, change: Callable[[int, Tensors], Tensors]) -> ClientStore:
        """A store whose states are ``change(client, state)`` of these, computed when asked for."""
        return ClientStore(self.num_clients, lambda client: change(client, self[client]))


@dataclass(frozen=True)
class FederatedState:
    """Everything that a run has learnt: ``round`` rounds done, the shared and the personal states."""

    round: int
    shared: SharedState
    clients: ClientStore

    def with_shared(self, tensors: Tensors) -> FederatedState:
        """The same state with some or all shared or fixed entries replaced."""
        fixed = {name: tensors.get(name, old) for name, old in self.shared.fixed.items()}
        shared = {name: tensors.get(name, old) for name, old in self.shared.tensors.items()}
        return replace(self, shared=SharedState(shared, fixed))


def num_bytes(tensors: Tensors) -> int:
    """Size of the tensors' elements in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
