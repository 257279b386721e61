"""Shared memory of worker processes: tensors in slabs, and the number of workers that it has room for."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from multiprocessing import spawn
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor, multiprocessing

from fedloge.checks import MAX_THREADS
from fedloge.errors import ConfigError, RunError
from fedloge.executors.base import FederatedData
from fedloge.federation.state import Tensors, num_bytes
from fedloge.methods.base import Method

SHARED_MEMORY = "/dev/shm"
SPARE_BYTES = 2**20
ALIGNMENT = 16
NO_ROOM = "Give the container more, docker run --shm-size=2g"
UNGUARDED = "Each worker imports the script that trains: put its code under if __name__ == '__main__'."
NOT_FOUND = "Define the classes of method and data in a module, not in a notebook or function; or take serial."

Layout = tuple[tuple[str, torch.dtype, tuple[int, ...], int], ...]


class Slab:
    """Shared memory that holds named tensors.

    Args:
        nbytes: Size of all tensors together, with up to 16 bytes more for each, which alignment may take.
    """

    def __init__(self, nbytes: int) -> None:
        self.bytes: Tensor = torch.empty(nbytes, dtype=torch.uint8)
        self.bytes.share_memory_()  # type: ignore[no-untyped-call]

    def pack(self, tensors: Tensors) -> Layout:
        """Copy tensors in; returns their places.

        Raises:
            ValueError: If they do not fit.
        """
        layout, offset = [], 0
        for name, tensor in tensors.items():
            end = offset + tensor.numel() * tensor.element_size()
            if end > len(self.bytes):
                raise ValueError(f"{end} bytes do not fit into {len(self.bytes)}")
            self._view(tensor.dtype, tensor.shape, offset).copy_(tensor)
            layout.append((name, tensor.dtype, tuple(tensor.shape), offset))
            offset = -(-end // ALIGNMENT) * ALIGNMENT
        return tuple(layout)

    def unpack(self, layout: Layout) -> dict[str, Tensor]:
        """Views of the tensors; the next :meth:`pack` overwrites them."""
        return {name: self._view(dtype, shape, offset) for name, dtype, shape, offset in layout}

    def _view(self, dtype: torch.dtype, shape: Sequence[int], offset: int) -> Tensor:
        nbytes = torch.Size(shape).numel() * dtype.itemsize
        view: Tensor = self.bytes[offset : offset + nbytes].view(dtype).view(tuple(shape))
        return view


def room_for_workers(method: Method, data: FederatedData | None) -> int:
    """Number of workers that the shared memory has room for.

    Raises:
        ConfigError: If no worker can start here.
        RunError: If this process is a worker that has not started yet.
    """
    refuse_unguarded()
    script = spawn.get_preparation_data("worker").get("init_main_from_path")
    if script is not None and not os.path.exists(script):
        problem = f"needs the script in a file, which the workers import; {script!r} is not a file"
        raise ConfigError("trainer.executor", "processes", problem, "Save the script, or take serial.")
    try:
        tensor_bytes(method)  # it is sent as plain bytes; this checks that it can be sent
        shared = bytes_down(method) + tensor_bytes(data)
    except Exception as error:
        problem = f"cannot send method or data to a worker: {error}"
        raise ConfigError("trainer.executor", "processes", problem, NOT_FOUND) from error
    if not os.path.isdir(SHARED_MEMORY):
        return MAX_THREADS
    free, own = shutil.disk_usage(SHARED_MEMORY).free, bytes_of_worker(method)
    if shared + own > free:
        needed = f"needs {(shared + own) / 1e6:,.0f} MB in {SHARED_MEMORY} for a worker, which has {free / 1e6:,.0f}"
        raise ConfigError("trainer.executor", "processes", needed, f"{NO_ROOM}, or take serial.")
    return (free - shared) // own


def refuse_unguarded() -> None:
    """Refuse to train in a worker that is starting, which imports the script that trains.

    Raises:
        RunError: If this process is such a worker.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunError(f"this process is a worker that is starting. {UNGUARDED}")


class Census(ForkingPickler):
    """Counts the bytes of tensors that would move to the shared memory."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.storages: dict[int, int] = {}

    def persistent_id(self, item: Any) -> bool | None:
        """Replace a tensor by a constant, and count its bytes."""
        if not isinstance(item, Tensor):
            return None
        if not item.is_shared():  # type: ignore[no-untyped-call]
            self.storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        return True


def tensor_bytes(sent: Any) -> int:
    """Bytes of the tensors in an object that are not in shared memory yet."""
    census = Census()
    census.dump(sent)
    return sum(census.storages.values())


def bytes_down(method: Method) -> int:
    """Bytes of the state that all workers receive, with alignment."""
    with method.without_server_entries():
        state = method.state_dict()
    return num_bytes(state) + ALIGNMENT * len(state)


def bytes_of_worker(method: Method) -> int:
    """Bytes of a worker's own slab: what it receives for itself, or sends."""
    return 2 * bytes_down(method) + SPARE_BYTES
