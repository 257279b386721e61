"""Augmentation of whole batches of uint8 images."""

from __future__ import annotations

from collections.abc import Sequence
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
    shifts = torch.randint(2 * padding + 1, (2, n), generator=generator).to(images.device)
    rows = shifts[0, :, None] + torch.arange(height, device=images.device)
    columns = shifts[1, :, None] + torch.arange(width, device=images.device)
    padded = functional.pad(images, (padding,) * 4)
    batch = torch.arange(n, device=images.device)[:, None, None]
    # Advanced indices around a slice move the slice last: [n, H, W, channels].
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability one half."""
    chosen = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 images, (x/255 - mean) / std per channel, contiguous."""
    scale = 1 / (255 * torch.tensor(std, device=images.device))
    shift = torch.tensor(mean, device=images.device) / torch.tensor(std, device=images.device)
    return (images * scale.view(-1, 1, 1) - shift.view(-1, 1, 1)).contiguous()
