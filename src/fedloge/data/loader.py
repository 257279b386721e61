"""Batches of training and test images that can be iterated again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloge.data.augment import Augment, Draws, augment, centre, draw, normalise
from fedloge.data.images import Images, gather_batches
from fedloge.federation.seeding import Stream, generator

Batch = tuple[Tensor, Tensor]
"""Images float32 [n, channels, H, W], normalised, and labels int64 [n]."""
EPOCHS_PER_PHASE = 100_000


@dataclass(frozen=True)
class Draw:
    """Where a loader's randomness comes from: the same draw gives the same batches."""

    seed: int
    round: int
    client: int
    phase: int = 0

    def generator(self, stream: Stream, epoch: int) -> torch.Generator:
        """The generator of a stream in a local epoch."""
        return generator(self.seed, self.round, self.client, stream, self.phase * EPOCHS_PER_PHASE + epoch)


@dataclass(frozen=True)
class Serving:
    """How batches are served.

    Args:
        batch_size: Images of a batch.
        augment: Of training images.
        mean: Per channel, of images scaled to [0, 1].
        std: Likewise.
        device: Where to; None is the CPU.
        image_size: Height and width of what is served, the centre or a crop of larger images; None: the images' own.
    """

    batch_size: int
    augment: Augment
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device | None = None
    image_size: int | None = None


class BatchLoader:
    """Batches of some images, shuffled and augmented; every iteration over it is the next epoch.

    Order and augmentation depend on the draw and the number of the epoch alone. The last, shorter batch is kept.

    Args:
        images: The source's training images.
        labels: Their classes, int64.
        indices: Which of them to serve, int64 [n].
        serving: How.
        draw: Where randomness comes from.
    """

    def __init__(self, images: Images, labels: Tensor, indices: Tensor, serving: Serving, draw: Draw) -> None:
        self.images, self.labels, self.indices, self.serving, self.draw = images, labels, indices, serving, draw
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.serving.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        batches, draws = self.next_epoch()
        for batch, drawn, images in zip(batches, draws, gather_batches(self.images, batches), strict=True):
            moved = augment(images.to(self.serving.device or "cpu"), drawn, self.serving.image_size)
            yield _finish(moved, self.labels[batch], self.serving)

    def next_epoch(self) -> tuple[Sequence[Tensor], Sequence[Draws]]:
        """Of each batch of the next epoch, which images are in it, int64 [n], and what augmentation does to them."""
        order, augmentation = (self.draw.generator(stream, self.epoch) for stream in (Stream.ORDER, Stream.AUGMENT))
        self.epoch += 1
        shuffled = self.indices[torch.randperm(len(self.indices), generator=order)]
        batches = torch.split(shuffled, self.serving.batch_size)
        return batches, [draw(self.serving.augment, len(batch), augmentation) for batch in batches]


class InOrder:
    """Batches of some images in the order given, without augmentation; every iteration starts anew.

    Args:
        images: The source's test images.
        labels: Their classes, int64.
        indices: Which of them to serve, int64 [n].
        serving: How; its augmentation is not used.
    """

    def __init__(self, images: Images, labels: Tensor, indices: Tensor, serving: Serving) -> None:
        self.images, self.labels, self.indices, self.serving = images, labels, indices, serving

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.serving.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        batches = torch.split(self.indices, self.serving.batch_size)
        for batch, images in zip(batches, gather_batches(self.images, batches), strict=True):
            whole = centre(images, self.serving.image_size or images.shape[3])
            yield _finish(whole.to(self.serving.device or "cpu"), self.labels[batch], self.serving)


def _finish(images: Tensor, labels: Tensor, serving: Serving) -> Batch:
    return normalise(images, serving.mean, serving.std), labels.to(images.device)
