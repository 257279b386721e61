"""Whatever lies in a folder, an archive or a list: images, or a refusal in one line, and never anything else."""

import os
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedloge.data import ImageFolder, ImageLists
from fedloge.data.images import FileImages
from fedloge.data.record import DataRecord
from fedloge.errors import FedlogeError
from fedloge.inference.images import find_images, open_images

EXAMPLES = int(os.environ.get("FEDLOGE_FUZZ", "100"))
"""Of each property, the same ones every time; the variable tries others and more."""

FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 100, suppress_health_check=list(HealthCheck)
)


def stored(mode, format, orientation=1, size=(5, 3)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    options = {} if format in ("GIF", "BMP", "PPM") else {"exif": exif}
    Image.radial_gradient("L").resize(size).convert(mode).save(file, format, **options)
    return file.getvalue()


PICTURES = [
    *(stored(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(
        stored(mode, "TIFF")
        for mode in ("1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "F", "I;16")
    ),
    *(stored(mode, "JPEG", orientation) for mode in ("L", "RGB", "CMYK", "YCbCr") for orientation in (1, 6)),
    *(stored("P", format) for format in ("GIF", "BMP")),
    stored("RGB", "WEBP", 3),
    stored("L", "PPM"),
    stored("RGB", "PNG", size=(1, 400)),
]
USUAL = ["a", "b.png", "B.PNG", "c.jpg", "Thumbs.db", "__MACOSX", ".x.png", "0.tif", "d e.webp", "%s {} [x] $a$"]
ODD = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=6)
NAMES = st.one_of(
    st.sampled_from(USUAL).map(os.fsencode),
    ODD.filter(lambda name: name not in (".", "..")).map(os.fsencode),
    st.sampled_from([b"\xe9.png", b"b\xff", b"x" * 300]),
)
FOLDERS = st.sampled_from(
    ["train/ant", "train/bee", "test/ant", "test/bee", "train", "test", "val/ant", "valid/bee", "", "train/cat", "ant"]
)
CONTENTS = (
    st.sampled_from(PICTURES)
    | st.tuples(st.sampled_from(PICTURES), st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]])
    | st.tuples(st.sampled_from(PICTURES), st.integers(0, 99), st.integers(0, 255)).map(
        lambda own: own[0][: own[1]] + bytes([own[2]]) + own[0][own[1] + 1 :]
    )
    | st.binary(max_size=20)
    | st.sampled_from(["/nowhere", ".", "..", "a", "b.png", "../../train/ant", "pipe", "folder"])
)
TREES = st.lists(st.tuples(FOLDERS, NAMES, CONTENTS), max_size=9)
OPTIONS = st.fixed_dictionaries(
    {
        "image_size": st.integers(1, 9),
        "channels": st.sampled_from([1, 3]),
        "in_memory": st.sampled_from(["always", "never"]),
        "on_unreadable": st.sampled_from(["refuse", "skip"]),
        "num_workers": st.just(1),
    }
)


def plant(root, tree, whole):
    """Write a tree: bytes are files, texts the targets of links, a pipe, or a folder. ``whole`` adds what is needed."""
    if whole:
        for i, folder in enumerate(("train/ant", "train/bee", "test/ant", "test/bee")):
            tree = [(folder, b"whole.png", PICTURES[4] + bytes(i)), *tree]
    for folder, name, content in tree:
        path = os.fsencode(root / folder)
        try:
            os.makedirs(path, exist_ok=True)
            path += b"/" + name
            if content == "pipe":
                os.mkfifo(path)
            elif content == "folder":
                os.mkdir(path)
            elif isinstance(content, str):
                os.symlink(content, path)
            elif not os.path.lexists(path):  # writing into a pipe would wait for a reader
                with open(path, "wb") as file:
                    file.write(content)
        except OSError:  # the name is taken, or too long
            continue


def zipped(root, tree, whole):
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder), tree, whole)
        with zipfile.ZipFile(root / "a.zip", "w") as archive:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and str(path).isprintable():
                    archive.write(path, Path("top") / path.relative_to(folder))
    return root / "a.zip"


def attempt(use):
    """The result, or None where it is refused in one line."""
    try:
        return use()
    except FedlogeError as error:
        message = str(error)
    assert message.strip()
    assert "\n" not in message
    return None


def gather_all(images):
    return images.gather(torch.arange(len(images)))


def check_images(images, options):
    pixels = gather_all(images)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (len(images), options["channels"], options["image_size"], options["image_size"])


@FUZZ
@given(TREES, OPTIONS, st.booleans(), st.booleans())
def test_any_folder_or_archive(tree, options, whole, archive):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if archive:
            root = zipped(root, tree, whole)
        else:
            plant(root, tree, whole)
        source = attempt(lambda: ImageFolder(str(root), **options))
        dataset = source and attempt(source.load)
        if dataset is None:
            return
        parts = [(dataset.train, dataset.train_labels), (dataset.test, dataset.test_labels)]
        parts += [] if dataset.val is None else [(dataset.val, dataset.val_labels)]
        for images, labels in parts:
            assert len(images) == len(labels)
            attempt(lambda images=images: check_images(images, options))  # a file may be cut short behind its header
        assert sorted(set(dataset.train_labels.tolist())) == list(range(source.num_classes))
        record = DataRecord.of(source, dataset)
        assert record.differences(record) == []


@FUZZ
@given(TREES, OPTIONS, st.booleans(), st.booleans())
def test_any_images_to_classify(tree, options, fitted, convert):
    size = options["image_size"]
    channels = options["channels"]
    record = DataRecord("any", ("a", "b"), channels, size, None, (0.5,) * channels, (0.5,) * channels, fitted)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plant(root, tree, whole=False)
        inside = [root / os.fsdecode(os.fsencode(place) + b"/" + name) for place, name, _ in tree]
        for paths in ([root], inside):
            found = attempt(lambda paths=paths: find_images(paths))
            opened = found and attempt(lambda found=found: open_images(found, record, convert))
            if isinstance(opened, FileImages):
                attempt(lambda opened=opened: check_images(opened, options))


LINES = st.lists(
    st.tuples(
        st.sampled_from(["train/0.png", "./train/1.png", "train//2.png", "train/../train/0.png", "link/1.png", "3.png"])
        | st.text(st.characters(codec="utf-8"), max_size=8),
        st.sampled_from(["0", "1", "2", "-1", "", "x", "٣"]),
        st.sampled_from(["", "ada", "bob"]),
    ).map(" ".join),
    max_size=6,
)


@FUZZ
@given(LINES, st.lists(st.sampled_from(["test/0.png 0", "test/1.png 1", "train/3.png 0"]), max_size=3), st.booleans())
def test_any_list(train, test, whole):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for i in range(4):
            for part in ("train", "test"):
                (root / part).mkdir(exist_ok=True)
                (root / part / f"{i}.png").write_bytes(PICTURES[4] + bytes(i))
        (root / "link").symlink_to("train")
        (root / "train" / "up").symlink_to("..")
        needed = ["train/0.png 0", "train/1.png 1"] if whole else []
        for name, lines in (("train.txt", [*needed, *train]), ("test.txt", test)):
            (root / name).write_text("\n".join(lines), encoding="utf-8")
        source = attempt(lambda: ImageLists(folder, "train.txt", "test.txt", 2, image_size=3, stored_size=4))
        dataset = source and attempt(source.load)
        if dataset is not None:
            assert gather_all(dataset.train).shape == (len(dataset.train_labels), 3, 4, 4)
            located = [os.path.realpath(root / path) for path in (*source.train.paths, *source.test.paths)]
            assert len(set(located)) == len(located)
