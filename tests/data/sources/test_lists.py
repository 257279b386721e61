import pickle
import re
import shutil

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from fedloge.data import FederatedDataModule, ImageLists, ImageNetLT, INaturalist
from fedloge.data.augment import normalise
from fedloge.data.record import DataRecord
from fedloge.errors import ConfigError, DataError
from fedloge.evaluation.shots import shots
from fedloge.inference.images import open_images
from image_trees import COUNTS, imagenet_lt, inaturalist, write_image

SMALL = {"num_classes": 5, "image_size": 7, "stored_size": 8}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return imagenet_lt(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="module")
def naturalist(tmp_path_factory):
    return inaturalist(tmp_path_factory.mktemp("inaturalist"))


@pytest.fixture
def changed(imagenet, tmp_path):
    """A copy of the tree to break, and what loading it says."""
    root = shutil.copytree(imagenet, tmp_path / "imagenet")

    def change(part, edit):
        file = root / f"ImageNet_LT_{part}.txt"
        file.write_text("\n".join(edit(file.read_text().splitlines())) + "\n")
        with pytest.raises(DataError) as error:
            ImageNetLT(str(root), **SMALL).load()
        return str(error.value)

    change.root = root
    return change


def pixels(source):
    train = source.load().train
    return train.gather(torch.arange(len(train)))


def test_imagenet_lt(imagenet):
    source = ImageNetLT(str(imagenet), **SMALL)
    dataset = source.load()
    assert torch.bincount(dataset.train_labels).tolist() == list(COUNTS)
    assert torch.bincount(dataset.test_labels).tolist() == [4] * 5
    assert dataset.train_users is None
    assert source.class_names[:2] == ["n01440764", "n01440781"]
    assert (source.name, source.channels, source.image_size, source.stored_size) == ("ImageNet-LT", 3, 7, 8)
    assert dataset.train.gather(torch.tensor([0])).shape == (1, 3, 8, 8)


def test_the_defaults_are_those_of_the_published_sets():
    with pytest.raises(DataError, match=r"no image folder .*Register at image-net\.org.*ImageNet_LT_train\.txt"):
        ImageNetLT("absent")
    with pytest.raises(DataError, match=r"no image folder .*iNaturalist 2017.*federated_train_user_120k\.csv"):
        INaturalist("absent")


def test_lists_may_lie_elsewhere_and_val_have_class_folders(imagenet, tmp_path):
    """As torchvision and others unpack ImageNet."""
    root = shutil.copytree(imagenet, tmp_path / "imagenet")
    (tmp_path / "lists").mkdir()
    for file in root.glob("*.txt"):
        file.rename(tmp_path / "lists" / file.name)
    for number, file in enumerate(sorted((root / "val").iterdir())):
        (root / "val" / f"n{number % 3}").mkdir(exist_ok=True)
        file.rename(root / "val" / f"n{number % 3}" / file.name)
    moved = ImageNetLT(str(root), lists=str(tmp_path / "lists"), **SMALL).load().test
    straight = ImageNetLT(str(imagenet), **SMALL).load().test
    assert torch.equal(moved.gather(torch.arange(20)), straight.gather(torch.arange(20)))


def test_a_zip_of_the_folder(imagenet, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "imagenet"), "zip", imagenet)
    source = ImageNetLT(archive, lists=str(imagenet), **SMALL)
    assert torch.equal(pixels(source), pixels(ImageNetLT(str(imagenet), **SMALL)))


def test_inaturalist(naturalist):
    source = INaturalist(str(naturalist), **SMALL)
    dataset = source.load()
    assert torch.bincount(dataset.train_labels).tolist() == list(COUNTS)
    assert torch.bincount(dataset.test_labels).tolist() == [4] * 5
    assert torch.bincount(dataset.train_users).tolist() == [6, 7, 7, 7, 7, 7, 7]
    assert source.class_names == ["0", "1", "2", "3", "4"]


def test_inaturalist_from_lines(naturalist, tmp_path):
    """`path label user` over the original tree gives what the tables give."""
    by_id = {file.name: file.relative_to(naturalist) for file in naturalist.rglob("*.jpg")}
    for part, table in (("train", "federated_train_user_120k.csv"), ("test", "test.csv")):
        rows = [row.split(",") for row in (naturalist / table).read_text().splitlines()[1:]]
        lines = [f"{by_id[f'{row[-3]}.jpg']} {row[-2]} {' '.join(row[:-3])}".strip() for row in rows]
        (tmp_path / f"{part}.txt").write_text("\n".join(lines))
    lines = INaturalist(str(naturalist), "train.txt", "test.txt", lists=str(tmp_path), **SMALL)
    table = INaturalist(str(naturalist), **SMALL)
    assert torch.equal(pixels(lines), pixels(table))
    assert torch.equal(lines.load().train_users, table.load().train_users)
    assert lines.class_names[0] == "Abies species0"


