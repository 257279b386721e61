"""List files: the images of a dataset with their classes and, if known, their users."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloge.data.files import Files, walk
from fedloge.errors import DataError, few

Ints = NDArray[np.int64]
Row = tuple[int, str, str, str | None]
"""Line number, path, label and user."""

LINE = re.compile(r"(\S.*?)\s+(\d{1,9})(?:\s+(\S+))?")


@dataclass(frozen=True)
class ImageList:
    """Images in the order of a list file.

    Args:
        file: Path of the list.
        lines: Line number of each image, int64 [n].
        paths: Path of each image, with forward slashes.
        labels: Class of each image, int64 [n].
        users: User of each image, numbered in the order of their names, int64 [n]; None if the list names no users.
        user_names: Names of the users, by number.
    """

    file: Path
    lines: Ints
    paths: Sequence[str]
    labels: Ints
    users: Ints | None
    user_names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def chosen(self, positions: Ints) -> ImageList:
        """The images at some positions."""
        users = None if self.users is None else self.users[positions]
        paths = [self.paths[position] for position in positions]
        return ImageList(self.file, self.lines[positions], paths, self.labels[positions], users, self.user_names)

    def users_among(self, names: Sequence[str]) -> Ints:
        """User of each image, int64 [n], by the numbers of another list; -1 for one that the other list lacks."""
        assert self.users is not None
        numbers = {name: number for number, name in enumerate(names)}
        own = np.array([numbers.get(name, -1) for name in self.user_names], dtype=np.int64)
        found: Ints = own[self.users]
        return found

    def counts(self, num_classes: int) -> Ints:
        """Number of images of each class, int64 [C]."""
        return np.bincount(self.labels, minlength=num_classes)


def read_list(file: Path) -> ImageList:
    """Read a list of lines ``path label`` or ``path label user``, or a ``.csv``.

    A ``.csv`` has the columns ``image_id``, ``class`` and, optionally, ``user_id``; an image is ``<image_id>.jpg``.

    Raises:
        DataError: If a line is malformed or an image is listed twice; names file and line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list {str(file)!r} cannot be read: {error}.") from error
    try:
        rows = list(_csv_rows(file, text) if file.suffix.lower() == ".csv" else _text_rows(file, text))
    except csv.Error as error:
        raise DataError(f"list {str(file)!r} is not a table: {error}.") from error
    if not rows:
        raise DataError(f"list {str(file)!r} names no image.")
    _check_unique(file, rows)
    lines, paths, labels, names = zip(*rows, strict=True)
    known = [name for name in names if name is not None]
    if 0 < len(known) < len(names):
        raise DataError(f"{file}:{lines[names.index(None)]}: has no user, but {len(known)} other line(s) have.")
    everybody, positions = np.unique(known, return_inverse=True)
    users = positions.astype(np.int64) if known else None
    numbers = np.array([int(label) for label in labels], dtype=np.int64)
    return ImageList(file, np.array(lines), paths, numbers, users, everybody.tolist() if known else ())


def _text_rows(file: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # a name may hold other characters that end lines
        if line.strip():
            match = LINE.fullmatch(line.strip())
            if match is None:
                raise DataError(f"{file}:{number}: {line!r} is not `path label` or `path label user`, label 0 or more.")
            path, label, user = match.groups()
            yield number, clean(path), label, user


def _csv_rows(file: Path, text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text))
    columns = reader.fieldnames or ()
    if not {"image_id", "class"} <= set(columns):
        raise DataError(f"{file}:1: has the columns {', '.join(columns) or 'none'}, but needs image_id and class.")
    for row in reader:
        image, label, user = row["image_id"], row["class"] or "", row.get("user_id")
        if not image or not re.fullmatch(r"\d{1,9}", label) or ("user_id" in columns and not user):
            raise DataError(f"{file}:{reader.line_num}: lacks a value, or class is not a whole number, 0 or more.")
        yield reader.line_num, clean(f"{image}.jpg"), label, user


def clean(path: str) -> str:
    """A path without what does not change it: ``./`` and repeated slashes."""
    return "/".join(part for i, part in enumerate(path.split("/")) if part not in ("", ".") or (i == 0 and not part))


def _check_unique(file: Path, rows: Iterable[Row]) -> None:
    first: dict[str, int] = {}
    for number, path, *_ in rows:
        if first.setdefault(path, number) != number:
            raise DataError(f"{file}:{number}: {path!r} is in line {first[path]} already. Remove one of them.")


