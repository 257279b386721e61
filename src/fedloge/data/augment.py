"""Augmentation of whole batches of uint8 images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Augment = Literal["none", "crop", "crop_flip"]


def augment(images: Tensor, kind: Augment, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Random crops after zero padding, and for ``crop_flip`` horizontal flips of half the images.

    Args:
        images: uint8 [n, channels, H, W], on any device.
        kind: What to do.
        generator: A CPU generator.
        padding: Pixels added on each side before cropping back to H x W.

    Returns:
        uint8, same shape.
    """
    if kind == "none":
        return images
    images = random_crop(images, padding, generator)
    return random_flip(images, generator) if kind == "crop_flip" else images


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift every image by up to ``padding`` pixels in each direction, filling with zeros."""
    n, _, height, width = images.shape
    rows, columns = torch.randint(2 * padding + 1, (2, n), generator=generator).to(images.device)
    # A view of every crop there is, [n, channels, rows, columns, H, W]: only the chosen ones are copied.
    crops = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(n, device=images.device), :, rows, columns]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability one half."""
    chosen = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    columns = torch.arange(images.shape[3], device=images.device)
    columns = torch.where(chosen[:, None], columns.flip(0), columns)
    return images.gather(3, columns[:, None, None, :].expand_as(images))


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 images, (x/255 - mean) / std per channel, contiguous."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    return (images * scale).sub_(shift).contiguous()


@lru_cache(maxsize=16)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    spread = torch.tensor(std, device=device).view(-1, 1, 1)
    return 1 / (255 * spread), torch.tensor(mean, device=device).view(-1, 1, 1) / spread
