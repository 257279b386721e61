import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from fedloge.data.augment import (
    Augmentation,
    augment,
    centre,
    crop,
    draw_augmentation,
    draw_boxes,
    draw_mirrored,
    draw_shifts,
    flip,
    join_augmentations,
    normalise,
    resized_crop,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_crop(images, padding, generator):
    return crop(images, draw_shifts(len(images), padding, generator), padding)


def random_flip(images, generator):
    return flip(images, draw_mirrored(len(images), generator))


def augmented(images, kind, generator):
    return augment(images, draw_augmentation(kind, len(images), generator))


IMAGES = torch.arange(6 * 2 * 5 * 7).remainder(251).to(torch.uint8).view(6, 2, 5, 7)
SQUARES = torch.randint(0, 256, (40, 3, 32, 32), generator=rng(9)).to(torch.uint8)


def test_every_crop_is_a_shifted_image_padded_with_zeros():
    cropped = random_crop(IMAGES, 2, rng())
    assert cropped.shape == IMAGES.shape
    padded = torch.nn.functional.pad(IMAGES, (2, 2, 2, 2))
    for image, whole in zip(cropped, padded, strict=True):
        shifts = [whole[:, y : y + 5, x : x + 7] for y in range(5) for x in range(5)]
        assert any(torch.equal(image, shift) for shift in shifts)


def test_all_shifts_occur():
    image = torch.zeros(2000, 1, 3, 3, dtype=torch.uint8)
    image[:, :, 1, 1] = 1
    moved = random_crop(image, 1, rng()).flatten(1).argmax(1)
    assert torch.bincount(moved, minlength=9).min() > 150


def test_crop_does_the_same_to_all_channels():
    image = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5).expand(4, 3, 5, 5)
    cropped = random_crop(image, 2, rng())
    assert torch.equal(cropped[:, 0], cropped[:, 1])
    assert torch.equal(cropped[:, 0], cropped[:, 2])


def test_flip_mirrors_about_half():
    flipped = random_flip(IMAGES.repeat(100, 1, 1, 1), rng())
    original = IMAGES.repeat(100, 1, 1, 1)
    same, mirrored = (flipped == original).flatten(1).all(1), (flipped == original.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 240 < int(mirrored.sum()) < 360


def test_generator_decides():
    assert torch.equal(augmented(IMAGES, "crop_flip", rng(1)), augmented(IMAGES, "crop_flip", rng(1)))
    assert not torch.equal(augmented(IMAGES, "crop_flip", rng(1)), augmented(IMAGES, "crop_flip", rng(2)))
    assert augmented(IMAGES, "none", rng()) is IMAGES


@pytest.mark.parametrize("kind", ["none", "crop", "crop_flip", "resized_crop_flip"])
def test_draws_of_batches_can_be_joined(kind):
    generator, again = rng(3), rng(3)
    apart = torch.cat([augmented(batch, kind, generator) for batch in SQUARES.split(12)])
    draws = [draw_augmentation(kind, len(batch), again) for batch in SQUARES.split(12)]
    assert torch.equal(augment(SQUARES, join_augmentations(draws)), apart)


def test_boxes_are_those_of_the_usual_recipe():
    """Areas uniform in [0.08, 1], ratios log-uniform in [3/4, 4/3], where both extents fit; anywhere in the image."""
    height, width, top, left = draw_boxes(20_000, rng())
    area, ratio = height * width, (width / height).log()
    assert 0.0799 < float(area.min()) < 0.09
    assert 0.95 < float(area.max()) <= 1
    assert float(height.max()) <= 1
    assert float(width.max()) <= 1
    small = area < 0.5  # all of these fit, so none was drawn again
    assert abs(float(area[small].mean()) - 0.29) < 0.005
    assert abs(float(ratio[small].mean())) < 0.005
    assert abs(float(ratio.max()) - 0.2877) < 0.001
    for place in (top, left):
        assert abs(float(place.mean()) - 0.5) < 0.01
        assert float(place.min()) >= 0
        assert float(place.max()) < 1


def test_a_box_that_never_fits_is_the_whole_image(monkeypatch):
    monkeypatch.setattr("fedloge.data.augment.RATIOS", (4.0, 5.0))
    monkeypatch.setattr("fedloge.data.augment.AREAS", (0.9, 1.0))
    assert bool((draw_boxes(5, rng())[:2] == 1).all())


@pytest.mark.parametrize("size", [9, 28, 32, 50])
def test_resized_crops_are_torchvisions_to_within_rounding(size):
    boxes = draw_boxes(len(SQUARES), rng())
    found = resized_crop(SQUARES, boxes, size)
    assert (found.dtype, found.shape) == (torch.uint8, (40, 3, size, size))
    for image, box, mine in zip(SQUARES, boxes.T, found, strict=True):
        height, width = (int((32 * extent).round()) for extent in box[:2])
        top, left = int(box[2] * (33 - height)), int(box[3] * (33 - width))
        expected = tv.resized_crop(image.float(), top, left, height, width, [size, size], antialias=False)
        # Weights have 256 steps: an error of at most 2 · 255 / 256, and half for the last rounding.
        assert float((mine - expected).abs().max()) < 2.5


def test_the_whole_image_at_its_own_size_stays_as_it_is():
    boxes = torch.tensor([1.0, 1.0, 0.3, 0.9])[:, None].expand(4, 40)
    assert torch.equal(resized_crop(SQUARES, boxes, 32), SQUARES)


def test_a_crop_does_not_depend_on_the_rest_of_the_batch():
    draws = draw_augmentation("resized_crop_flip", 40, rng())
    some = torch.tensor([7, 0])
    apart = augment(SQUARES[some], Augmentation(mirrored=draws.mirrored[some], boxes=draws.boxes[:, some]), 28)
    assert torch.equal(apart, augment(SQUARES, draws, 28)[some])


def test_the_centre_is_served_where_nothing_is_cropped():
    middle = SQUARES[:, :, 2:30, 2:30]
    assert torch.equal(augment(SQUARES, Augmentation(), 28), middle)
    cropped = draw_augmentation("crop", 40, rng())
    assert torch.equal(augment(SQUARES, cropped, 28), augment(middle, cropped))
    assert centre(SQUARES, 31).shape == (40, 3, 31, 31)


def test_normalise_on_paper():
    """(255/255 - 0.5) / 0.25 = 2 and (0 - 0.5) / 0.25 = -2."""
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    result = normalise(images, (0.5,), (0.25,))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.flatten(), torch.tensor([-2.0, 2.0]))


def test_normalise_per_channel_leaves_its_input_alone():
    images = torch.full((1, 2, 3, 3), 51, dtype=torch.uint8)
    before = images.clone()
    result = normalise(images, [0.0, 0.2], [0.1, 0.4])
    torch.testing.assert_close(result[0, :, 0, 0], torch.tensor([2.0, 0.0]))
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_does_not_matter():
    expected = augmented(IMAGES, "crop_flip", rng())
    assert torch.equal(augmented(IMAGES.cuda(), "crop_flip", rng()).cpu(), expected)
    draws = draw_augmentation("resized_crop_flip", len(SQUARES), rng())
    assert torch.equal(augment(SQUARES.cuda(), draws, 28).cpu(), augment(SQUARES, draws, 28))