def check_labels(images: ImageList, num_classes: int) -> None:
    """Require labels below C.

    Raises:
        DataError: If a label is too large; names the first such line and their number.
    """
    wrong = np.flatnonzero(images.labels >= num_classes)
    if len(wrong):
        first = wrong[0]
        raise DataError(
            f"{images.file}:{images.lines[first]}: label {images.labels[first]} is not below "
            f"data.source.num_classes={num_classes} ({len(wrong)} such line(s)). Correct the list, or set num_classes."
        )


def check_every_class(images: ImageList, num_classes: int) -> None:
    """Require at least one image of every class.

    Raises:
        DataError: If a class has no image; names such classes.
    """
    absent = np.flatnonzero(images.counts(num_classes) == 0)
    if len(absent):
        raise DataError(
            f"list {str(images.file)!r} has images of {num_classes - len(absent)} classes, but "
            f"data.source.num_classes={num_classes}; classes without images: {few(absent.tolist())}. Check that the "
            "file is complete, or set num_classes."
        )


def check_apart(train: ImageList, test: ImageList) -> None:
    """Require that no training image is a test image.

    Raises:
        DataError: If the lists share images; names some of them.
    """
    both = sorted(set(train.paths) & set(test.paths))
    if both:
        raise DataError(
            f"{len(both)} image(s) are in both {str(train.file)!r} and {str(test.file)!r}: {few(both)}. Remove them "
            "from one of the lists."
        )


def subset(images: ImageList, classes: Ints, per_class: int | None) -> ImageList:
    """Select some classes, renumbered from 0, and reduce them so that the largest has ``per_class`` images.

    Smaller classes are reduced in proportion, to at least one image, so that the tail keeps its shape. The selected
    images are evenly spaced in list order.

    Args:
        images: The full list.
        classes: Labels to keep, ascending.
        per_class: Images of the largest class; None, or more than it has, keeps all images.
    """
    members = [np.flatnonzero(images.labels == c) for c in classes]
    largest = max(len(own) for own in members)
    if per_class is not None and per_class < largest:
        members = [own[evenly_spaced(len(own), -(-len(own) * per_class // largest))] for own in members]
    chosen = images.chosen(np.sort(np.concatenate(members)))
    return replace(chosen, labels=np.searchsorted(classes, chosen.labels))


def classes_across(counts: Ints, number: int) -> Ints:
    """Labels of ``number`` classes at evenly spaced ranks from the largest to the smallest, ascending."""
    ranked = np.argsort(-counts, kind="stable")
    return np.sort(ranked[evenly_spaced(len(counts), number)])


def evenly_spaced(total: int, number: int) -> Ints:
    """``number`` evenly spaced positions from 0 to total-1, including both ends."""
    return np.arange(number) * (total - 1) // max(number - 1, 1)


class Finder:
    """Finds images at their path, or else by name anywhere below the first folder of the path.

    Thus ImageNet's ``val`` may or may not have one folder per class, and iNaturalist one per species.

    Args:
        files: Files of the image folder.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._inside: dict[str, set[str]] = {}
        self._below: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """Path of the image below the root; None if it is not found.

        Raises:
            DataError: If several files have its name.
        """
        folder, _, name = path.rpartition("/")
        if folder not in self._inside:
            self._inside[folder] = set() if self.files.folders(folder) is None else set(self.files.names(folder))
        if name in self._inside[folder]:
            return path
        places = self._names_below(path.partition("/")[0] if folder else "").get(name, [])
        if len(places) > 1:
            raise DataError(f"{path!r} may be {places[0]!r} or {places[1]!r} in {str(self.files.root)!r}. Remove one.")
        return places[0] if places else None

    def _names_below(self, top: str) -> dict[str, list[str]]:
        if top not in self._below:
            self._below[top] = {}
            for path in walk(self.files, top):
                self._below[top].setdefault(path.rpartition("/")[2], []).append(path)
        return self._below[top]


def locate(files: Files, images: ImageList, remedy: str) -> list[str]:
    """Paths of the images of a list below the root of ``files``, found by :class:`Finder`.

    Raises:
        DataError: If images are missing; gives their number, the first five, and the remedy.
    """
    finder = Finder(files)
    found = {path: finder.find(path) for path in images.paths}
    missing = [path for path, place in found.items() if place is None]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(found)} images of {str(images.file)!r} are not in "
            f"{str(files.root.resolve())!r}: {few(missing)}. {remedy}"
        )
    return [place for place in found.values() if place is not None]