@pytest.mark.parametrize("options", [{"num_workers": 3}, {"in_memory": "never"}, {"cache": True}])
def test_the_pixels_do_not_depend_on_threads_memory_or_cache(imagenet, tmp_path, options):
    if "cache" in options:
        options = {"cache": str(tmp_path / "cache"), "in_memory": "never"}
    first = pixels(ImageNetLT(str(imagenet), num_workers=1, **SMALL))
    for _ in range(2):
        assert torch.equal(pixels(ImageNetLT(str(imagenet), **SMALL, **options)), first)


def test_from_the_cache_nothing_is_decoded(imagenet, tmp_path, monkeypatch):
    options = SMALL | {"cache": str(tmp_path / "cache"), "in_memory": "never"}
    whole = pixels(ImageNetLT(str(imagenet), **options))
    ImageNetLT(str(imagenet), **options).load().test.gather(torch.arange(20))
    monkeypatch.setattr(Image, "open", None)
    assert torch.equal(pixels(ImageNetLT(str(imagenet), **options)), whole)
    part = ImageNetLT(str(imagenet), classes=2, **options)  # other lists share it
    assert torch.equal(pixels(part)[:24], whole[:24])


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (300, 300)])
def test_test_images_are_those_of_the_usual_recipe(imagenet, tmp_path, size):
    """Resize(256) and CenterCrop(224), to within rounding of the longer side."""
    root = shutil.copytree(imagenet, tmp_path / "imagenet")
    place = root / "val" / "ILSVRC2012_val_00000001.JPEG"
    ramp = Image.linear_gradient("L").resize(size)
    Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_180), ramp)).save(place, quality=95)
    data = FederatedDataModule(
        ImageNetLT(str(root), num_classes=5, mean=(0, 0, 0), std=(1, 1, 1)),
        num_clients=2,
        imbalance_factor=None,
        eval_batch_size=1,
    )
    data.setup()
    found = next(iter(data.test_batches()))[0][0]
    recipe = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
    assert found.shape == (3, 224, 224)
    assert float((255 * found - recipe(Image.open(place)).float()).abs().max()) < 3


def test_images_of_a_user_are_prepared_as_the_test_images(imagenet):
    source = ImageNetLT(str(imagenet), **SMALL)
    data = FederatedDataModule(source, num_clients=2, imbalance_factor=None, eval_batch_size=20)
    data.setup()
    paths = [imagenet / path for path in source.test.paths]
    opened = open_images(paths, DataRecord.of(source)).gather(torch.arange(20))
    assert torch.equal(normalise(opened, source.mean, source.std), next(iter(data.test_batches()))[0])


def test_training_crops_and_testing_takes_the_centre(imagenet):
    data = FederatedDataModule(
        ImageNetLT(str(imagenet), **SMALL),
        num_clients=2,
        imbalance_factor=None,
        augment="resized_crop_flip",
        batch_size=8,
    )
    data.setup()
    first, again = ([x for x, _ in data.client_loader(0, seed=0, round=1)] for _ in range(2))
    assert first[0].shape == (8, 3, 7, 7)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert next(iter(data.client_batches(0)))[0].shape[1:] == (3, 7, 7)
    data.augment = "none"
    images, _ = next(iter(data.client_loader(0, seed=0, round=1)))
    assert images.shape[1:] == (3, 7, 7)


def test_long_tailed_as_it_is(imagenet):
    """No class is cut, and the factor found is recorded: 24 / 3."""
    data = FederatedDataModule(ImageNetLT(str(imagenet), **SMALL), num_clients=2, imbalance_factor=None)
    data.setup()
    assert data.class_counts == list(COUNTS)
    assert data.partition.imbalance_factor == 8.0


def test_shots_by_both_rules(tmp_path):
    """Of 365 images 75 % are crossed by the third class and 95 % by the fourth; more than 100, 20 to 100, fewer."""
    root = imagenet_lt(tmp_path, counts=(120, 101, 100, 20, 19, 5), per_test=1)
    labels = ImageNetLT(str(root), num_classes=6, image_size=2, num_workers=1).load().train_labels
    counts = torch.bincount(labels).tolist()
    assert shots(counts, "mass") == ["many", "many", "many", "medium", "medium", "few"]
    assert shots(counts, "count") == ["many", "many", "medium", "medium", "few", "few"]


