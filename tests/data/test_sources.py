import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fedloge.data import CIFAR10, CIFAR100, Arrays, Digits, ImageFolder, Source
from fedloge.data.images import TensorImages
from fedloge.data.sources import Dataset
from fedloge.errors import ConfigError, DataError


def write_folder(root, classes=("cat", "dog"), suffix="png", size=(10, 8), parts=("train", "test")):
    for part in parts:
        for number, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(3):
                Image.new("RGB", size, (100 * number, 10 * i, 0)).save(folder / f"{i}.{suffix}")
    return root


def zipped(root):
    return shutil.make_archive(str(root), "zip", root)


def pixels(root, **options):
    train = ImageFolder(str(root), image_size=8, **options).load().train
    return train.gather(torch.arange(len(train)))


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
    images = dataset.train.gather(torch.tensor([4, 0]))
    assert images.shape == (2, 3, 8, 8)
    assert abs(int(images[0, 0].float().mean()) - 100) < 6
    assert int(images[1, 0].max()) < 6


def test_memory_and_files_give_the_same_pixels(tmp_path):
    write_folder(tmp_path, size=(13, 9))
    assert torch.equal(pixels(tmp_path, in_memory="always"), pixels(tmp_path, in_memory="never"))


def test_files_batch_by_batch_are_the_same_images(tmp_path):
    images = ImageFolder(str(write_folder(tmp_path)), image_size=8, in_memory="never").load().train
    batches = list(images.gather_batches(torch.tensor([5, 0, 3, 3, 1]).split(2)))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), images.gather(torch.tensor([5, 0, 3, 3, 1])))


@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_a_zip_is_read_as_its_folder(tmp_path, in_memory):
    root = write_folder(tmp_path / "pets")
    source = ImageFolder(zipped(root), image_size=8, in_memory=in_memory)
    assert (source.name, source.class_names) == ("pets", ["cat", "dog"])
    assert torch.equal(pixels(zipped(root), in_memory=in_memory), pixels(root))
    copied = pickle.loads(pickle.dumps(source)).load().train
    assert torch.equal(copied.gather(torch.arange(6)), pixels(root))


def test_a_zip_may_leave_its_folders_unlisted(tmp_path):
    root = write_folder(tmp_path / "pets")
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        for file in root.rglob("*.png"):
            archive.write(file, file.relative_to(root))
    assert torch.equal(pixels(tmp_path / "flat.zip"), pixels(root))


def test_bad_zips(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"a\.zip' cannot be read as a zip"):
        ImageFolder(str(tmp_path / "a.zip"))
    root = write_folder(tmp_path / "pets")
    (root / "test" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"pets\.zip/test/cat/0\.png' is not an image"):
        ImageFolder(zipped(root), image_size=8).load()


def test_hidden_files_are_left_out(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "dog" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / ".cache").mkdir()
    assert len(pixels(tmp_path)) == 6


def test_grey_images(tmp_path):
    source = ImageFolder(str(write_folder(tmp_path)), image_size=8, channels=1)
    assert source.load().test.gather(torch.tensor([0])).shape == (1, 1, 8, 8)


def test_missing_folder(tmp_path):
    for root in (tmp_path, tmp_path / "absent", tmp_path / "absent.zip"):
        with pytest.raises(DataError, match=r"no folder .*train.* must hold train/<class>"):
            ImageFolder(str(root))
    write_folder(tmp_path, parts=("train",))
    with pytest.raises(DataError, match=r"no folder .*test'"):
        ImageFolder(str(tmp_path))


@pytest.mark.parametrize(
    ("option", "value"),
    [("image_size", 0), ("num_workers", 0), ("channels", 2), ("in_memory", "x"), ("mean", (0.5,)), ("std", (1, 0, 1))],
)
def test_bad_options_are_named(tmp_path, option, value):
    with pytest.raises(ConfigError, match=rf"data\.source\.{option}="):
        ImageFolder(str(write_folder(tmp_path)), **{option: value})


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


