"""BatchNorm and batches of one image: a layer that receives one value per channel has no variance to train with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def trains_on_one_image(module: nn.Module, forward: Callable[[Tensor], Any], shape: tuple[int, ...]) -> bool:
    """Whether every BatchNorm of a module receives more than one value per channel from a single image.

    Args:
        module: Module in any mode; it is left in eval mode.
        forward: Function of images [1, channels, H, W] that calls the layers.
        shape: Channels, height and width of an image.
    """
    found: list[str] = []
    weight = next(module.parameters())
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in _layers(module.eval()):
            note = _noting(found, name)
            hooks.callback(layer.register_forward_pre_hook(note).remove)
        forward(torch.zeros((1, *shape), dtype=weight.dtype, device=weight.device))
    return not found


@contextmanager
def running_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, a BatchNorm in training mode that receives one value per channel normalises with its running statistics.

    It does not update them then. Outside, torch raises a ValueError in that case.
    """
    with ExitStack() as hooks:
        for _, layer in _layers(module):
            if layer.training and layer.running_mean is not None:
                hooks.callback(layer.register_forward_pre_hook(_to_eval).remove)
                hooks.callback(layer.register_forward_hook(_to_training, always_call=True).remove)
        yield


def _layers(module: nn.Module) -> list[tuple[str, _BatchNorm]]:
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]


def _single(inputs: tuple[Tensor, ...]) -> bool:
    """Whether the input [n, channels, ...] of a layer has one value per channel."""
    return inputs[0].numel() == inputs[0].shape[1]


def _noting(found: list[str], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _, inputs: found.append(name) if _single(inputs) else None


def _to_eval(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    layer.training = not _single(inputs)


def _to_training(layer: nn.Module, *_: Any) -> None:
    layer.training = True
