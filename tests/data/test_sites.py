import numpy as np
import pytest

from fedloge.data.sites import (
    Columns,
    SiteRows,
    check_groups,
    check_paths,
    check_sites,
    classes,
    numbered,
    read_table,
    with_drawn_tests,
    with_known_splits,
)
from fedloge.errors import DataError

HEADER = "path,label,site,split\n"


@pytest.fixture
def read(tmp_path):
    """Writes a table and reads it."""

    def make(content, name="sites.csv", delimiter=None, **columns):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_table(path, Columns(**columns), delimiter)

    return make


def rows(label, site=None, split=None, group=None, path=None):
    n = len(label)
    path = path or [f"{i}.png" for i in range(n)]
    columns = [column or [""] * n for column in (site or ["A"] * n, split or ["train"] * n, group)]
    return SiteRows("t.csv", [f"line {i + 2}" for i in range(n)], path, label, *columns)


def test_a_table_is_read_by_its_header(read):
    found = read("split,site,patient,path,label,age\ntest,Charité , 7,a\\b.png,2,50\n", group="patient")
    assert (found.path, found.label, found.site) == (["a/b.png"], ["2"], ["Charité"])
    assert (found.split, found.group, found.lines) == (["test"], ["7"], ["line 2"])


def test_a_name_with_a_combining_accent_is_the_same_name(read):
    found = read("path,label,site\na.png,1,Charite\u0301\nb.png,1,Charit\u00e9\n")
    assert found.site[0] == found.site[1]


@pytest.mark.parametrize(("name", "separator"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_the_ending_tells_the_delimiter(read, name, separator):
    assert read(separator.join(["path", "label", "site"]) + f"\nx.png{separator}1{separator}A\n", name).site == ["A"]


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    table = pa.table({"path": ["a.png", "b.png"], "label": [1.0, 2.0], "site": ["A", None]})
    parquet.write_table(table, tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", Columns())
    assert (found.label, found.site, found.lines) == (["1", "2"], ["A", ""], ["row 1", "row 2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,klass,site\na,1,A\n", r"no column 'label'; it has 'path', 'klass', 'site'\. .*source\.label_column"),
        ("path,labels,site\na,1,A\n", r"Did you mean 'labels'\?"),
        ("path;label;site\na;1;A\n", r"separated by ';', not by ','\. Set data\.source\.delimiter=';'"),
        (HEADER.encode("utf-16"), r"is not in UTF-8 .*Save it as UTF-8"),
        (b"path,label,site\na,1,Charit\xe9\n", r"is not in UTF-8 \(byte 26"),
        ("path,label,site\n", r"names no image"),
        ("", r"has no column 'path'; it has none"),
        ("path,label,site\na,1\n", r"line 2 has 2 values, but the header names 3"),
        ("path,path,label,site\na,b,1,A\n", r"has two columns 'path'"),
        ("path,label,site\na.png,,A\n", r"1 image\(s\) lack a label: line 2 'a.png' \(site 'A'\)"),
        ('path,label,site\n"a.png,1,A\n', r"is not a table"),
    ],
)
def test_malformed_tables_are_refused(read, content, message):
    with pytest.raises(DataError, match=message):
        read(content)


def test_a_column_that_was_named_must_be_there(read):
    with pytest.raises(DataError, match=r"no column 'patient'.*group_column"):
        read("path,label,site\na,1,A\n", group="patient")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no table .*none\.csv"):
        read_table(tmp_path / "none.csv", Columns())


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a.png", "/b.png", "C:/c.png"], r"2 image\(s\) have absolute paths: line 3 '/b.png' .*; line 4 'C:/c.png'"),
        (["a.png", "x/../../b.png"], r"1 image\(s\) lie outside of data.source.root: line 3"),
        (["a.png", "x/../a.png"], r"1 image\(s\) are listed already: line 3 'x/../a.png'"),
    ],
)
def test_paths_that_are_refused(paths, message):
    with pytest.raises(DataError, match=message):
        check_paths(rows(["0"] * len(paths), path=paths))


def test_an_error_lists_five_rows_and_counts_the_others():
    with pytest.raises(DataError, match=r"7 image\(s\) have absolute paths: .*'/4' .* and 2 more\. Write"):
        check_paths(rows(["0"] * 7, path=[f"/{i}" for i in range(7)]))


