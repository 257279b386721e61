"""Tables and trees of images with their classes, sites, splits and groups."""

from __future__ import annotations

import csv
import difflib
import io
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fedloge.data.files import Files
from fedloge.data.splits import Ints, hold_out
from fedloge.errors import ConfigError, DataError, did_you_mean

SPLITS: Mapping[str, Sequence[str]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""The splits, and the words for each, in any case."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SHOWN = 5
"""Offending rows that an error lists."""

Straddling = Literal["groups_across_splits", "groups_across_sites"]
"""What may be allowed although it is usually a mistake."""


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; the last three may be missing from the table."""

    path: str = "path"
    label: str = "label"
    site: str = "site"
    split: str = "split"
    group: str = "group"


@dataclass(frozen=True)
class SiteRows:
    """Images, a row each; a missing entry is an empty text.

    Args:
        where: The table or folder, for messages.
        lines: Name of each row in messages, ``line 7`` for example.
        path: Paths relative to the root, with forward slashes.
        label: Class names or numbers.
        site: Names of sites.
        split: ``train``, ``val`` or ``test``; all empty where they are to be drawn.
        group: Names of groups; all empty where there are none.
    """

    where: str
    lines: Sequence[str]
    path: Sequence[str]
    label: Sequence[str]
    site: Sequence[str]
    split: Sequence[str]
    group: Sequence[str]

    def __len__(self) -> int:
        return len(self.path)

    def of(self, split: str) -> Ints:
        """Positions of the rows of a split."""
        return np.flatnonzero(np.array(self.split) == split)

    def refuse(self, rows: Iterable[int], problem: str, remedy: str) -> None:
        """Raise a DataError that counts some rows and lists the first five, if there are any."""
        wrong = list(rows)
        if wrong:
            shown = "; ".join(f"{self.lines[i]} {self.path[i]!r} {self._about(i)}" for i in wrong[:SHOWN])
            more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise DataError(f"{self.where}: {len(wrong)} image(s) {problem}: {shown}{more}. {remedy}")

    def _about(self, row: int) -> str:
        values = {"label": self.label, "site": self.site, "split": self.split, "group": self.group}
        return "(" + ", ".join(f"{name} {column[row]!r}" for name, column in values.items() if column[row]) + ")"


# Reading -----------------------------------------------------------------------------------------------------


def read_table(path: Path, columns: Columns, delimiter: str | None = None) -> SiteRows:
    """Read a ``.csv``, ``.tsv`` or ``.parquet`` file with a header.

    Args:
        path: The table.
        columns: Names of its columns.
        delimiter: Character between the columns of a text; None takes a comma for ``.csv`` and a tab for ``.tsv``.

    Raises:
        DataError: If the file is missing, in another encoding or format, or lacks a column or a value.
        ConfigError: If it is a parquet file and pyarrow is not installed.
    """
    if not path.is_file():
        raise DataError(f"no table {str(path.resolve())!r}. Set data.source.table to a .csv, .tsv or .parquet file.")
    where = str(path)
    if path.suffix.lower() == ".parquet":
        content: Mapping[str, Sequence[object]] = _parquet(path)
        _check_columns(where, list(content), columns)
        lines = [f"row {i + 1}" for i in range(len(next(iter(content.values()))))]
    else:
        content, lines = _text(path, columns, delimiter)
    if not lines:
        raise DataError(f"{where} names no image: it has a header and no rows.")
    empty = [""] * len(lines)
    read = {field: content.get(name, empty) for field, name in vars(columns).items()}
    rows = SiteRows(where, lines, **{name: [_clean(value) for value in column] for name, column in read.items()})
    for field in ("path", "label"):
        values = getattr(rows, field)
        rows.refuse((i for i, value in enumerate(values) if not value), f"lack a {field}", "Fill in the column.")
    return replace(rows, path=[value.replace("\\", "/").removeprefix("./") for value in rows.path])


def _clean(value: object) -> str:
    """A cell as text: whole numbers without a fraction, letters with accents as one character."""
    if value is None or value != value:
        return ""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return unicodedata.normalize("NFC", text).strip()


def _text(path: Path, columns: Columns, delimiter: str | None) -> tuple[dict[str, list[str]], list[str]]:
    if path.suffix.lower() not in DELIMITERS and delimiter is None:
        raise DataError(f"{path} ends neither with .csv, .tsv nor .parquet. Rename it, or set data.source.delimiter.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 (byte {error.start}: {error.reason}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    delimiter = delimiter or DELIMITERS[path.suffix.lower()]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_delimiter(path, header, delimiter)
        _check_columns(str(path), header, columns)
        rows = [(f"line {reader.line_num}", row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: is not a table: {error}.") from error
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}: {line} has {len(row)} values, but the header names {len(header)} columns.")
    values = zip(*(row for _, row in rows), strict=True) if rows else [()] * len(header)
    return dict(zip(header, map(list, values), strict=True)), [line for line, _ in rows]


def _check_delimiter(path: Path, header: Sequence[str], delimiter: str) -> None:
    others = [other for other in ",;\t|" if other != delimiter and len(header) == 1 and other in header[0]]
    if others:
        raise DataError(
            f"{path}:1: {header[0]!r} is a single column: the table seems to be separated by {others[0]!r}, not by "
            f"{delimiter!r}. Set data.source.delimiter={others[0]!r}."
        )


def _check_columns(where: str, header: Sequence[str], columns: Columns) -> None:
    defaults = vars(Columns())
    for field, name in vars(columns).items():
        asked = field in ("path", "label", "site") or name != defaults[field]
        if asked and name not in header:
            raise DataError(
                f"{where} has no column {name!r}; it has {', '.join(map(repr, header)) or 'none'}."
                f"{did_you_mean(name, header)} Set data.source.{field}_column to the name of the {field} column."
            )
    twice = sorted({name for name in header if header.count(name) > 1} & set(vars(columns).values()))
    if twice:
        raise DataError(f"{where} has two columns {twice[0]!r}. Rename one of them.")


def _parquet(path: Path) -> dict[str, list[object]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        remedy = "Run `pip install 'fedloge[parquet]'`, or save the table as .csv."
        raise ConfigError("data.source.table", str(path), "needs the package pyarrow", remedy) from error
    try:
        content: dict[str, list[object]] = pq.read_table(path).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}.") from error
    return content


def read_tree(files: Files) -> SiteRows:
    """The images in ``<site>/<split>/<class>/*``.

    Raises:
        DataError: If there are no images.
    """
    found = list(_tree(files))
    if not found:
        where = str(files.root.resolve())
        raise DataError(f"{where!r} holds no images in <site>/<split>/<class>/*. Set data.source.table for a table.")
    paths, sites, splits, labels = ([_clean(value) for value in column] for column in zip(*found, strict=True))
    located = [path for path, *_ in found]
    return SiteRows(str(files.root), ["file"] * len(paths), located, labels, sites, splits, [""] * len(paths))


def _tree(files: Files) -> Iterator[tuple[str, str, str, str]]:
    """Path, site, split and class of every image."""
    for site in files.folders("") or ():
        for split in files.folders(site) or ():
            for label in files.folders(f"{site}/{split}") or ():
                folder = f"{site}/{split}/{label}"
                yield from ((f"{folder}/{name}", site, split, label) for name in files.names(folder))


# Rules -------------------------------------------------------------------------------------------------------


def check_paths(rows: SiteRows) -> None:
    """Require relative paths inside the root, each once.

    Raises:
        DataError: If there are others.
    """
    absolute = (i for i, path in enumerate(rows.path) if path.startswith("/") or re.match(r"[A-Za-z]:", path))
    rows.refuse(absolute, "have absolute paths", "Write paths relative to data.source.root.")
    normal = [posixpath.normpath(path) for path in rows.path]
    outside = (i for i, path in enumerate(normal) if path.partition("/")[0] == "..")
    rows.refuse(outside, "lie outside of data.source.root", "Set it to a folder that holds all images.")
    first: dict[str, int] = {}
    twice = [i for i, path in enumerate(normal) if first.setdefault(path, i) != i]
    rows.refuse(twice, "are listed already", "Keep one row for each image.")


def with_known_splits(rows: SiteRows) -> SiteRows:
    """The rows with ``train``, ``val`` or ``test`` for every word in the column.

    Raises:
        DataError: If a word is unknown, or some rows have none.
    """
    words = {word: split for split, words in SPLITS.items() for word in words}
    if not any(rows.split):
        return rows
    splits = [words.get(word.casefold(), "") for word in rows.split]
    known = ", ".join(word for own in SPLITS.values() for word in own)
    rows.refuse((i for i, split in enumerate(splits) if not split), "have an unknown split", f"Words are {known}.")
    return replace(rows, split=splits)


def check_sites(rows: SiteRows) -> None:
    """Require that every site has training images, every training image a site, and no site two spellings.

    Raises:
        DataError: If not.
    """
    trained = {site for site, split in zip(rows.site, rows.split, strict=True) if split == "train" and site}
    lost = (i for i, site in enumerate(rows.site) if not site and rows.split[i] == "train")
    rows.refuse(lost, "are training images without a site", "Fill in the column.")
    spelled: dict[str, str] = {}
    for site in dict.fromkeys(filter(None, rows.site)):
        known = spelled.setdefault(_plain(site), site)
        if known != site and _plain(site):
            raise DataError(f"{rows.where}: {known!r} and {site!r} look like one site. Spell it in one way.")
    untrained = [i for i, site in enumerate(rows.site) if site and site not in trained]
    if untrained:
        names = {rows.site[i] for i in untrained}
        close = {name: difflib.get_close_matches(name, trained, n=1, cutoff=0.75) for name in sorted(names)}
        hints = " ".join(f"Is {name!r} {found[0]!r}?" for name, found in close.items() if found)
        rows.refuse(untrained, "belong to a site without training images", hints or "Every site needs some.")


def _plain(name: str) -> str:
    """A name without accents, case, spaces and punctuation."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    return "".join(letter for letter in letters if letter.isalnum())


def check_groups(rows: SiteRows, allow: Sequence[Straddling]) -> None:
    """Require that no group has images in two splits or at two sites.

    Raises:
        DataError: If one has, and that is not allowed.
    """
    for column, permission in (("split", "groups_across_splits"), ("site", "groups_across_sites")):
        if permission not in allow:
            first: dict[str, str] = {}
            values = getattr(rows, column)
            pairs = enumerate(zip(rows.group, values, strict=True))
            straddling = [i for i, (group, value) in pairs if group and first.setdefault(group, value) != value]
            remedy = f"Correct the table, or set data.source.allow=[{permission}]."
            rows.refuse(straddling, f"have a group that has images of another {column}", remedy)


def classes(rows: SiteRows, class_names: Sequence[str] | None) -> tuple[list[str], Ints]:
    """Names of the classes, and the class of every row.

    The classes are those of the training images: numbers in their order, other names in that of the alphabet.

    Args:
        rows: Rows with known splits.
        class_names: Names of all classes in the order of their labels; numbers in the table then count from 0.

    Raises:
        DataError: If a label is unknown, or there are fewer than two classes.
    """
    trained = {label for label, split in zip(rows.label, rows.split, strict=True) if split == "train"}
    numbers = all(label.isdecimal() for label in rows.label)
    if class_names is None:
        names = sorted(trained, key=int) if numbers else sorted(trained)
        labels = {name: c for c, name in enumerate(names)}
    else:
        names = list(class_names)
        labels = {str(c) if numbers and not set(rows.label) <= set(names) else name: c for c, name in enumerate(names)}
    if len(names) < 2:
        raise DataError(f"{rows.where} has training images of {len(names)} class(es). At least 2 are needed.")
    found = [labels.get(label, -1) for label in rows.label]
    known = "no training image has it" if class_names is None else "it is not in data.source.class_names"
    rows.refuse((i for i, c in enumerate(found) if c < 0), f"have an unknown label ({known})", "Correct the table.")
    return names, np.array(found, dtype=np.int64)


# Drawing and numbering ---------------------------------------------------------------------------------------


def numbered(names: Sequence[str]) -> tuple[list[str], Ints]:
    """The different names in order of appearance, and the number of each name; -1 for an empty one."""
    numbers = {name: k for k, name in enumerate(dict.fromkeys(filter(None, names)))}
    return list(numbers), np.array([numbers.get(name, -1) for name in names], dtype=np.int64)


def group_numbers(rows: SiteRows) -> Ints | None:
    """A number for the group of each row; a row without a group is a group of its own. None without any groups."""
    if not any(rows.group):
        return None
    return numbered([group or f"\0{i}" for i, group in enumerate(rows.group)])[1]


def with_drawn_tests(rows: SiteRows, labels: Ints, fraction: float, seed: int) -> SiteRows:
    """The rows with a share of each site's training images as its test images, by class and by whole groups.

    Args:
        rows: Rows with known splits.
        labels: Class of each row, int64 [n].
        fraction: Share in (0, 1).
        seed: Seed of the draw.
    """
    splits = np.array(rows.split, dtype=object)
    sites, groups = numbered(rows.site)[1], group_numbers(rows)
    rng = np.random.default_rng(seed)
    for site in range(int(sites.max()) + 1):
        own = np.flatnonzero((sites == site) & (splits == "train"))
        held = hold_out(labels[own], fraction, rng, None if groups is None else groups[own])
        splits[own[held]] = "test"
    return replace(rows, split=splits.tolist())
