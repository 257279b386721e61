import logging

import pytest
import torch

from fedloge.data.cache import LEAST_FREE, PixelCache

PIXELS = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return PIXELS


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_makes_once(tmp_path):
    make = Maker()
    for _ in range(3):
        assert torch.equal(PixelCache(tmp_path / "c").get("a", (3, 2, 2), make), PIXELS)
    assert make.calls == 1
    assert len(files(tmp_path)) == 1


def test_name_and_shape_tell_images_apart(tmp_path):
    make, cache = Maker(), PixelCache(tmp_path)
    cache.get("a", (3, 2, 2), make)
    cache.get("b", (3, 2, 2), make)
    cache.get("a", (12, 1, 1), make)
    assert make.calls == 3


def test_a_view_is_kept_as_it_looks(tmp_path):
    turned = PIXELS.permute(0, 2, 1)
    for _ in range(2):
        assert torch.equal(PixelCache(tmp_path).get("a", (3, 2, 2), lambda: turned), turned)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:-1] + b"\x99", lambda b: b"", lambda b: bytes(len(b))]
)
def test_damaged_files_are_made_anew(tmp_path, damage):
    make = Maker()
    PixelCache(tmp_path).get("a", (3, 2, 2), make)
    (file,) = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        assert torch.equal(PixelCache(tmp_path).get("a", (3, 2, 2), make), PIXELS)
    assert make.calls == 2


def test_a_full_disk_is_told_once_and_does_no_harm(tmp_path, disk, caplog):
    disk(LEAST_FREE - 1)
    make, cache = Maker(), PixelCache(tmp_path)
    with caplog.at_level(logging.WARNING):
        for name in "aab":
            assert torch.equal(cache.get(name, (3, 2, 2), make), PIXELS)
    assert make.calls == 3
    assert files(tmp_path) == []
    assert len(caplog.records) == 1
    assert "stores no more images: less than" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert torch.equal(PixelCache(tmp_path / "file").get("a", (3, 2, 2), Maker()), PIXELS)
    assert "stores no more images" in caplog.text
