"""Shared state, client updates, and the clients' personal states."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fedloge.system.storage import clear_os_errors

Tensors = Mapping[str, Tensor]
"""Tensors by their names in the method's ``state_dict``."""

MEMORY_LIMIT_BYTES = 2**30
"""Bytes of personal states beyond which they are stored on disk."""


@dataclass(frozen=True)
class SharedState:
    """State that every client receives at the start of a round.

    Args:
        tensors: Entries that clients train and the server averages (θ and ψ for FedLoGe).
        fixed: Entries that the server makes and no client changes (SSE-C); the method declares which of them travel.
    """

    tensors: Tensors
    fixed: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class ClientUpdate:
    """What a client sends back: never a personal entry.

    Args:
        client: Number of the client, 0 … K-1.
        tensors: Shared entries after local training.
        num_examples: n_k, the weight of this client in the average.
        class_counts: n_{k,c}, length C.
        metrics: Scalars of the local training, including ``loss``.
        report: Tensors that the client measures for the method, class means for example; not averaged.
        seconds: Seconds of the local fit by part; empty unless the run is profiled.
    """

    client: int
    tensors: Tensors
    num_examples: int
    class_counts: tuple[int, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    report: Tensors = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


class ClientStore:
    """The personal state of every client; it does not change while the client is not sampled.

    A client that was never stored has its ``initial`` state, which must depend on the client alone. States are kept in
    memory up to a limit, and beyond it in a temporary file that is mapped into memory, so that the system can drop its
    pages when memory is short.

    Args:
        num_clients: Number of clients K.
        initial: Returns the state of a client before its first round.
        memory_limit: Bytes beyond which states go to the file; ``MEMORY_LIMIT_BYTES`` by default.
        trained: Returns the clients whose ``initial`` state is not their first one; none by default.
    """

    def __init__(
        self,
        num_clients: int,
        initial: Callable[[int], Tensors],
        memory_limit: int | None = None,
        trained: Callable[[], set[int]] = set,
    ) -> None:
        self.num_clients, self._before = num_clients, trained
        self.memory_limit = MEMORY_LIMIT_BYTES if memory_limit is None else memory_limit
        self._initial = initial
        self._states: dict[int, Tensors] = {}
        self._bytes = 0
        self._disk: _DiskStates | None = None

    def __getitem__(self, client: int) -> Tensors:
        """The state of ``client``; it must not be changed."""
        if not 0 <= client < self.num_clients:
            raise IndexError(f"client {client} does not exist: the run has clients 0 to {self.num_clients - 1}")
        if client in self._states:
            return self._states[client]
        if self._disk is not None and client in self._disk.clients:
            return self._disk.read(client)
        return self._initial(client)

    def __setitem__(self, client: int, state: Tensors) -> None:
        self._bytes += num_bytes(state) - num_bytes(self._states.pop(client, {}))
        if state and (self._disk is not None or self._bytes > self.memory_limit):
            self._disk = self._disk or _DiskStates(self.num_clients, state)
            if self._disk.fits(state):
                self._disk.write(client, state)
                self._bytes -= num_bytes(state)
                return
        self._states[client] = state

    def __len__(self) -> int:
        return self.num_clients

    def __iter__(self) -> Iterator[Tensors]:
        return (self[client] for client in range(self.num_clients))

    def map(self, change: Callable[[int, Tensors], Tensors]) -> ClientStore:
        """A store whose states are ``change(client, state)`` of these, computed on each access."""
        changed = lambda client: change(client, self[client])  # noqa: E731
        return ClientStore(self.num_clients, changed, self.memory_limit, self.trained)

    def fork(self) -> ClientStore:
        """A store that starts from these states and does not change them."""
        return ClientStore(self.num_clients, self.__getitem__, self.memory_limit, self.trained)

    def adopt(self, fork: ClientStore) -> None:
        """Store the states that were stored in a :meth:`fork` of this store."""
        for client in sorted(fork._stored()):
            self[client] = fork[client]

    def trained(self) -> set[int]:
        """Clients that were ever stored, here or in the stores that this one was made from."""
        return self._stored() | self._before()

    def _stored(self) -> set[int]:
        return self._states.keys() | (self._disk.clients if self._disk else set())


class _DiskStates:
    """States of one layout in a temporary file, a row per client; the file is deleted with this object."""

    def __init__(self, num_clients: int, example: Tensors) -> None:
        self.clients: set[int] = set()
        self._layout = self._layout_of(example)
        self._size = num_bytes(example)
        with _clear_spill_errors():
            self._file = tempfile.TemporaryFile(prefix="fedloge-clients-")  # noqa: SIM115
            self._rows = np.memmap(self._file, dtype=np.uint8, mode="w+", shape=(num_clients, self._size))
        weakref.finalize(self, self._file.close)

    def fits(self, state: Tensors) -> bool:
        """Whether a state has the layout of the file."""
        return self._layout_of(state) == self._layout

    def write(self, client: int, state: Tensors) -> None:
        """Copy a state into the file."""
        tensors = (state[name].detach().cpu().contiguous() for name, _, _ in self._layout)
        row = torch.cat([tensor.view(-1).view(torch.uint8) for tensor in tensors]).numpy()
        if hasattr(os, "posix_fallocate"):  # a page of the map without room on the disk would kill the process
            with _clear_spill_errors():
                os.posix_fallocate(self._file.fileno(), client * self._size, self._size)
        self._rows[client] = row
        self.clients.add(client)

    def read(self, client: int) -> Tensors:
        """A copy of a state."""
        row, offset, state = torch.from_numpy(np.array(self._rows[client])), 0, {}
        for name, dtype, shape in self._layout:
            end = offset + shape.numel() * dtype.itemsize
            state[name] = row[offset:end].clone().view(dtype).view(shape)
            offset = end
        return state

    @staticmethod
    def _layout_of(state: Tensors) -> list[tuple[str, torch.dtype, torch.Size]]:
        return [(name, state[name].dtype, state[name].shape) for name in sorted(state)]


def _clear_spill_errors() -> AbstractContextManager[None]:
    folder = tempfile.gettempdir()
    return clear_os_errors(f"{folder!r}, which stores client states beyond the memory limit (set by TMPDIR),")


@dataclass(frozen=True)
class FederatedState:
    """Everything that a run has learnt in ``round`` rounds: the shared and the personal states."""

    round: int
    shared: SharedState
    clients: ClientStore

    def with_shared(self, tensors: Tensors) -> FederatedState:
        """The same state with some or all shared or fixed entries replaced."""
        fixed = {name: tensors.get(name, old) for name, old in self.shared.fixed.items()}
        shared = {name: tensors.get(name, old) for name, old in self.shared.tensors.items()}
        return replace(self, shared=SharedState(shared, fixed))


def num_bytes(tensors: Tensors) -> int:
    """Size of tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
