import errno
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedloge.data.cache import PixelCache
from fedloge.data.files import FolderFiles
from fedloge.data.images import FileImages, load_parts, outdated
from fedloge.errors import DataError


def paint(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 0, 0)).save(path)


def images(root, *names, **options):
    return FileImages(FolderFiles(root), names, 8, 3, 2, **options)


@pytest.fixture
def root(tmp_path):
    for i in range(3):
        paint(tmp_path / f"{i}.png", 10 * i)
    return tmp_path


@pytest.fixture
def spoilt(root):
    """Every kind of file that is no image."""
    (root / "empty.png").touch()
    (root / "text.png").write_text("no image")
    (root / "float.tif").write_bytes(b"")
    Image.new("F", (8, 8)).save(root / "float.tif")
    (root / "broken.png").symlink_to("/nowhere/x.png")
    (root / "self.png").symlink_to("self.png")
    os.mkfifo(root / "pipe.png")
    return ["empty.png", "text.png", "float.tif", "broken.png", "self.png", "pipe.png"]


@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_all_that_cannot_be_read_is_refused_together(root, spoilt, in_memory):
    parts = {"train": images(root, "0.png", *spoilt[:3]), "test": images(root, "1.png", *spoilt[3:])}
    with pytest.raises(DataError) as error:
        load_parts(parts, in_memory)
    message = str(error.value)
    assert message.startswith("6 of 8 images cannot be read: ")
    assert "empty.png' is empty; " in message
    assert "text.png' is not an image that Pillow can read: its format is unknown; " in message
    assert "float.tif' has mode F, whose values have no fixed range" in message
    assert "broken.png' is a link without a target; " in message
    assert "self.png' is a link without a target and 1 more. " in message
    assert "on_unreadable=skip" in message
    assert "\n" not in message


@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_what_cannot_be_read_may_be_left_out(root, spoilt, in_memory, caplog):
    whole = (root / "2.png").read_bytes()
    (root / "2.png").write_bytes(whole[:-30])  # its header is whole
    part = load_parts({"train": images(root, "0.png", *spoilt, "2.png", "1.png")}, in_memory, "skip")["train"]
    assert part.kept.tolist() == [0, 8]
    assert part.left_out == 7
    assert part.images.gather(torch.arange(2))[:, 0, 0, 0].tolist() == [0, 10]
    assert caplog.text.count("7 image(s) cannot be read and are left out") == 1


def test_all_corrupt_images_of_the_batches_to_come_are_counted(root):
    for name in ("0.png", "2.png"):
        (root / name).write_bytes((root / name).read_bytes()[:-30])
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read: .*0\.png'.*2\.png' is not an image"):
        list(images(root, "0.png", "1.png", "2.png").gather_batches(torch.arange(3).split(1)))


@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_one_file_under_two_names_is_refused(root, in_memory):
    (root / "link.png").symlink_to("0.png")
    (root / "in").symlink_to(root)
    os.link(root / "1.png", root / "hard.png")
    parts = {"train": images(root, "0.png", "1.png", "link.png"), "test": images(root, "in/0.png", "hard.png")}
    with pytest.raises(DataError) as error:
        load_parts(parts, in_memory)
    assert "3 image(s) of" in str(error.value)
    assert "'link.png' is '0.png', 'in/0.png' is '0.png', 'hard.png' is '1.png'. Keep one." in str(error.value)


def test_an_error_that_may_pass_is_not_the_fault_of_the_image(root, monkeypatch):
    def fail(self, path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(FolderFiles, "open", fail)
    with pytest.raises(DataError, match=r"0\.png' cannot be read at the moment: Too many open files"):
        load_parts({"train": images(root, "0.png")}, "always", "skip")


@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_a_changed_file_is_noticed(root, in_memory):
    loaded = load_parts({"train": images(root, "0.png", "1.png")}, in_memory)["train"].images
    assert not outdated(loaded)
    paint(root / "2.png", 77)
    assert not outdated(loaded)
    paint(root / "1.png", 78)
    os.utime(root / "1.png", (1, 1))  # an older one may be put in its place
    assert outdated(loaded)


def test_the_cache_decodes_a_changed_file_again(root, tmp_path):
    cached = images(root, "0.png", cache=PixelCache(tmp_path / "cache"))
    assert int(cached.gather(torch.tensor([0]))[0, 0, 0, 0]) == 0
    paint(root / "0.png", 90)
    os.utime(root / "0.png", (1, 1))
    assert int(cached.gather(torch.tensor([0]))[0, 0, 0, 0]) == 90


def test_what_the_cache_has_is_not_opened(root, tmp_path, monkeypatch):
    cached = images(root, "0.png", cache=PixelCache(tmp_path / "cache"))
    cached.gather(torch.tensor([0]))
    monkeypatch.setattr(Path, "open", None)
    assert cached.check() == {}
