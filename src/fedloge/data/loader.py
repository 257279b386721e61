"""Loaders of training and test batches that can be iterated repeatedly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedloge.data.augment import Augment, Augmentation, augment, centre, draw_augmentation, normalise
from fedloge.data.images import Images, gather_batches
from fedloge.federation.seeding import Stream, generator

Batch = tuple[Tensor, Tensor]
"""Images float32 [n, channels, H, W], normalised, and labels int64 [n]."""
LastBatch = Literal["keep", "merge", "drop"]
"""What happens to the last batch of an epoch if it is shorter than the others; see :func:`batch_sizes`."""
EPOCHS_PER_PHASE = 100_000
"""Distance between the epoch numbers of two phases, so that no two epochs share a generator."""


@dataclass(frozen=True)
class RandomStreams:
    """Random streams of one local training.

    Args:
        seed: Run seed.
        round: Round number.
        client: Client id.
        phase: Index of the phase of local training.
    """

    seed: int
    round: int
    client: int
    phase: int = 0

    def generator(self, stream: Stream, epoch: int) -> torch.Generator:
        """Generator of a stream in a local epoch; equal arguments give equal generators."""
        return generator(self.seed, self.round, self.client, stream, self.phase * EPOCHS_PER_PHASE + epoch)


@dataclass(frozen=True)
class BatchSettings:
    """Size, augmentation, normalisation and device of batches.

    Args:
        batch_size: Images per batch.
        augment: Kind of augmentation, used for training only.
        mean: Channel means of images scaled to [0, 1].
        std: Channel standard deviations of images scaled to [0, 1].
        device: Device of the batches; None is the CPU.
        image_size: Height and width of the images, cropped from larger stored ones; None keeps the stored size.
        last_batch: What happens to the last, shorter batch of an epoch of training.
    """

    batch_size: int
    augment: Augment
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device | None = None
    image_size: int | None = None
    last_batch: LastBatch = "keep"

    def sizes(self, images: int) -> list[int]:
        """Sizes of the training batches of that many images."""
        return batch_sizes(images, self.batch_size, self.last_batch)


def batch_sizes(images: int, batch_size: int, last_batch: LastBatch) -> list[int]:
    """Sizes of the batches of an epoch.

    Args:
        images: Number of images.
        batch_size: Images per batch.
        last_batch: ``keep`` has a shorter batch at the end, ``merge`` adds a last batch of a single image to the one
            before, ``drop`` leaves the shorter batch out. An epoch has at least one batch.
    """
    full, rest = divmod(images, batch_size)
    if not full or not rest:
        return [batch_size] * full + [rest] * (rest > 0)
    if last_batch == "merge" and rest == 1:
        return [batch_size] * (full - 1) + [batch_size + 1]
    return [batch_size] * full + [rest] * (last_batch != "drop")


class BatchLoader:
    """Shuffled and augmented batches of a selection of images; each iteration is the next epoch.

    Order and augmentation depend on the random streams and the epoch number alone.

    Args:
        images: All training images of the source.
        labels: Classes of all these images, int64.
        indices: Indices of the selected images, int64 [n].
        settings: Batch settings.
        random: Random streams of order and augmentation.
    """

    def __init__(
        self, images: Images, labels: Tensor, indices: Tensor, settings: BatchSettings, random: RandomStreams
    ) -> None:
        self.images, self.labels, self.indices, self.settings, self.random = images, labels, indices, settings, random
        self.epoch = 0
        self.indexed = False
        """Whether batches have a third part, :meth:`positions`."""

    def __len__(self) -> int:
        return len(self.settings.sizes(len(self.indices)))

    def __iter__(self) -> Iterator[Batch]:
        batches, augmentations = self.next_epoch()
        pixels = gather_batches(self.images, batches)
        for batch, augmentation, images in zip(batches, augmentations, pixels, strict=True):
            augmented = augment(images.to(self.settings.device or "cpu"), augmentation, self.settings.image_size)
            finished = _finish(augmented, self.labels[batch], self.settings)
            yield (*finished, self.positions(batch).to(augmented.device)) if self.indexed else finished  # type: ignore[misc]

    def positions(self, images: Tensor) -> Tensor:
        """Positions in the selection, int64 [n], of images given by their indices."""
        order = torch.argsort(self.indices)
        return order[torch.searchsorted(self.indices[order], images)]

    def next_epoch(self) -> tuple[Sequence[Tensor], Sequence[Augmentation]]:
        """Image indices, int64 [n], and augmentation of every batch of the next epoch."""
        order, augmentation = (self.random.generator(stream, self.epoch) for stream in (Stream.ORDER, Stream.AUGMENT))
        self.epoch += 1
        shuffled = self.indices[torch.randperm(len(self.indices), generator=order)]
        sizes = self.settings.sizes(len(shuffled))
        batches = torch.split(shuffled[: sum(sizes)], sizes)
        return batches, [draw_augmentation(self.settings.augment, len(batch), augmentation) for batch in batches]


class SequentialLoader:
    """Batches of a selection of images in the given order, without augmentation; each iteration starts again.

    Args:
        images: All training or all test images of the source.
        labels: Classes of all these images, int64.
        indices: Indices of the selected images, int64 [n].
        settings: Batch settings; the augmentation is ignored.
    """

    def __init__(self, images: Images, labels: Tensor, indices: Tensor, settings: BatchSettings) -> None:
        self.images, self.labels, self.indices, self.settings = images, labels, indices, settings

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.settings.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        batches = torch.split(self.indices, self.settings.batch_size)
        for batch, images in zip(batches, gather_batches(self.images, batches), strict=True):
            whole = centre(images, self.settings.image_size or images.shape[3])
            yield _finish(whole.to(self.settings.device or "cpu"), self.labels[batch], self.settings)


def _finish(images: Tensor, labels: Tensor, settings: BatchSettings) -> Batch:
    return normalise(images, settings.mean, settings.std), labels.to(images.device)
