"""Random augmentation of whole batches of uint8 images: drawing its parameters and applying them."""

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
"""Range of the area of a resized crop as a share of the image, as usual for ImageNet (torchvision's default)."""
RATIOS = 3 / 4, 4 / 3
"""Range of the aspect ratio (width over height) of a resized crop."""
ATTEMPTS = 10
"""Draws of a resized crop until one fits into the image; if none fits, the whole image is used."""
STEPS = 256
"""Number of steps in which the interpolation weight between two pixels is quantised."""


class Augmentation(NamedTuple):
    """Augmentation parameters of n images.

    Args:
        shifts: Row and column of each crop in the padded image, int64 [2, n], 0 to twice the padding; None for no crop.
        mirrored: Which images are flipped horizontally, boolean [n]; None for no flips.
        boxes: Resized crops, float32 [4, n]: height and width as shares of the image, then top and left as shares of
            the remaining margin; None for no resized crop.
    """

    shifts: Tensor | None = None
    mirrored: Tensor | None = None
    boxes: Tensor | None = None


def draw_augmentation(kind: Augment, n: int, generator: torch.Generator) -> Augmentation:
    """Draw random crops and, for kinds that end in ``_flip``, horizontal flips with probability one half.

    Args:
        kind: ``crop`` keeps the image size after zero padding; ``resized_crop`` has a random size and aspect ratio.
        n: Number of images.
        generator: CPU generator.
    """
    if kind == "none":
        return Augmentation()
    if kind == "resized_crop_flip":
        return Augmentation(boxes=draw_boxes(n, generator), mirrored=draw_mirrored(n, generator))
    shifts = draw_shifts(n, PADDING, generator)
    return Augmentation(shifts, draw_mirrored(n, generator) if kind == "crop_flip" else None)


def join_augmentations(parts: Sequence[Augmentation]) -> Augmentation:
    """Concatenate the augmentations of several batches, all of the same kind."""
    columns = ([part for part in column if part is not None] for column in zip(*parts, strict=True))
    return Augmentation(*(torch.cat(column, dim=-1) if column else None for column in columns))


def augment(images: Tensor, augmentation: Augmentation, size: int | None = None) -> Tensor:
    """Apply an augmentation to square images on any device.

    Args:
        images: uint8 [n, channels, H, H].
        augmentation: Parameters for these n images.
        size: Height and width of the result, at most H; None keeps H.
    """
    size = size or images.shape[3]
    boxes, shifts, mirrored = augmentation.boxes, augmentation.shifts, augmentation.mirrored
    images = centre(images, size) if boxes is None else resized_crop(images, boxes, size)
    images = images if shifts is None else crop(images, shifts, PADDING)
    return images if mirrored is None else flip(images, mirrored)


def draw_shifts(n: int, padding: int, generator: torch.Generator) -> Tensor:
    """Draw row and column of n crops, int64 [2, n]."""
    return torch.randint(2 * padding + 1, (2, n), generator=generator)


def crop(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Shift every image by up to ``padding`` pixels in each direction, filling with zeros."""
    n, _, height, width = images.shape
    rows, columns = shifts.to(images.device)
    # A view of all possible crops, [n, channels, rows, columns, H, W]: only the chosen ones are copied.
    crops = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(n, device=images.device), :, rows, columns]


def draw_boxes(n: int, generator: torch.Generator) -> Tensor:
    """Draw resized crops of n square images, float32 [4, n], in the format of :attr:`Augmentation.boxes`."""
    areas = torch.empty(ATTEMPTS, n).uniform_(*AREAS, generator=generator)
    ratios = torch.empty(ATTEMPTS, n).uniform_(*map(math.log, RATIOS), generator=generator).exp()
    extents = torch.stack(((areas / ratios).sqrt(), (areas * ratios).sqrt()))
    extents[:, -1, (extents > 1).any(0).all(0)] = 1.0
    first = (extents <= 1).all(0).int().argmax(0)
    return torch.cat((extents[:, first, torch.arange(n)], torch.rand(2, n, generator=generator)))


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop square uint8 images [n, channels, H, H] and scale them bilinearly to ``size`` pixels.

    Integer arithmetic makes a pixel independent of the device and of the other images in the batch. There is no
    antialiasing, which matters only if ``size`` is much smaller than H.
    """
    height, width, top, left = boxes.to(images.device)
    scaled = _sampled(_sampled(images.int(), top, height, size), left, width, size)
    return ((scaled + STEPS**2 // 2) // STEPS**2).to(torch.uint8).contiguous()


def _sampled(images: Tensor, start: Tensor, extent: Tensor, size: int) -> Tensor:
    """Interpolate integers [n, channels, L, M] at ``size`` points along L: [n, channels, M, size], times ``STEPS``."""
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
    """Central square of ``size`` pixels of images [n, channels, H, H]."""
    margin = (images.shape[3] - size) // 2
    return images if images.shape[3] == size else images[:, :, margin : margin + size, margin : margin + size]


def draw_mirrored(n: int, generator: torch.Generator) -> Tensor:
    """Draw which of n images to mirror, boolean [n], each with probability one half."""
    return torch.rand(n, generator=generator) < 0.5


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images selected by ``mirrored``, boolean [n], horizontally."""
    columns = torch.arange(images.shape[3], device=images.device)
    columns = torch.where(mirrored.to(images.device)[:, None], columns.flip(0), columns)
    return images.gather(3, columns[:, None, None, :].expand_as(images))


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 images (x/255 - mean) / std per channel, in the layout of :func:`rescale`; floats stand for x/255."""
    return rescale(images, *scale_and_shift(tuple(mean), tuple(std), images.device, full_scale(images.dtype)))


def full_scale(dtype: torch.dtype) -> int:
    """Value of a pixel that stands for 1: 255 in uint8 images, 1 in images of floats (features)."""
    return 255 if dtype == torch.uint8 else 1


def rescale(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """float32 images x · scale - shift, channels last in memory; ``scale`` and ``shift`` are [channels, 1, 1].

    Convolutions keep this layout up to the features; small networks train and test 20 to 30 % faster with it on a CPU.
    """
    return (images * scale).sub_(shift).contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=16)
def scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, full: int
) -> tuple[Tensor, Tensor]:
    """Arguments 1 / (full · std) and mean / std of :func:`rescale`; ``full`` is that of :func:`full_scale`."""
    spread = torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1)
    return 1 / (full * spread), torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1) / spread