def test_words_for_splits():
    found = with_known_splits(rows(["0"] * 4, split=["Training", "valid", "TEST", "val"]))
    assert list(found.split) == ["train", "val", "test", "val"]
    with pytest.raises(DataError, match=r"have an unknown split: line 3 .*split 'holdout'.*Words are train"):
        with_known_splits(rows(["0"] * 2, split=["train", "holdout"]))
    with pytest.raises(DataError, match="unknown split"):
        with_known_splits(rows(["0"] * 2, split=["train", ""]))


def test_a_misspelled_site_is_recognised():
    with pytest.raises(DataError, match=r"belong to a site without training images: .*Is 'Chartié' 'Charité'"):
        check_sites(rows(["0"] * 2, site=["Charité", "Chartié"], split=["train", "test"]))


def test_one_site_with_two_spellings():
    with pytest.raises(DataError, match=r"'Charité' and 'charite ?' look like one site"):
        check_sites(rows(["0"] * 2, site=["Charité", "charite"]))
    check_sites(rows(["0"] * 3, site=["Site 1", "Site 2", "Site A"]))


def test_a_training_image_needs_a_site_and_a_test_image_does_not():
    check_sites(rows(["0"] * 2, site=["A", ""], split=["train", "test"]))
    with pytest.raises(DataError, match=r"1 image\(s\) are training images without a site: line 3"):
        check_sites(rows(["0"] * 2, site=["A", ""]))


def test_groups_stay_in_a_split_and_at_a_site():
    across = rows(["0"] * 3, split=["train", "train", "test"], group=["p1", "", "p1"])
    with pytest.raises(DataError, match=r"1 image\(s\) have a group that has images of another split: line 4"):
        check_groups(across, ())
    check_groups(across, ["groups_across_splits"])
    moved = rows(["0"] * 2, site=["A", "B"], group=["p1", "p1"])
    with pytest.raises(DataError, match=r"another site: .*data\.source\.allow=\[groups_across_sites\]"):
        check_groups(moved, ["groups_across_splits"])


def test_classes_are_those_of_the_training_images():
    """Numbers are sorted as numbers, and need not start at 0."""
    names, labels = classes(rows(["10", "9", "10"]), None)
    assert (names, labels.tolist()) == (["9", "10"], [1, 0, 1])
    names, labels = classes(rows(["b", "a", "b"]), None)
    assert (names, labels.tolist()) == (["a", "b"], [1, 0, 1])


def test_named_classes():
    assert classes(rows(["1", "0"]), ["x", "y", "z"])[1].tolist() == [1, 0]
    assert classes(rows(["y", "x"]), ["x", "y", "z"])[1].tolist() == [1, 0]
    with pytest.raises(DataError, match=r"1 image\(s\) have an unknown label .*class_names.*label '3'"):
        classes(rows(["1", "3"]), ["x", "y", "z"])


def test_a_label_that_no_training_image_has():
    with pytest.raises(DataError, match=r"unknown label \(no training image has it\): line 4 '2.png' \(label 'c'"):
        classes(rows(["a", "b", "c"], split=["train", "train", "test"]), None)
    with pytest.raises(DataError, match="training images of 1 class"):
        classes(rows(["a", "a"]), None)


def test_names_are_numbered_in_order_of_appearance():
    names, numbers = numbered(["B", "", "A", "B"])
    assert (names, numbers.tolist()) == (["B", "A"], [0, -1, 1, 0])


def test_tests_are_drawn_per_site_by_class_and_group():
    """Site A has 20 patients and B 10, with two images each, half of them of either class."""
    site, group = np.repeat(["A", "B"], [40, 20]).tolist(), [f"p{i // 2}" for i in range(60)]
    drawn = rows([str(i // 2 % 2) for i in range(60)], site=site, group=group)
    labels = np.arange(60) // 2 % 2
    found = with_drawn_tests(drawn, labels, 0.2, seed=0)
    test = found.of("test")
    assert np.bincount(test < 40).tolist() == [4, 8]
    assert np.bincount(labels[test]).tolist() == [6, 6]
    assert {found.split[i] == found.split[i + 1] for i in range(0, 60, 2)} == {True}
    assert with_drawn_tests(drawn, labels, 0.2, seed=0).split == found.split
    assert with_drawn_tests(drawn, labels, 0.2, seed=1).split != found.split
