import json

import pytest
import torch

from conftest import tiny_source
from fedloge.data import Arrays, ImageFolder, ImageLists
from fedloge.data.record import DataRecord
from fedloge.data.sources.recorded import Recorded
from fedloge.errors import DataError
from image_trees import write_image


def folder(root, classes=("ant", "bee", "cat"), part="test", count=4):
    for c, name in enumerate(classes):
        for p, own in (("train", count), (part, 2)):
            for i in range(own):
                write_image(root / p / name / f"{i}.png", 100 * c + i)
    return root


def record(source):
    return DataRecord.of(source, source.load())


def differences(old, new):
    return "; ".join(record(old).differences(record(new)))


def read(root, **options):
    return ImageFolder(str(root), **{"image_size": 8} | options)


def test_the_place_of_the_images_does_not_matter(tmp_path):
    old = record(read(folder(tmp_path / "a")))
    assert old.differences(record(read(folder(tmp_path / "b"), in_memory="never"))) == []
    assert old.fitted
    assert (old.class_names, old.image_size, old.images["train"].count) == (("ant", "bee", "cat"), 8, 12)


def test_a_record_is_the_same_in_its_file_and_holds_no_path(tmp_path):
    old = record(read(folder(tmp_path / "a"), std=(0.1, 0.2, 1 / 3)))
    text = json.dumps(old.content())
    assert "0.png" not in text
    (tmp_path / "data.json").write_text(text)
    assert DataRecord.load(tmp_path / "data.json") == old


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": {"train": {"number": 3}}}', '{"images": 3}'])
def test_a_damaged_record(tmp_path, text):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(DataError, match=r"data\.json' is not the record of a run's data"):
        DataRecord.load(tmp_path / "data.json")


def test_classes_by_name_and_order(tmp_path):
    first = read(folder(tmp_path / "a"))
    renamed = read(folder(tmp_path / "b", ("bee", "cat", "zant")))
    found = differences(first, renamed)
    assert found == "class 0 is 'ant' (now 'bee'), class 1 is 'bee' (now 'cat'), class 2 is 'cat' (now 'zant')"
    fewer = read(folder(tmp_path / "c", ("ant", "bee")))
    assert differences(first, fewer) == "3 classes (now 2)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 9}, "image_size=8 (now 9)"),
        ({"channels": 1, "mean": (0.5,), "std": (0.5,)}, "channels=3 (now 1)"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean=(0.485, 0.456, 0.406) (now (0.5, 0.5, 0.5))"),
    ],
)
def test_how_images_are_taken(tmp_path, options, message):
    root = folder(tmp_path / "a")
    assert message in differences(read(root), read(root, **options))


def test_images_that_are_gone_or_new(tmp_path):
    old = record(read(folder(tmp_path / "a")))
    root = folder(tmp_path / "b")
    (root / "train" / "ant" / "1.png").unlink()
    (root / "train" / "bee" / "2.png").rename(root / "train" / "cat" / "x.png")
    for i in range(4, 10):
        write_image(root / "test" / "ant" / f"{i}.png", i)
    new = record(read(root))
    named = ", ".join(f"'test/ant/{i}.png' of class 'ant'" for i in range(4, 9))
    assert old.differences(new) == [
        "train images: 12 images (now 11)",
        "train images: 1 of class 'ant' are gone",
        "train images: 1 of class 'bee' are gone",
        "train images: 1 are new: 'train/cat/x.png' of class 'cat'",
        "test images: 6 images (now 12)",
        f"test images: 6 are new: {named} and 1 more",
    ]


def test_labels_users_and_order_of_a_list(tmp_path):
    for number in range(6):
        write_image(tmp_path / f"{number}.png", number)
    (tmp_path / "test.txt").write_text("4.png 0\n5.png 1\n")

    def source(*lines):
        (tmp_path / "train.txt").write_text("\n".join(lines))
        return ImageLists(str(tmp_path), "train.txt", "test.txt", 2, image_size=8)

    first = record(source("0.png 0 ada", "1.png 0 bob", "2.png 1 ada"))
    label = record(source("0.png 0 ada", "1.png 1 bob", "2.png 1 ada"))
    user = record(source("0.png 0 bob", "1.png 0 bob", "2.png 1 ada"))
    order = record(source("0.png 0 ada", "2.png 1 ada", "1.png 0 bob"))
    assert first.differences(label) == [
        "train images: 1 of class '0' are gone",
        "train images: 1 are new: '1.png' of class '1'",
    ]
    assert "1 are new: '0.png' of class '0'" in first.differences(user)[1]
    assert first.differences(order) == ["train images: another order of the images"]


def test_images_without_files_are_known_by_their_pixels():
    assert differences(tiny_source(), tiny_source()) == ""
    assert differences(tiny_source(), tiny_source(seed=1)) == "train images: other pixels; test images: other pixels"
    images, labels = torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    first, second = (Arrays(images, own, images, labels) for own in (labels, torch.tensor([0, 1, 1, 1])))
    found = differences(first, second)
    assert found == "train images: 1 of class '0' are gone; train images: 1 are new: one of class '1'"


def test_validation_images_belong_to_it(tmp_path):
    old = read(folder(tmp_path / "a"))
    new = read(folder(folder(tmp_path / "b"), part="valid"))
    assert differences(new, old) == "val images: none are there"
    assert record(new).images["val"].count == 6


def test_in_place_of_a_source(tmp_path):
    source = read(folder(tmp_path / "a"))
    (tmp_path / "data.json").write_text(json.dumps(record(source).content()))
    stand_in = Recorded(str(tmp_path / "data.json"))
    assert DataRecord.of(stand_in).class_names == ("ant", "bee", "cat")
    with pytest.raises(DataError, match=r"the images of a are not at hand\. Give their place by --data\.source"):
        stand_in.load()
