"""Access to the files of a folder or a zip archive."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

from fedloge.errors import DataError


class Files(Protocol):
    """Files below a root. Paths are relative to it, with forward slashes; names with a leading dot are hidden."""

    root: Path

    def folders(self, path: str) -> list[str] | None:
        """Sorted names of the folders in a folder; None if the folder does not exist."""
        ...

    def names(self, path: str) -> list[str]:
        """Sorted names of the files in a folder."""
        ...

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading; safe for concurrent threads."""
        ...


class FolderFiles:
    """Files in a folder.

    Args:
        root: Path of the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folders(self, path: str) -> list[str] | None:
        """Sorted names of the folders in a folder; None if the folder does not exist."""
        folder = self.root / path
        return _visible(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else None

    def names(self, path: str) -> list[str]:
        """Sorted names of the files in a folder."""
        with os.scandir(self.root / path) as entries:
            return _visible(entry.name for entry in entries if entry.is_file())

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""
        return (self.root / path).open("rb")


class ZipFiles:
    """Files in a zip archive, read from it without unpacking.

    Args:
        root: Path of the archive.

    Raises:
        DataError: If it is not a zip archive.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open()

    def folders(self, path: str) -> list[str] | None:
        """Sorted names of the folders in a folder; None if the folder does not exist."""
        return _visible(self._folders[path]) if path in self._folders else None

    def names(self, path: str) -> list[str]:
        """Sorted names of the files in a folder."""
        return _visible(self._names.get(path, ()))

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""
        return BytesIO(self._archive.read(path))

    def __getstate__(self) -> dict[str, Any]:
        """State without the open archive, which cannot be pickled; the copy opens it again."""
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.root = state["root"]
        self._open()

    def _open(self) -> None:
        try:
            self._archive = zipfile.ZipFile(self.root)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{str(self.root)!r} cannot be read as a zip archive: {error}.") from error
        self._names: dict[str, list[str]] = {}
        self._folders: dict[str, set[str]] = {}
        for member in self._archive.namelist():  # folders end with a slash and need not be listed
            folder, _, name = member.rpartition("/")
            self._names.setdefault(folder, []).extend([name] if name else [])
        for folder in self._names:
            self._add_folder(folder)

    def _add_folder(self, path: str) -> None:
        self._folders.setdefault(path, set())
        if path:
            above, _, name = path.rpartition("/")
            self._add_folder(above)
            self._folders[above].add(name)


def open_files(root: str | Path) -> Files:
    """The files of a folder, or of a zip archive."""
    path = Path(root)
    return ZipFiles(path) if path.suffix.lower() == ".zip" and path.is_file() else FolderFiles(path)


def _visible(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("."))
