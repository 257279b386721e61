"""Features of all images of a dataset, computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedloge.data.features import as_images
from fedloge.data.images import Images
from fedloge.data.loader import BatchSettings, SequentialLoader
from fedloge.data.sources.base import Dataset


@torch.no_grad()
def embed(images: Images, body: Callable[[Tensor], Tensor], settings: BatchSettings) -> Tensor:
    """Features of all images, float32 [n, d] on the CPU, without augmentation.

    Args:
        images: Images.
        body: Function from normalised images [n, channels, H, W] to features [n, d].
        settings: Batch settings; batches lie on their device.
    """
    nobody = torch.zeros(len(images), dtype=torch.int64)
    batches = SequentialLoader(images, nobody, torch.arange(len(images)), settings)
    return torch.cat([body(batch).float().cpu() for batch, _ in batches])


def embed_dataset(dataset: Dataset, body: Callable[[Tensor], Tensor], settings: BatchSettings) -> Dataset:
    """The dataset with the features of its images in their place."""
    parts = {"train": dataset.train, "test": dataset.test, "val": dataset.val}
    changes: dict[str, Any] = {
        name: as_images(embed(images, body, settings)) for name, images in parts.items() if images is not None
    }
    return dataclasses.replace(dataset, **changes)
