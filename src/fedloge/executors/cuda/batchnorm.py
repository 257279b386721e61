"""BatchNorm in a lane: its counter of batches, and the library that computes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def uncounted(module: nn.Module) -> Iterator[list[tuple[Tensor, int]]]:
    """Keep every BatchNorm from counting its batches inside: a kernel per layer, for a number that the host knows.

    Yields a list that has, after the block, the counters and by how much the block would have raised them. A BatchNorm
    without momentum averages with its counter and keeps it, as does one with a forward pass of its own.
    """
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm)
        and type(layer).forward is _BatchNorm.forward
        and layer.num_batches_tracked is not None
        and layer.momentum is not None
    ]
    counters = [layer._buffers["num_batches_tracked"] for layer in layers]
    times = dict.fromkeys(layers, 0)

    def count(layer: nn.Module, *_: Any) -> None:
        times[layer] += layer.training  # type: ignore[index]

    hooks = [layer.register_forward_hook(count) for layer in layers]
    found: list[tuple[Tensor, int]] = []
    try:
        for layer in layers:
            layer._buffers["num_batches_tracked"] = None
        yield found
    finally:
        for layer, counter, hook in zip(layers, counters, hooks, strict=True):
            layer._buffers["num_batches_tracked"] = counter
            hook.remove()
    found += [(counter, times[layer]) for layer, counter in zip(layers, counters, strict=True) if counter is not None]


def without_cudnn(module: nn.Module) -> None:
    """Let every BatchNorm of a module compute by torch's own kernels.

    Those of cuDNN for channels last are persistent: their backward pass waits on the device until all its blocks run at
    the same time, which other streams may prevent (pytorch/pytorch#80259). A backward pass takes the library of its
    forward pass.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and torch.backends.cudnn.enabled:
            layer.register_forward_pre_hook(_cudnn_off)
            layer.register_forward_hook(_cudnn_on, always_call=True)


def _cudnn_off(*_: Any) -> None:
    torch.backends.cudnn.enabled = False


def _cudnn_on(*_: Any) -> None:
    torch.backends.cudnn.enabled = True
