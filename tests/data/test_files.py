import os
import pickle
import zipfile
from pathlib import Path

import pytest

from fedloge.data.files import FolderFiles, ZipFiles, open_files, walk
from fedloge.errors import DataError


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def archive(path, *members):
    with zipfile.ZipFile(path, "w") as written:
        for member in members:
            written.writestr(member, "" if member.endswith("/") else "x")
    return path


def test_what_systems_add_is_passed_over(tmp_path):
    names = ["a.png", "Thumbs.db", "desktop.ini", ".DS_Store", "__MACOSX/b.png", "@eaDir/c.png", "in/d.png"]
    for files in (FolderFiles(make(tmp_path, *names)), ZipFiles(archive(tmp_path / "x.zip", *names))):
        assert [name for name in files.names("") if name != "x.zip"] == ["a.png"]
        assert files.folders("") == ["in"]


def test_everything_but_folders_has_a_name(tmp_path):
    """Links without a target and pipes too: an image that is left out silently is missed by nobody."""
    make(tmp_path, "a.png", "in/b.png")
    (tmp_path / "broken.png").symlink_to("/nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "folder").symlink_to("in")
    os.mkfifo(tmp_path / "pipe.png")
    files = FolderFiles(tmp_path)
    assert files.names("") == ["a.png", "broken.png", "pipe.png", "self.png"]
    assert files.folders("") == ["folder", "in"]
    assert files.facts("a.png").regular
    assert not files.facts("pipe.png").regular


def test_links_that_lead_back_are_walked_once(tmp_path):
    make(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to("b")
    assert list(walk(FolderFiles(tmp_path))) == ["a/1.png", "b/2.png"]
    assert list(walk(FolderFiles(tmp_path), "absent")) == []


def test_names_that_are_not_utf8_are_named_as_bytes(tmp_path):
    for name in (b"b\xe9e", b"\xff"):
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    with pytest.raises(DataError, match=r"2 name\(s\) in .* are not UTF-8: b'b\\xe9e', b'\\xff'\. Rename them\."):
        FolderFiles(tmp_path).folders("")
    with pytest.raises(DataError, match="are not UTF-8"):
        open_files(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))


@pytest.mark.parametrize("path", ["x" * 300, "null\0"])
def test_paths_that_no_system_takes(tmp_path, path):
    with pytest.raises(DataError, match="cannot be listed"):
        FolderFiles(tmp_path).folders(path)


def test_the_only_folder_of_an_archive_is_entered(tmp_path):
    path = archive(tmp_path / "pets.zip", "README", "pets/", "pets/train/cat/0.png", "__MACOSX/pets/._0")
    assert open_files(path, wanted=("train", "test")).folders("") == ["train"]
    assert open_files(path, wanted=("pets",)).folders("") == ["pets"]
    assert open_files(path).folders("") == ["pets"]
    entered = pickle.loads(pickle.dumps(open_files(path, wanted=("train",))))
    assert list(walk(entered)) == ["train/cat/0.png"]
    assert entered.open("train/cat/0.png").read() == b"x"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_has_one_name(tmp_path):
    """A backslash, a leading dot and a second member of the same name."""
    path = archive(tmp_path / "a.zip", "train\\cat\\0.png", "./train/cat/1.png", "train//cat/1.png", "/train/cat/2.png")
    assert list(walk(ZipFiles(path))) == ["train/cat/0.png", "train/cat/1.png", "train/cat/2.png"]


def test_an_archive_that_is_replaced_or_gone(tmp_path):
    files = ZipFiles(archive(tmp_path / "a.zip", "1.png"))
    archive(tmp_path / "a.zip", "1.png", "2.png")
    files.refresh()
    assert files.names("") == ["1.png", "2.png"]
    Path(tmp_path / "a.zip").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        files.refresh()
