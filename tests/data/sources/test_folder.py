import os
import pickle
import shutil
import zipfile

import pytest
import torch
from PIL import Image

from fedloge.data import ImageFolder
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
    with pytest.raises(DataError, match=r"pets\.zip/test/cat/0\.png' is empty"):
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


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images(tmp_path, name):
    write_folder(tmp_path)
    write_folder(tmp_path, classes=("dog",), parts=(name,))
    dataset = ImageFolder(str(tmp_path), image_size=8).load()
    assert dataset.val_labels.tolist() == [1, 1, 1]
    assert dataset.val.gather(torch.arange(3)).shape == (3, 3, 8, 8)


def test_validation_folders_that_do_not_fit(tmp_path):
    write_folder(tmp_path, parts=("train", "test", "val"))
    write_folder(tmp_path, classes=("bird",), parts=("val",))
    with pytest.raises(DataError, match=r"val' has folders of no class of train: bird"):
        ImageFolder(str(tmp_path))
    shutil.rmtree(tmp_path / "val" / "bird")
    write_folder(tmp_path, parts=("validation",))
    with pytest.raises(DataError, match="has the folders val and validation"):
        ImageFolder(str(tmp_path))


def test_an_archive_of_the_folder_itself(tmp_path):
    root = write_folder(tmp_path / "pets")
    (root / "Thumbs.db").write_bytes(b"x")
    archive = shutil.make_archive(str(tmp_path / "moved"), "zip", tmp_path, "pets")
    assert torch.equal(pixels(archive), pixels(root))


def test_folders_in_a_class_folder_are_refused(tmp_path):
    """Their images would be left out."""
    write_folder(tmp_path)
    (tmp_path / "train" / "dog" / "puppies").mkdir()
    with pytest.raises(DataError, match=r"dog' holds folders: puppies\. Move their images up"):
        ImageFolder(str(tmp_path)).load()


def test_images_left_out_are_counted(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"no image")
    (tmp_path / "train" / "dog" / "9.png").symlink_to("/nowhere")
    dataset = ImageFolder(str(tmp_path), image_size=8, on_unreadable="skip").load()
    assert dataset.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.left_out == {"train": 2, "test": 0}
    for i in (1, 2):
        (tmp_path / "train" / "cat" / f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="cat' is empty"):
        ImageFolder(str(tmp_path), image_size=8, on_unreadable="skip").load()


def test_a_test_image_that_is_a_training_image_is_refused(tmp_path):
    write_folder(tmp_path, parts=("train",))
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(
        DataError, match=r"6 image\(s\) of .* are the same file as another: 'test/cat/0\.png' is 'train"
    ):
        ImageFolder(str(tmp_path), image_size=8).load()


def test_a_class_whose_name_is_not_utf8(tmp_path):
    write_folder(tmp_path)
    for part in ("train", "test"):
        os.rename(tmp_path / part / "dog", os.fsencode(tmp_path) + f"/{part}/d".encode() + b"\xf6g")
    with pytest.raises(DataError, match=r"1 name\(s\) in '.*train' are not UTF-8: b'd\\xf6g'"):
        ImageFolder(str(tmp_path))
