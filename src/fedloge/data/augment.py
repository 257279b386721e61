"""Augmentation of whole batches of uint8 images: what is drawn, and doing it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Augment = Literal["none", "crop", "crop_flip"]
PADDING = 4


class Draws(NamedTuple):
    """What was drawn for n images.

    Args:
        shifts: Rows and columns of the crops, int64 [2, n], 0 to twice the padding; None crops nothing.
        mirrored: Boolean [n]; None flips nothing.
    """

    shifts: Tensor | None = None
    mirrored: Tensor | None = None


def draw(kind: Augment, n: int, generator: torch.Generator) -> Draws:
    """Random crops after zero padding, and for ``crop_flip`` horizontal flips of half the images.

    Args:
        kind: What to do.
        n: How many images.
        generator: A CPU generator.
    """
    if kind == "none":
        return Draws()
    shifts = draw_shifts(n, PADDING, generator)
    return Draws(shifts, draw_mirrored(n, generator) if kind == "crop_flip" else None)


def join(draws: Sequence[Draws]) -> Draws:
    """The draws of several batches, all of one kind, as those of one batch."""
    shifts = [each.shifts for each in draws if each.shifts is not None]
    mirrored = [each.mirrored for each in draws if each.mirrored is not None]
    return Draws(torch.cat(shifts, dim=1) if shifts else None, torch.cat(mirrored) if mirrored else None)


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Do what was drawn to uint8 images [n, channels, H, W], on any device; same shape."""
    if draws.shifts is not None:
        images = crop(images, draws.shifts, PADDING)
    return images if draws.mirrored is None else flip(images, draws.mirrored)


def draw_shifts(n: int, padding: int, generator: torch.Generator) -> Tensor:
    """Rows and columns of n crops, int64 [2, n]."""
    return torch.randint(2 * padding + 1, (2, n), generator=generator)


def crop(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Shift every image by up to ``padding`` pixels in each direction, filling with zeros."""
    n, _, height, width = images.shape
    rows, columns = shifts.to(images.device)
    # A view of every crop there is, [n, channels, rows, columns, H, W]: only the chosen ones are copied.
    crops = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(n, device=images.device), :, rows, columns]


def draw_mirrored(n: int, generator: torch.Generator) -> Tensor:
    """Which of n images to mirror, each with probability one half."""
    return torch.rand(n, generator=generator) < 0.5


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror some of the images, boolean [n]."""
    columns = torch.arange(images.shape[3], device=images.device)
    columns = torch.where(mirrored.to(images.device)[:, None], columns.flip(0), columns)
    return images.gather(3, columns[:, None, None, :].expand_as(images))


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 images, (x/255 - mean) / std per channel, contiguous."""
    return rescale(images, *scale_and_shift(tuple(mean), tuple(std), images.device))


def rescale(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """float32 images, x · scale - shift, contiguous; both are [channels, 1, 1]."""
    return (images * scale).sub_(shift).contiguous()


@lru_cache(maxsize=16)
def scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and mean / std, what :func:`rescale` takes."""
    spread = torch.tensor(std, device=device).view(-1, 1, 1)
    return 1 / (255 * spread), torch.tensor(mean, device=device).view(-1, 1, 1) / spread
