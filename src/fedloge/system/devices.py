"""Training devices, and asynchronous copies between them and the host."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from fedloge.federation.flat import FlatTensors
from fedloge.federation.state import Tensors

CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
"""Environment variable: hardware queues of a GPU; CUDA reads it once, when it starts. Its own default is 8."""


def let_streams_run_apart() -> None:
    """Give the streams of a GPU as many hardware queues as it has; call it before CUDA starts.

    Streams that share a queue wait for each other.
    """
    os.environ.setdefault(CONNECTIONS, "32")


def is_accelerator(device: torch.device) -> bool:
    """Whether a device works beside the host, on streams and with graphs like those of CUDA."""
    return device.type != "cpu" and hasattr(getattr(torch, device.type, None), "CUDAGraph")


def device_module(device: torch.device) -> Any:
    """Torch's module for a kind of device: ``torch.cuda``, or ``torch.cpu``."""
    return torch.get_device_module(device)


def wait_for(device: torch.device) -> None:
    """Wait until an accelerator has finished all work."""
    if is_accelerator(device):
        device_module(device).synchronize(device)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, copied in the current stream without waiting."""
    if is_accelerator(device) and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def upload_all(tensors: Tensors, device: torch.device) -> Tensors:
    """The tensors on the device, one transfer per type, copied in the current stream without waiting."""
    if not is_accelerator(device):
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    flat = FlatTensors.of(tensors, pinned=True)
    there = {kind: buffer.to(device, non_blocking=True) for kind, buffer in flat.buffers.items()}
    return flat.with_buffers(there).views()


def download(tensors: Tensors) -> dict[str, Tensor]:
    """Copies in host memory, one transfer per type; from an accelerator they arrive when the current stream is done.

    All tensors of a type are views of one buffer.
    """
    flat = FlatTensors.of(tensors)
    return flat.with_buffers({kind: _downloaded(buffer) for kind, buffer in flat.buffers.items()}).views()


def _downloaded(buffer: Tensor) -> Tensor:
    if not is_accelerator(buffer.device):
        return buffer
    return torch.empty(buffer.shape, dtype=buffer.dtype, pin_memory=True).copy_(buffer, non_blocking=True)


@torch.no_grad()
def copy_into(targets: Tensors, sources: Tensors) -> None:
    """Copy tensors into those of the same names.

    On an accelerator that is a kernel for many tensors, where they have one type there and one layout in memory.
    """
    groups: dict[Any, list[str]] = {}
    for name, source in sources.items():
        target = targets[name]
        alike = target.device == source.device and target.stride() == source.stride()
        groups.setdefault((target.dtype, source.dtype, alike), []).append(name)
    for names in groups.values():
        torch._foreach_copy_([targets[name] for name in names], [sources[name] for name in names])


def laid_out(tensor: Tensor, layout: torch.memory_format | None) -> Tensor:
    """The tensor in a memory format, as ``Module.to`` gives it to a parameter; None leaves it as it is."""
    return tensor.to(memory_format=layout) if layout is not None and tensor.dim() in (4, 5) else tensor
