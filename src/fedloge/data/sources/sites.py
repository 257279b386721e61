"""Images of real sites, described by a table or by folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedloge.checks import check_choice, check_least
from fedloge.data import sites
from fedloge.data.cache import PixelCache
from fedloge.data.files import Facts, Files, open_files
from fedloge.data.images import FileImages, InMemory, OnUnreadable, load_parts
from fedloge.data.sites import Columns, SiteRows, Straddling
from fedloge.data.sources.base import IMAGENET, Dataset, Source, check_statistics
from fedloge.data.splits import Ints
from fedloge.errors import ConfigError, DataError

TEST_FRACTION = 0.2
"""Share of a site's images that is drawn for testing where the table has no splits."""


class SiteTable(Source):
    """Images of hospitals, cameras or users, each with its own training, test and validation images.

    A table, ``.csv``, ``.tsv`` or ``.parquet`` with a header, has a row per image: its path, class and site and,
    optionally, its split (``train``, ``val`` or ``test``) and its group, a patient or a burst of shots for example.
    Without a table, images are taken from ``root/<site>/<split>/<class>/*``. Set ``scheme: natural``, ``num_clients:
    null`` and ``imbalance_factor: null`` to make every site a client with its name.

    A test or validation image may have no site: the generic model is then tested on these images.

    Args:
        table: The table; None takes the folders below ``root``.
        root: Folder that paths are relative to, or a zip archive of it; None takes the folder of the table.
        image_size: Height and width of the model's input.
        path_column: Name of the column of paths.
        label_column: Name of the column of classes, which are numbers or names.
        site_column: Name of the column of sites.
        split_column: Name of the column of splits; where it is missing, test images are drawn.
        group_column: Name of the column of groups, which no draw takes apart.
        class_names: Names of the classes in label order; None takes the labels of the training images.
        test_fraction: Share of each site's training images that is drawn for testing, by class, if the table has no
            test image; None is 0.2 where it has no splits. The draw depends on ``data.seed``.
        allow: ``groups_across_splits`` and ``groups_across_sites`` permit such groups.
        delimiter: Character between columns; None takes a comma for ``.csv`` and a tab for ``.tsv``.
        reader: Function from a path to the pixels of an image, uint8 [H, W] or [H, W, 3], for formats that Pillow does
            not read; written as ``module.function``.
        channels: 1 (grey) or 3 (RGB).
        stored_size: Height and width that images are scaled and cropped to; None takes ``image_size``.
        cache: Folder of a cache of decoded images; None has no cache.
        in_memory: Decode all images once (``always``) or on access (``never``); ``auto`` decides by size (4 GiB).
        num_workers: Number of decoding threads.
        name: Name of the dataset in tables; None takes that of the table or folder.
        mean: Channel means of images scaled to [0, 1]; None takes ImageNet's.
        std: Channel standard deviations of images scaled to [0, 1]; None takes ImageNet's.
        on_unreadable: ``refuse``, or ``skip`` what cannot be read; the report states how many images were left out.

    Raises:
        ConfigError: If an argument is out of range.
        DataError: If the table cannot be read or breaks a rule; lists the first five offending rows.
    """

    def __init__(
        self,
        table: str | None = None,
        root: str | None = None,
        image_size: int = 224,
        path_column: str = "path",
        label_column: str = "label",
        site_column: str = "site",
        split_column: str = "split",
        group_column: str = "group",
        class_names: Sequence[str] | None = None,
        test_fraction: float | None = None,
        allow: Sequence[Straddling] = (),
        delimiter: str | None = None,
        reader: Callable[[str], Any] | None = None,
        channels: Literal[1, 3] = 3,
        stored_size: int | None = None,
        cache: str | None = None,
        in_memory: InMemory = "auto",
        num_workers: int = 4,
        name: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        on_unreadable: OnUnreadable = "refuse",
    ) -> None:
        check_least("data.source.image_size", image_size, 1)
        check_least("data.source.num_workers", num_workers, 1)
        check_least("data.source.stored_size", stored_size, image_size)
        check_choice("data.source.channels", channels, (1, 3))
        check_choice("data.source.in_memory", in_memory, get_args(InMemory))
        check_choice("data.source.on_unreadable", on_unreadable, get_args(OnUnreadable))
        for permission in (allow,) if isinstance(allow, str) else allow:
            check_choice("data.source.allow", permission, get_args(Straddling))
        if table is None and root is None:
            raise ConfigError("data.source.table", None, "and no root", "Set the table, or the folder of the sites.")
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise ConfigError("data.source.test_fraction", test_fraction, "must lie in (0, 1)", "For example 0.2.")
        self.root = Path(root if root is not None else Path(str(table)).parent)
        self.image_size, self.stored_size, self.channels = image_size, stored_size, channels
        self.in_memory, self.num_workers, self.on_unreadable = in_memory, num_workers, on_unreadable
        self.cache = None if cache is None else PixelCache(cache)
        self.mean, self.std = check_statistics(channels, mean or IMAGENET[channels][0], std or IMAGENET[channels][1])
        if not self.root.exists():
            raise DataError(
                f"no folder {str(self.root.resolve())!r}. Set data.source.root to the folder of the images."
            )
        self.files = open_files(self.root) if reader is None else ReadFiles(open_files(self.root), reader)
        self.name = name or Path(str(table)).stem if table is not None or name else self.root.name
        columns = Columns(path_column, label_column, site_column, split_column, group_column)
        rows = self._read(None if table is None else Path(table), columns, delimiter)
        sites.check_paths(rows)
        self.rows = self._with_splits(sites.with_known_splits(rows), test_fraction, allow)
        self.class_names, self.labels = sites.classes(self.rows, class_names)

    def _read(self, table: Path | None, columns: Columns, delimiter: str | None) -> SiteRows:
        return sites.read_tree(self.files) if table is None else sites.read_table(table, columns, delimiter)

    def _with_splits(self, rows: SiteRows, test_fraction: float | None, allow: Sequence[Straddling]) -> SiteRows:
        """The rows with a split each, where all that are to be drawn are training images for now."""
        absent = not any(rows.split)
        rows = replace(rows, split=["train" if site else "test" for site in rows.site]) if absent else rows
        tested = any(split == "test" and site for split, site in zip(rows.split, rows.site, strict=True))
        self.test_fraction = test_fraction or (TEST_FRACTION if absent else None)
        if tested and test_fraction is not None:
            problem, remedy = "but the table has test images", "Leave it out."
            raise ConfigError("data.source.test_fraction", test_fraction, problem, remedy)
        if self.test_fraction is None and "test" not in rows.split:
            raise DataError(f"{rows.where} has no test images. Set data.source.test_fraction=0.2 to draw some.")
        sites.check_sites(rows)
        sites.check_groups(rows, allow)
        return rows

    def load(self) -> Dataset:
        """Draw test images if the table has none, find the images, and decode them if they fit in memory.

        Raises:
            DataError: If images are missing or unreadable; names them.
        """
        self.files.refresh()
        self._check_present()
        rows = self.rows
        if self.test_fraction is not None:
            rows = sites.with_drawn_tests(rows, self.labels, self.test_fraction, self.seed)
        listed = {split: rows.of(split) for split in ("train", "test", "val")}
        files = {split: self._images(own) for split, own in listed.items() if len(own)}
        parts = load_parts(files, self.in_memory, self.on_unreadable)
        train, test = (listed[split][parts[split].kept.numpy()] for split in ("train", "test"))
        val = listed["val"][parts["val"].kept.numpy()] if "val" in parts else listed["val"]
        names, users = sites.numbered(rows.site)
        groups = sites.group_numbers(rows)
        return Dataset(
            parts["train"].images,
            self._chosen(self.labels, train),
            parts["test"].images,
            self._chosen(self.labels, test),
            self._chosen(users, train),
            val=parts["val"].images if "val" in parts else None,
            val_labels=self._chosen(self.labels, val) if "val" in parts else None,
            test_users=self._chosen(users, test),
            val_users=self._chosen(users, val) if "val" in parts else None,
            user_names=names,
            train_groups=None if groups is None else self._chosen(groups, train),
            test_groups=None if groups is None else self._chosen(groups, test),
            test_paths=[rows.path[i] for i in test],
        )

    def _chosen(self, column: Ints, positions: Ints) -> Tensor:
        return torch.from_numpy(column[positions])

    def _images(self, positions: Ints) -> FileImages:
        paths = [self.rows.path[i] for i in positions]
        size = self.stored_size or self.image_size
        return FileImages(self.files, paths, size, self.channels, self.num_workers, cache=self.cache)

    def _check_present(self) -> None:
        inside: dict[str, set[str]] = {}
        missing = []
        for i, path in enumerate(self.rows.path):
            folder, _, name = path.rpartition("/")
            if folder not in inside:
                inside[folder] = set() if self.files.folders(folder) is None else set(self.files.names(folder))
            missing += [i] if name not in inside[folder] else []
        where = repr(str(self.root.resolve()))
        self.rows.refuse(missing, f"are not in {where}", "Set data.source.root to the folder of the paths.")