def test_every_way_to_be_corrupt_names_the_file(tmp_path):
    """Cut short, or with a byte changed somewhere: read all the same, or refused with its name."""
    write_folder(tmp_path, size=(40, 40))
    path = tmp_path / "train" / "dog" / "1.png"
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), 7)]
    damaged += [whole[:n] + bytes([whole[n] ^ 0xFF]) + whole[n + 1 :] for n in range(len(whole))]
    source = ImageFolder(str(tmp_path), image_size=8, in_memory="never")
    refusals = []
    for content in damaged:
        path.write_bytes(content)
        try:
            source.load().train.gather(torch.tensor([4]))
        except DataError as error:
            refusals.append(str(error))
    assert len(refusals) > len(damaged) // 2
    assert all("1.png" in refusal for refusal in refusals)


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
        def __init__(self, root, train, download):
            assert not download
            self.data, self.targets = np.full((4, 32, 32, 3), 7, dtype=np.uint8), [0, 1, 0, 1]

    monkeypatch.setattr(CIFAR10, "dataset", Fake)
    dataset = CIFAR10("anywhere").load()
    assert dataset.train.gather(torch.tensor([1])).shape == (1, 3, 32, 32)
    assert dataset.test_labels.tolist() == [0, 1, 0, 1]


def test_cifar_takes_other_statistics():
    other = CIFAR10(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert (other.mean, other.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert CIFAR10().mean == (0.4914, 0.4822, 0.4465)
    with pytest.raises(ConfigError, match="One per channel"):
        CIFAR10(mean=[0.5])


def test_cifar_class_names_are_known_before_loading():
    assert CIFAR10().class_names[:2] == ("airplane", "automobile")
    assert (CIFAR10().num_classes, CIFAR100().num_classes) == (10, 100)
    assert list(CIFAR100().class_names) == sorted(set(CIFAR100().class_names))


def test_cifar_downloads_when_asked(monkeypatch):
    asked = []
    fake = staticmethod(lambda root, train, download: asked.append((train, download)))
    monkeypatch.setattr(CIFAR10, "dataset", fake)
    CIFAR10("anywhere").prepare()
    assert asked == []
    CIFAR10("anywhere", download=True).prepare()
    assert asked == [(True, True), (False, True)]


def test_a_download_that_fails_says_so(monkeypatch):
    def fail(root, train, download):
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR10, "dataset", staticmethod(fail))
    with pytest.raises(DataError, match=r"CIFAR10 could not be downloaded to .*: no route to host"):
        CIFAR10("anywhere", download=True).prepare()


def test_a_source_has_to_say_how_to_load():
    with pytest.raises(TypeError, match="load"):
        Source()


def test_a_dataset_has_a_label_for_every_image():
    images, labels = TensorImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)), torch.tensor([0, 1])
    with pytest.raises(DataError, match=r"test_labels must be int64 \[2\]"):
        Dataset(images, labels, images, labels[:1])
    with pytest.raises(DataError, match="train_labels must be int64"):
        Dataset(images, labels.int(), images, labels)


def test_arrays_check_their_tensors():
    images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    assert Arrays(images, labels, images, labels).class_names == ["0", "1"]
    with pytest.raises(DataError, match="must be uint8"):
        Arrays(images.float(), labels, images, labels)
    with pytest.raises(DataError, match="for each of the 4 images"):
        Arrays(images, labels[:3], images, labels)
    with pytest.raises(DataError, match="for each of the 4 images"):
        Arrays(images, labels.float(), images, labels)
    with pytest.raises(DataError, match=r"differ: \[1, 8, 8\] and \[1, 4, 4\]"):
        Arrays(images, labels, images[:, :, :4, :4], labels)
    with pytest.raises(DataError, match="1 class_names for 2"):
        Arrays(images, labels, images, labels, class_names=["a"])
    with pytest.raises(ConfigError, match=r"data\.source\.mean="):
        Arrays(images, labels, images, labels, mean=(0.1, 0.2))
    assert Arrays(images, labels, images, labels, mean=[0.1], std=[0.2]).mean == (0.1,)
