"""Augmentation of whole batches of uint8 images: what is drawn, and doing it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Augment = Literal["none", "crop", "crop_flip", "resized_crop_flip"]
PADDING = 4
AREAS = 0.08, 1.0
"""Of a resized crop, as a share of the image's: the usual recipe for ImageNet (torchvision's defaults)."""
RATIOS = 3 / 4, 4 / 3
"""Width over height of a resized crop."""
ATTEMPTS = 10
"""At a crop that lies within the image; the whole image is taken when all fail."""
STEPS = 256
"""Of the weight between two pixels."""


class Draws(NamedTuple):
    """What was drawn for n images.

    Args:
        shifts: Rows and columns of the crops, int64 [2, n], 0 to twice the padding; None crops nothing.
        mirrored: Boolean [n]; None flips nothing.
        boxes: Resized crops, float32 [4, n]: height and width as shares of the image's, then top and left as shares of
            the room that these leave. None resizes nothing.
    """

    shifts: Tensor | None = None
    mirrored: Tensor | None = None
    boxes: Tensor | None = None


def draw(kind: Augment, n: int, generator: torch.Generator) -> Draws:
    """Random crops, and with ``_flip`` horizontal flips of half the images.

    Args:
        kind: ``crop`` keeps the image's size, after zero padding; ``resized_crop`` has a random size and shape.
        n: How many images.
        generator: A CPU generator.
    """
    if kind == "none":
        return Draws()
    if kind == "resized_crop_flip":
        return Draws(boxes=draw_boxes(n, generator), mirrored=draw_mirrored(n, generator))
    shifts = draw_shifts(n, PADDING, generator)
    return Draws(shifts, draw_mirrored(n, generator) if kind == "crop_flip" else None)


def join(draws: Sequence[Draws]) -> Draws:
    """The draws of several batches, all of one kind, as those of one batch."""
    columns = ([part for part in column if part is not None] for column in zip(*draws, strict=True))
    return Draws(*(torch.cat(column, dim=-1) if column else None for column in columns))


def augment(images: Tensor, draws: Draws, size: int | None = None) -> Tensor:
    """Do what was drawn to uint8 images [n, channels, H, W], H = W, on any device.

    Args:
        images: The images.
        draws: What was drawn for them.
        size: Height and width of the result, of which the images may have more; None leaves them as they are.
    """
    size = size or images.shape[3]
    images = centre(images, size) if draws.boxes is None else resized_crop(images, draws.boxes, size)
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


def draw_boxes(n: int, generator: torch.Generator) -> Tensor:
    """Resized crops of n square images, float32 [4, n], as :class:`Draws` has them."""
    areas = torch.empty(ATTEMPTS, n).uniform_(*AREAS, generator=generator)
    ratios = torch.empty(ATTEMPTS, n).uniform_(*map(math.log, RATIOS), generator=generator).exp()
    extents = torch.stack(((areas / ratios).sqrt(), (areas * ratios).sqrt()))
    extents[:, -1, (extents > 1).any(0).all(0)] = 1.0
    first = (extents <= 1).all(0).int().argmax(0)
    return torch.cat((extents[:, first, torch.arange(n)], torch.rand(2, n, generator=generator)))


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crops of square uint8 images [n, channels, H, H], scaled bilinearly to ``size`` pixels.

    In whole numbers: a pixel does not depend on the device or on the other images of the batch. Without antialiasing,
    which matters only where ``size`` is much below H.
    """
    height, width, top, left = boxes.to(images.device)
    scaled = _sampled(_sampled(images.int(), top, height, size), left, width, size)
    return ((scaled + STEPS**2 // 2) // STEPS**2).to(torch.uint8).contiguous()


def _sampled(images: Tensor, start: Tensor, extent: Tensor, size: int) -> Tensor:
    """``size`` points along L of whole numbers [n, channels, L, M], as [n, channels, M, size], times ``STEPS``."""
    side = images.shape[2]
    length = (extent * side).round().long().clamp(1, side)[:, None]
    first = (start[:, None] * (side - length + 1)).long().clamp(max=side - length)
    centres = (2 * torch.arange(size, device=images.device) + 1) * length * (STEPS // 2) // size - STEPS // 2
    places = first * STEPS + centres.clamp(min=0).minimum((length - 1) * STEPS)
    near, weight = places // STEPS, (places % STEPS).int()[:, :, None, None]
    far = (near + 1).minimum(first + length - 1)
    each = torch.arange(len(images), device=images.device)[:, None]
    mixed = images[each, :, near] * (STEPS - weight) + images[each, :, far] * weight
    return mixed.permute(0, 2, 3, 1)


def centre(images: Tensor, size: int) -> Tensor:
    """The square of ``size`` pixels in the middle of images [n, channels, H, H]."""
    margin = (images.shape[3] - size) // 2
    return images if images.shape[3] == size else images[:, :, margin : margin + size, margin : margin + size]


def draw_mirrored(n: int, generator: torch.Generator) -> Tensor:
    """Which of n images to mirror, each with probability one half."""
    return torch.rand(n, generator=generator) < 0.5


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror some of the images, boolean [n]."""
    columns = torch.arange(images.shape[3], device=images.device)
    columns = torch.where(mirrored.to(images.device)[:, None], columns.flip(0), columns)
    return images.gather(3, columns[:, None, None, :].expand_as(images))


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 images, (x/255 - mean) / std per channel, as :func:`rescale` lays them out."""
    return rescale(images, *scale_and_shift(tuple(mean), tuple(std), images.device))


def rescale(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """float32 images, x · scale - shift, channels last in memory; both are [channels, 1, 1].

    Convolutions keep that layout up to the features, in which small networks train and test a fifth to a third faster
    on a CPU.
    """
    return (images * scale).sub_(shift).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=16)
def scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and mean / std, what :func:`rescale` takes."""
    spread = torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1)
    return 1 / (255 * spread), torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1) / spread