class ReadFiles:
    """Files whose pixels a function of the user reads; :meth:`open` gives them as a PNG.

    Args:
        files: The files.
        reader: Function from the path of a file to its pixels, uint8 [H, W] or [H, W, 3].
    """

    def __init__(self, files: Files, reader: Callable[[str], Any]) -> None:
        self.files, self.reader, self.root = files, reader, files.root

    def folders(self, path: str) -> list[str] | None:
        """Sorted names of the folders in a folder; None if the folder does not exist."""
        return self.files.folders(path)

    def names(self, path: str) -> list[str]:
        """Sorted names of the files in a folder."""
        return self.files.names(path)

    def facts(self, path: str) -> Facts:
        """What is known of a file or folder without reading it."""
        return self.files.facts(path)

    def refresh(self) -> None:
        """Take note of changes on disk."""
        self.files.refresh()

    def open(self, path: str) -> IO[bytes]:
        """The image as a PNG.

        Raises:
            ValueError: If the function returns something else than pixels.
        """
        pixels = np.asarray(self.reader(str(self.root / path)))
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
            found = f"{pixels.dtype} {list(pixels.shape)}"
            raise ValueError(f"data.source.reader returned {found}, not uint8 [H, W] or [H, W, 3]")
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, format="png", compress_level=0)
        buffer.seek(0)
        return buffer
