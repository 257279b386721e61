"""Access to the files of a folder or a zip archive."""

from __future__ import annotations

import os
import posixpath
import stat
import zipfile
from collections.abc import Collection, Hashable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from fedloge.checks import check_text
from fedloge.errors import DataError

HIDDEN = ("__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini")
"""Names, in lower case, that operating systems add and that are passed over like names with a leading dot."""


class Facts(NamedTuple):
    """What is known of a file without reading it.

    Args:
        identity: The same for every spelling of the path, and for every link to the file.
        size: Size in bytes.
        version: Changes when the content changes.
        regular: Whether it is a file, not a pipe or the like.
    """

    identity: Hashable
    size: int
    version: int
    regular: bool = True


class Files(Protocol):
    """Files below a root. Paths are relative to it, with forward slashes; hidden names are passed over."""

    root: Path

    def folders(self, path: str) -> list[str] | None:
        """Sorted names of the folders in a folder; None if the folder does not exist."""
        ...

    def names(self, path: str) -> list[str]:
        """Sorted names of everything else in a folder, links without a target included."""
        ...

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading; safe for concurrent threads."""
        ...

    def facts(self, path: str) -> Facts:
        """What is known of a file or folder without reading it.

        Raises:
            OSError: If it does not exist.
        """
        ...

    def refresh(self) -> None:
        """Take note of changes on disk."""


class FolderFiles:
    """Files in a folder.

    Args:
        root: Path of the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folders(self, path: str) -> list[str] | None:
        """Sorted names of the folders in a folder; None if the folder does not exist.

        Raises:
            DataError: If the folder cannot be listed, or a name is not UTF-8.
        """
        listed = self._list(path)
        return None if listed is None else visible([name for name, folder in listed if folder], self.root / path)

    def names(self, path: str) -> list[str]:
        """Sorted names of everything else in a folder; none if the folder does not exist.

        Raises:
            DataError: If the folder cannot be listed, or a name is not UTF-8.
        """
        return visible([name for name, folder in self._list(path) or () if not folder], self.root / path)

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""
        return (self.root / path).open("rb")

    def facts(self, path: str) -> Facts:
        """What is known of a file or folder without reading it."""
        found = os.stat(os.path.join(self.root, path))
        return Facts((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns, stat.S_ISREG(found.st_mode))

    def refresh(self) -> None:
        """Do nothing: every call looks at the disk."""

    def _list(self, path: str) -> list[tuple[str, bool]] | None:
        """Names in a folder, and whether each is a folder."""
        try:
            with os.scandir(self.root / path) as entries:
                return [(entry.name, _is_folder(entry)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:  # ValueError: a null character
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"folder {str(self.root / path)!r} cannot be listed: {reason}.") from error


class ZipFiles:
    """Files in a zip archive, read from it without unpacking.

    Args:
        root: Path of the archive.
        wanted: Names that the top of the archive should have: a single folder of another name is entered. None enters
            no folder.

    Raises:
        DataError: If it is not a zip archive.
    """

    def __init__(self, root: Path, wanted: Collection[str] | None = None) -> None:
        self.root, self.wanted = root, wanted
        self._open()

    def folders(self, path: str) -> list[str] | None:
        """Sorted names of the folders in a folder; None if the folder does not exist."""
        path = self._top + path if path else self._top.rstrip("/")
        return visible(self._folders[path], self.root) if path in self._folders else None

    def names(self, path: str) -> list[str]:
        """Sorted names of the files in a folder."""
        path = self._top + path if path else self._top.rstrip("/")
        return visible(self._names.get(path, ()), self.root)

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""
        return BytesIO(self._archive.read(self._members[self._top + path]))

    def facts(self, path: str) -> Facts:
        """What is known of a file or folder without reading it."""
        member = self._members.get(self._top + path)
        return Facts(path, 0, 0, False) if member is None else Facts(path, member.file_size, member.CRC)

    def refresh(self) -> None:
        """Open the archive again if it was replaced.

        Raises:
            DataError: If it is gone, or no longer a zip archive.
        """
        if self._version != _version(self.root):
            self._open()

    def __getstate__(self) -> dict[str, Any]:
        """State without the open archive, which cannot be pickled; the copy opens it again."""
        return {"root": self.root, "wanted": self.wanted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.root, self.wanted = state["root"], state["wanted"]
        self._open()

    def _open(self) -> None:
        self._version = _version(self.root)
        try:
            self._archive = zipfile.ZipFile(self.root)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise DataError(f"{str(self.root)!r} cannot be read as a zip archive: {error}.") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._names: dict[str, list[str]] = {}
        self._folders: dict[str, set[str]] = {"": set()}
        for member in self._archive.infolist():
            path = posixpath.normpath("/" + member.filename.replace("\\", "/")).lstrip("/")
            if member.is_dir():
                self._add_folder(path)
            elif path:
                self._members[path] = member  # a later member replaces an earlier one of its name
        for path in self._members:
            folder, _, name = path.rpartition("/")
            self._add_folder(folder)
            self._names.setdefault(folder, []).append(name)
        self._top = ""
        tops = visible(self._folders[""], self.root)
        if self.wanted is not None and len(tops) == 1 and tops[0] not in self.wanted:
            self._top = f"{tops[0]}/"

    def _add_folder(self, path: str) -> None:
        if path not in self._folders:
            above, _, name = path.rpartition("/")
            self._add_folder(above)
            self._folders[path] = set()
            self._folders[above].add(name)


def open_files(root: str | Path, wanted: Collection[str] | None = None) -> Files:
    """The files of a folder, or of a zip archive, see :class:`ZipFiles`.

    Raises:
        DataError: If the path is not UTF-8, or what ends in ``.zip`` is not a zip archive.
    """
    path = Path(root)
    check_text([str(path)], "of folders")
    return ZipFiles(path, wanted) if path.suffix.lower() == ".zip" and path.is_file() else FolderFiles(path)


def walk(files: Files, folder: str = "", seen: set[Hashable] | None = None) -> Iterator[str]:
    """Paths of all files below a folder, each folder once however many links lead to it; none if it does not exist."""
    seen = set() if seen is None else seen
    inside = files.folders(folder)
    identity = None if inside is None else files.facts(folder).identity
    if inside is None or identity in seen:
        return
    seen.add(identity)
    start = f"{folder}/" if folder else ""
    yield from (start + name for name in files.names(folder))
    for name in inside:
        yield from walk(files, start + name, seen)


def visible(names: Iterable[str], folder: Path) -> list[str]:
    """The names that are not hidden, sorted.

    Raises:
        DataError: If names are not UTF-8, which no table or page could show.
    """
    shown = sorted(name for name in names if not name.startswith(".") and name.lower() not in HIDDEN)
    check_text(shown, f"in {str(folder)!r}")
    return shown


def _version(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
