import numpy as np
import pytest

from fedloge.data.files import open_files
from fedloge.data.lists import (
    ImageList,
    check_apart,
    check_every_class,
    check_labels,
    classes_across,
    evenly_spaced,
    locate,
    read_list,
    subset,
)
from fedloge.errors import DataError


def listed(tmp_path, text, name="list.txt"):
    file = tmp_path / name
    file.write_text(text)
    return read_list(file)


def images(labels, users=None):
    labels = np.array(labels)
    paths = [f"{position}.jpg" for position in range(len(labels))]
    users = None if users is None else np.array(users)
    return ImageList("list.txt", np.arange(len(labels)) + 1, paths, labels, users)


def test_lines_of_path_and_label(tmp_path):
    read = listed(tmp_path, "train/n01440764/n01440764_190.JPEG 0\n\n./val/a b 3.jpg  12\n")
    assert list(read.paths) == ["train/n01440764/n01440764_190.JPEG", "val/a b 3.jpg"]
    assert read.labels.tolist() == [0, 12]
    assert read.lines.tolist() == [1, 3]
    assert read.users is None


def test_lines_with_users_number_them_by_name(tmp_path):
    read = listed(tmp_path, "a.jpg 0 zoe\nb 7.jpg 1 ann\nc.jpg 0 zoe\n")
    assert list(read.paths) == ["a.jpg", "b 7.jpg", "c.jpg"]
    assert read.users.tolist() == [1, 0, 1]


def test_the_published_csv(tmp_path):
    read = listed(tmp_path, 'user_id,image_id,class,label\n"Doe, J",0a1b,3,5017\n12,ff,0,5000\n', "train.csv")
    assert list(read.paths) == ["0a1b.jpg", "ff.jpg"]
    assert read.labels.tolist() == [3, 0]
    assert read.users.tolist() == [1, 0]
    assert listed(tmp_path, "image_id,class,label\nff,0,5000\n", "test.csv").users is None


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.txt", "a.jpg 0\nb.jpg\n", r"a\.txt:2: 'b\.jpg' is not `path label`"),
        ("a.txt", "a.jpg 0\nb.jpg -1\n", r"a\.txt:2: "),
        ("a.txt", "a.jpg 12345678901234567890\n", r"a\.txt:1: "),
        ("a.txt", "a.jpg 0\n\na.jpg 1\n", r"a\.txt:3: 'a\.jpg' is in line 1 already"),
        ("a.txt", "a.jpg 0 ann\nb.jpg 1\n", r"a\.txt:2: has no user, but 1 other line\(s\) have\."),
        ("a.txt", "a.jpg 0\nb.jpg 1 ann\n", r"a\.txt:1: has no user"),
        ("a.csv", "image_id,class\n" + "x" * 200_000, r"a\.csv' is not a table: field larger than"),
        ("a.txt", "\n\n", "names no image"),
        ("a.csv", "", r"a\.csv:1: has the columns none, but needs image_id and class"),
        ("a.csv", "user_id,image\n1,2\n", r"a\.csv:1: has the columns user_id, image, but"),
        ("a.csv", "image_id,class\nff,x\n", r"a\.csv:2: .*class is not a whole number"),
        ("a.csv", "image_id,class\nff\n", r"a\.csv:2: lacks a value"),
        ("a.csv", "user_id,image_id,class\n1,ff,0\n,fe,0\n", r"a\.csv:3: lacks a value"),
    ],
)
def test_malformed_lists_name_file_and_line(tmp_path, name, text, problem):
    with pytest.raises(DataError, match=problem):
        listed(tmp_path, text, name)


def test_what_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("a.txt", "absent.txt"):
        with pytest.raises(DataError, match=rf"{name}' cannot be read"):
            read_list(tmp_path / name)


def test_labels_that_are_no_class(tmp_path):
    read = listed(tmp_path, "a.jpg 0\nb.jpg 2\nc.jpg 5\n")
    check_labels(read, 6)
    with pytest.raises(DataError, match=r"list\.txt:2: label 2 is not below data\.source\.num_classes=2 \(2 such"):
        check_labels(read, 2)


def test_classes_without_images():
    check_every_class(images([1, 0]), 2)
    with pytest.raises(
        DataError,
        match=r"of 2 classes, but data\.source\.num_classes=9; .* images: 2, 3, 4, 5, 6 and 2 more",
    ):
        check_every_class(images([1, 0]), 9)


def test_training_and_test_images_are_apart():
    with pytest.raises(DataError, match=r"2 image\(s\) are in both .*: 0\.jpg, 1\.jpg\. Remove them"):
        check_apart(images([0, 1, 0]), images([0, 1]))


def test_spread_is_even_distinct_and_has_both_ends():
    assert evenly_spaced(9, 3).tolist() == [0, 4, 8]
    assert evenly_spaced(9, 1).tolist() == [0]
    assert evenly_spaced(0, 0).tolist() == []
    for total in range(1, 30):
        for number in range(1, total + 1):
            positions = evenly_spaced(total, number)
            assert len(set(positions.tolist())) == number
            assert (positions.min(), positions.max()) == (0, total - 1 if number > 1 else 0)


def test_classes_are_taken_across_the_tail():
    """Ranked 30, 20, 9, 5, 1: of five, three are the first, third and fifth."""
    assert classes_across(np.array([5, 30, 1, 20, 9]), 3).tolist() == [1, 2, 4]


def test_a_subset_keeps_the_shape_of_the_tail():
    whole = images(np.repeat([0, 1, 2, 3], [40, 20, 10, 1]), users=np.arange(71))
    part = subset(whole, np.array([0, 1, 3]), per_class=4)
    assert part.counts(3).tolist() == [4, 2, 1]  # 40 : 20 : 1, a tenth and at least one; class 3 is now 2
    assert part.users.tolist() == [0, 13, 26, 39, 40, 59, 70]
    assert list(part.paths) == [f"{user}.jpg" for user in part.users]
    assert list(subset(whole, np.arange(4), per_class=40).paths) == whole.paths
    assert list(subset(whole, np.arange(4), per_class=None).paths) == whole.paths


def test_images_are_found_at_their_path_or_by_name(tmp_path):
    for path in ("val/n1/a.JPEG", "val/b.JPEG", "other/c.JPEG"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    flat = ImageList("list.txt", np.arange(2), ["val/a.JPEG", "val/n9/b.JPEG"], np.zeros(2), None)
    assert locate(open_files(tmp_path), flat, "") == ["val/n1/a.JPEG", "val/b.JPEG"]
    elsewhere = ImageList("list.txt", np.arange(1), ["val/c.JPEG"], np.zeros(1), None)
    with pytest.raises(DataError, match=r"1 of the 1 images of 'list\.txt' are not in .*: val/c\.JPEG\. Do this\."):
        locate(open_files(tmp_path), elsewhere, "Do this.")
    (tmp_path / "val" / "n2").mkdir()
    (tmp_path / "val" / "n2" / "a.JPEG").touch()
    with pytest.raises(DataError, match=r"'val/a\.JPEG' may be 'val/n1/a\.JPEG' or 'val/n2/a\.JPEG'"):
        locate(open_files(tmp_path), flat, "")
