"""A training set on the training device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fedloge.data.augment import (
    Augmentation,
    augment,
    centre,
    full_scale,
    join_augmentations,
    rescale,
    scale_and_shift,
)
from fedloge.data.images import TensorImages
from fedloge.data.loader import Batch, BatchLoader, SequentialLoader
from fedloge.system.devices import upload

PAGE_BYTES = 2**25
"""Bytes of uint8 images that are augmented at once."""


class Resident:
    """Images and labels on a device.

    Images in memory are copied once, as uint8, unless they would take more than half of the free memory of the
    device; such images, and images in files, are gathered on the host page by page.

    Args:
        loader: Loader of any client, for the images and how they are served.
        device: Device for the images.
    """

    def __init__(self, loader: BatchLoader, device: torch.device) -> None:
        self.device, self.settings, self.images = device, loader.settings, loader.images
        first = loader.images.gather(loader.indices[:1])
        self.shape = centre(first, self.settings.image_size or first.shape[3]).shape[1:]
        self.here, self.dtype = False, first.dtype
        if isinstance(loader.images, TensorImages) and fits(loader.images.images, device):
            self.here, self.images = True, TensorImages(loader.images.images.to(device))
        self.labels = loader.labels.to(device)
        self._scaling = scale_and_shift(
            tuple(self.settings.mean), tuple(self.settings.std), device, full_scale(first.dtype)
        )
        size = self.settings.batch_size
        batches = min(PAGE_BYTES // (size * first.nbytes), -(-len(loader.images) // size))
        self.page_size = size * max(batches, 1)
        """Number of images in a page, a multiple of the batch size."""

    def pages(self, loader: BatchLoader) -> Iterator[Batch]:
        """Next epoch of the loader in pages of whole batches: augmented uint8 images, and labels."""
        batches, draws = loader.next_epoch()
        step = self.page_size // self.settings.batch_size
        for start in range(0, len(batches), step):
            indices = torch.cat(list(batches[start : start + step]))
            drawn = join_augmentations(draws[start : start + step])
            drawn = Augmentation(*(None if part is None else upload(part, self.device) for part in drawn))
            there = upload(indices, self.device)
            images = upload(self.images.gather(there if self.here else indices), self.device)
            yield augment(images, drawn, self.settings.image_size), self.labels[there]

    def in_order(self, batches: SequentialLoader) -> SequentialLoader:
        """The same batches, read from the device if the images are there."""
        indices = upload(batches.indices, self.device) if self.here else batches.indices
        return SequentialLoader(self.images, self.labels, indices, replace(batches.settings, device=self.device))

    def normalise(self, images: Tensor) -> Tensor:
        """Normalised float32 images from uint8 images."""
        return rescale(images, *self._scaling)


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether the images take at most half of the free memory of the device."""
    return device.type != "cuda" or images.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
