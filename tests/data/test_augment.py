import pytest
import torch

from fedloge.data.augment import augment, crop, draw, draw_mirrored, draw_shifts, flip, join, normalise


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_crop(images, padding, generator):
    return crop(images, draw_shifts(len(images), padding, generator), padding)


def random_flip(images, generator):
    return flip(images, draw_mirrored(len(images), generator))


def augmented(images, kind, generator):
    return augment(images, draw(kind, len(images), generator))


IMAGES = torch.arange(6 * 2 * 5 * 7).remainder(251).to(torch.uint8).view(6, 2, 5, 7)


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


@pytest.mark.parametrize("kind", ["none", "crop", "crop_flip"])
def test_draws_of_batches_can_be_joined(kind):
    generator, again = rng(3), rng(3)
    apart = torch.cat([augmented(batch, kind, generator) for batch in IMAGES.split(4)])
    draws = [draw(kind, len(batch), again) for batch in IMAGES.split(4)]
    assert torch.equal(augment(IMAGES, join(draws)), apart)


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
    assert torch.equal(images, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_does_not_matter():
    expected = augmented(IMAGES, "crop_flip", rng())
    assert torch.equal(augmented(IMAGES.cuda(), "crop_flip", rng()).cpu(), expected)