def test_subset(imagenet):
    """Of the classes ranked 24, 12, 6, 3, 3 the first, third and fifth; then a quarter of their images."""
    source = ImageNetLT(str(imagenet), classes=3, per_class=6, **SMALL)
    dataset = source.load()
    assert source.name == "ImageNet-LT (3 classes, at most 6 images per class)"
    assert ImageNetLT(str(imagenet), per_class=6, **SMALL).name == "ImageNet-LT (at most 6 images per class)"
    assert source.class_names == ["n01440764", "n01440798", "n01440832"]
    assert torch.bincount(dataset.train_labels).tolist() == [6, 2, 1]
    assert torch.bincount(dataset.test_labels).tolist() == [4, 4, 4]
    kept = [path.split("_")[-1] for path in source.train.paths[:6]]
    assert kept == ["1.JPEG", "29.JPEG", "64.JPEG", "92.JPEG", "127.JPEG", "162.JPEG"]  # images 0, 4, 9, 13, 18, 23
    assert pixels(source).tolist() == pixels(pickle.loads(pickle.dumps(source))).tolist()


def test_a_subset_needs_its_own_images_alone(imagenet, tmp_path):
    root = shutil.copytree(imagenet, tmp_path / "imagenet")
    shutil.rmtree(root / "train" / "n01440781")
    assert len(ImageNetLT(str(root), classes=3, **SMALL).load().train) == 24 + 6 + 3


def test_users_are_the_clients(naturalist):
    source = INaturalist(str(naturalist), **SMALL)
    data = FederatedDataModule(source, num_clients=7, imbalance_factor=None, scheme="natural")
    data.setup()
    users = data.dataset.train_users
    owners = [set(users[torch.from_numpy(own)].tolist()) for own in data.partition.train]
    assert sorted(user for own in owners for user in own) == list(range(7))
    assert all(len(own) == 1 for own in owners)


def test_missing_images_are_counted_and_named(changed):
    for number in range(1, 8):
        (changed.root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").unlink()
    message = changed("test", lambda lines: lines)
    assert "7 of the 20 images of" in message
    assert re.findall(r"val_0000000(\d)", message) == ["1", "2", "3", "4", "5"]
    assert " and 2 more. Register at image-net.org" in message


def test_a_missing_list_says_what_to_get(changed):
    (changed.root / "ImageNet_LT_test.txt").rename(changed.root / "test.txt")
    with pytest.raises(DataError, match=r"no list .*ImageNet_LT_test\.txt'\. Register at image-net\.org"):
        ImageNetLT(str(changed.root), **SMALL)


@pytest.mark.parametrize(
    ("part", "edit", "problem"),
    [
        ("train", lambda lines: [*lines, "x"], r"_train\.txt:49: 'x' is not `path label`"),
        ("train", lambda lines: [*lines, "train/x.JPEG 5"], r"_train\.txt:49: label 5 is not below .*num_classes=5"),
        ("test", lambda lines: [*lines, "val/x.JPEG 7"], r"_test\.txt:21: label 7 is not below"),
        (
            "train",
            lambda lines: lines[:-3],
            r"of 4 classes, but data\.source\.num_classes=5; .* images: 4",
        ),
        ("train", lambda lines: [*lines, lines[0]], r"_train\.txt:49: .* is in line 1 already"),
        ("test", lambda lines: [*lines, "train/n01440764/n01440764_1.JPEG 0"], r"1 image\(s\) are in both"),
    ],
)
def test_lists_and_classes_that_disagree(changed, part, edit, problem):
    assert re.search(problem, changed(part, edit))


def test_a_corrupt_image_is_named(changed):
    (changed.root / "train" / "n01440764" / "n01440764_8.JPEG").write_bytes(b"no image")
    assert "n01440764_8.JPEG' is not an image that Pillow can read" in changed("train", lambda lines: lines)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_classes", 1),
        ("image_size", 0),
        ("stored_size", 6),
        ("classes", 1),
        ("classes", 6),
        ("per_class", 0),
        ("num_workers", 0),
        ("in_memory", "x"),
        ("std", (1, 0, 1)),
    ],
)
def test_bad_options_are_named(imagenet, option, value):
    with pytest.raises(ConfigError, match=rf"data\.source\.{option}="):
        ImageNetLT(str(imagenet), **(SMALL | {option: value}))


