"""Batches of an epoch."""

import pytest
import torch

from fedloge.data.images import TensorImages
from fedloge.data.loader import BatchLoader, BatchSettings, RandomStreams, batch_sizes

SIZES = {
    (9, 4): {"keep": [4, 4, 1], "merge": [4, 5], "drop": [4, 4]},
    (10, 4): {"keep": [4, 4, 2], "merge": [4, 4, 2], "drop": [4, 4]},
    (8, 4): {"keep": [4, 4], "merge": [4, 4], "drop": [4, 4]},
    (5, 4): {"keep": [4, 1], "merge": [5], "drop": [4]},
    (3, 4): {"keep": [3], "merge": [3], "drop": [3]},
    (1, 4): {"keep": [1], "merge": [1], "drop": [1]},
    (3, 1): {"keep": [1, 1, 1], "merge": [1, 1, 1], "drop": [1, 1, 1]},
}


@pytest.mark.parametrize("last_batch", ["keep", "merge", "drop"])
@pytest.mark.parametrize(("images", "batch_size"), SIZES)
def test_sizes_of_batches(images, batch_size, last_batch):
    expected = SIZES[images, batch_size][last_batch]
    assert batch_sizes(images, batch_size, last_batch) == expected
    pixels = torch.arange(images, dtype=torch.uint8).view(-1, 1, 1, 1)
    settings = BatchSettings(batch_size, "none", (0.0,), (1 / 255,), last_batch=last_batch)
    everything = torch.arange(images)
    loader = BatchLoader(TensorImages(pixels), everything, everything, settings, RandomStreams(0, 1, 0))
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == expected
    assert len(loader) == len(expected)
    seen = torch.cat([labels for _, labels in batches])
    assert torch.equal(torch.cat([image.flatten() for image, _ in batches]).round().long(), seen)
    assert len(set(seen.tolist())) == sum(expected)


def test_the_order_of_the_images_is_the_same_for_all():
    pixels, everything = TensorImages(torch.zeros(9, 1, 1, 1, dtype=torch.uint8)), torch.arange(9)
    orders = []
    for last_batch in ("keep", "merge", "drop"):
        settings = BatchSettings(4, "none", (0.0,), (1.0,), last_batch=last_batch)
        loader = BatchLoader(pixels, everything, everything, settings, RandomStreams(0, 1, 0))
        orders.append(torch.cat([labels for _, labels in loader]).tolist())
    assert orders[0] == orders[1]
    assert orders[2] == orders[0][:8]
