"""Asynchronous copies between the host and the training device."""

from __future__ import annotations

import torch
from torch import Tensor

from fedloge.federation.state import Tensors


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, copied in the current stream without waiting."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def download(tensors: Tensors) -> dict[str, Tensor]:
    """Copies in host memory, one transfer per type; from a GPU they are complete when the current stream is done.

    All tensors of a type are views of one buffer.
    """
    by_type: dict[torch.dtype, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        by_type.setdefault(tensor.dtype, {})[name] = tensor.detach()
    copies: dict[str, Tensor] = {}
    for group in by_type.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group.values()])
        if flat.is_cuda:
            flat = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True).copy_(flat, non_blocking=True)
        parts = torch.split(flat, [tensor.numel() for tensor in group.values()])
        copies |= {name: part.view(group[name].shape) for name, part in zip(group, parts, strict=True)}
    return {name: copies[name] for name in tensors}
