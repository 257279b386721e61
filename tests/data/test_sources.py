import numpy as np
import pytest
import torch
from PIL import Image

from fedloge.data import CIFAR10, Arrays, Digits, ImageFolder
from fedloge.errors import DataError


def write_folder(root, classes=("cat", "dog"), suffix="png", size=(10, 8), parts=("train", "test")):
    for part in parts:
        for number, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(3):
                Image.new("RGB", size, (100 * number, 10 * i, 0)).save(folder / f"{i}.{suffix}")
    return root


def test_digits_have_a_balanced_test_set_apart_from_training():
    dataset = Digits().load()
    assert torch.bincount(dataset.test_labels).tolist() == [40] * 10
    assert len(dataset.train) == 1797 - 400
    image = dataset.train.gather(torch.tensor([0, 5]))
    assert (image.dtype, image.shape) == (torch.uint8, (2, 1, 8, 8))
    assert int(dataset.train.gather(torch.arange(len(dataset.train))).max()) == 255


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp"])
@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_folder_in_memory_or_decoded_when_needed(tmp_path, suffix, in_memory):
    source = ImageFolder(str(write_folder(tmp_path, suffix=suffix)), image_size=8, in_memory=in_memory)
    assert source.class_names == ["cat", "dog"]
    dataset = source.load()
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    pixels = dataset.train.gather(torch.tensor([4, 0]))
    assert pixels.shape == (2, 3, 8, 8)
    assert abs(int(pixels[0, 0].float().mean()) - 100) < 6
    assert int(pixels[1, 0].max()) < 6


def test_memory_and_files_give_the_same_pixels(tmp_path):
    write_folder(tmp_path, size=(13, 9))
    everything = torch.arange(6)
    first, second = (
        ImageFolder(str(tmp_path), image_size=8, in_memory=mode).load().train.gather(everything)
        for mode in ("always", "never")
    )
    assert torch.equal(first, second)


def test_grey_images(tmp_path):
    source = ImageFolder(str(write_folder(tmp_path)), image_size=8, channels=1)
    assert source.load().test.gather(torch.tensor([0])).shape == (1, 1, 8, 8)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*train.* must hold train/<class>"):
        ImageFolder(str(tmp_path))


def test_one_class(tmp_path):
    with pytest.raises(DataError, match="has 1 class"):
        ImageFolder(str(write_folder(tmp_path, classes=("cat",))))


def test_classes_that_differ(tmp_path):
    write_folder(tmp_path)
    write_folder(tmp_path, classes=("bird",), parts=("train",))
    with pytest.raises(DataError, match=r"only in train \['bird'\]"):
        ImageFolder(str(tmp_path))


def test_corrupt_image_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "dog" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1\.png' is not an image"):
        ImageFolder(str(tmp_path), image_size=8).load()


def test_empty_class(tmp_path):
    write_folder(tmp_path)
    for file in (tmp_path / "test" / "cat").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="is empty"):
        ImageFolder(str(tmp_path), image_size=8).load()


def test_cifar_that_is_not_there_says_where_and_how(tmp_path):
    with pytest.raises(DataError, match=r"CIFAR10 was not found in .* download is off.*download=true"):
        CIFAR10(str(tmp_path)).load()


def test_cifar_through_torchvision(monkeypatch):
    class Fake:
        classes = ("a", "b")

        def __init__(self, root, train, download):
            assert not download
            self.data, self.targets = np.full((4, 32, 32, 3), 7, dtype=np.uint8), [0, 1, 0, 1]

    monkeypatch.setattr(CIFAR10, "dataset", Fake)
    source = CIFAR10("anywhere")
    dataset = source.load()
    assert source.class_names == ["a", "b"]
    assert dataset.train.gather(torch.tensor([1])).shape == (1, 3, 32, 32)
    assert dataset.test_labels.tolist() == [0, 1, 0, 1]


def test_arrays_check_their_tensors():
    images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    assert Arrays(images, labels, images, labels).class_names == ["0", "1"]
    with pytest.raises(DataError, match="must be uint8"):
        Arrays(images.float(), labels, images, labels)
    with pytest.raises(DataError, match="for each of the 4 images"):
        Arrays(images, labels[:3], images, labels)