def test_lists_of_ones_own(tmp_path):
    for number in range(4):
        write_image(tmp_path / "pets" / f"{number}.png", number)
    (tmp_path / "train.txt").write_text("0.png 0\n1.png 1\n")
    (tmp_path / "test.txt").write_text("2.png 0\n3.png 1\n")
    source = ImageLists(str(tmp_path / "pets"), "train.txt", "test.txt", 2, lists=str(tmp_path), image_size=7)
    assert (source.name, source.class_names, source.stored_size) == ("pets", ["0", "1"], 8)
    assert len(source.load().test) == 2


def test_an_image_has_one_place_however_it_is_spelled(tmp_path):
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.png", number)
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "test.txt").write_text("in/3.png 1\n")

    def load(*lines):
        (tmp_path / "train.txt").write_text("\n".join(lines))
        return ImageLists(str(tmp_path), "train.txt", "test.txt", 2, image_size=7).load()

    for line in ("./in/0.png 1", "in//0.png 1", "in/./0.png 1"):
        with pytest.raises(DataError, match=r"train\.txt:3: 'in/0\.png' is in line 1 already"):
            load("in/0.png 0", "in/1.png 1", line)
    for place in ("link/0.png", "in/../in/0.png"):
        with pytest.raises(DataError, match=rf"'{place}' is 'in/0\.png'\. Keep one"):
            load("in/0.png 0", "in/1.png 1", f"{place} 1")
    with pytest.raises(DataError, match=r"'in/3\.png' is 'link/3\.png'\. Keep one"):
        load("in/0.png 0", "in/1.png 1", "link/3.png 1")
    assert len(load("in/0.png 0", "link/1.png 1").train) == 2


def test_links_that_lead_back_do_not_hide_an_image(imagenet, tmp_path):
    root = shutil.copytree(imagenet, tmp_path / "imagenet")
    for number, file in enumerate(sorted((root / "val").iterdir())):
        (root / "val" / f"n{number % 3}").mkdir(exist_ok=True)
        file.rename(root / "val" / f"n{number % 3}" / file.name)
    (root / "val" / "n1" / "up").symlink_to("..")
    assert len(ImageNetLT(str(root), **SMALL).load().test) == 20


def test_images_that_cannot_be_read_are_left_out_with_their_users(naturalist, tmp_path):
    root = shutil.copytree(naturalist, tmp_path / "naturalist")
    whole = INaturalist(str(root), **SMALL).load()
    first = next(iter(sorted(root.rglob("*.jpg"))))
    first.write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 68 images cannot be read: .*\.jpg' is empty"):
        INaturalist(str(root), **SMALL).load()
    dataset = INaturalist(str(root), on_unreadable="skip", **SMALL).load()
    assert sum(dataset.left_out.values()) == 1
    assert len(dataset.train) + len(dataset.test) == 67
    assert len(dataset.train_users) == len(dataset.train)
    assert len(dataset.train_users) in (len(whole.train_users), len(whole.train_users) - 1)


def test_a_name_with_an_odd_character_is_one_line(tmp_path):
    for name in ("a\u2028b.png", "c\x85d.png", "e.png"):
        write_image(tmp_path / name, len(name))
    (tmp_path / "train.txt").write_text("a\u2028b.png 0\nc\x85d.png 1\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("e.png 0\n")
    assert len(ImageLists(str(tmp_path), "train.txt", "test.txt", 2, image_size=7).load().train) == 2


def test_users_of_the_test_list_bring_their_own_tests(tmp_path):
    """User b has no training images: its test image is in no client's test set. The lists number users alike."""
    lines = {
        "train": ["a.png 0 c", "b.png 1 c", "c.png 0 a", "d.png 1 a"],
        "test": ["e.png 0 a", "f.png 1 b", "g.png 1 c", "h.png 0 c"],
    }
    for part, own in lines.items():
        for line in own:
            write_image(tmp_path / line.split()[0], 0)
        (tmp_path / f"{part}.txt").write_text("\n".join(own) + "\n")
    source = ImageLists(str(tmp_path), "train.txt", "test.txt", 2, image_size=7, stored_size=8)
    data = FederatedDataModule(source, num_clients=None, scheme="natural", imbalance_factor=None)
    data.setup()
    assert data.partition.names == ("a", "c")
    assert [own.tolist() for own in data.partition.test] == [[0], [2, 3]]
    assert data.public_test_indices().tolist() == [1]
