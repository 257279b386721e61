"""Images in class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from fedloge.checks import check_choice, check_least
from fedloge.data.files import open_files
from fedloge.data.images import FileImages, InMemory, OnUnreadable, load_parts
from fedloge.data.sources.base import IMAGENET, Dataset, Source, check_statistics
from fedloge.errors import DataError, few

VALIDATION = ("val", "valid", "validation")
"""Names of a folder of validation images."""


class ImageFolder(Source):
    """Images in ``root/train/<class>/*`` and ``root/test/<class>/*``, in any format that Pillow reads.

    Images are turned upright and converted by value, see :func:`fedloge.data.decode.decode`. Images in ``val``,
    ``valid`` or ``validation``, if there is such a folder, are the validation part.

    Args:
        root: Folder, or zip archive of this layout, which is read without unpacking; the archive may hold one folder
            that has the layout.
        image_size: Height and width; other images are scaled by their shorter side and cropped at the centre.
        channels: 1 (grey) or 3 (RGB).
        in_memory: Decode all images once (``always``) or on access (``never``); ``auto`` decides by size (4 GiB).
        num_workers: Number of decoding threads.
        mean: Channel means of images scaled to [0, 1]; None takes ImageNet's.
        std: Channel standard deviations of images scaled to [0, 1]; None takes ImageNet's.
        on_unreadable: ``refuse``, or ``skip`` what cannot be read; the report states how many images were left out.

    Raises:
        ConfigError: If an argument is out of range.
        DataError: If a folder is missing, has one class, or its classes differ between train and test.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 32,
        channels: Literal[1, 3] = 3,
        in_memory: InMemory = "auto",
        num_workers: int = 4,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        on_unreadable: OnUnreadable = "refuse",
    ) -> None:
        check_least("data.source.image_size", image_size, 1)
        check_least("data.source.num_workers", num_workers, 1)
        check_choice("data.source.channels", channels, (1, 3))
        check_choice("data.source.in_memory", in_memory, get_args(InMemory))
        check_choice("data.source.on_unreadable", on_unreadable, get_args(OnUnreadable))
        self.root = Path(root)
        self.files = open_files(root, wanted=("train", "test"))
        self.name = self.root.name.removesuffix(".zip")
        self.image_size, self.channels = image_size, channels
        self.in_memory, self.num_workers, self.on_unreadable = in_memory, num_workers, on_unreadable
        self.mean, self.std = check_statistics(channels, mean or IMAGENET[channels][0], std or IMAGENET[channels][1])
        self.class_names = self._classes()
        self.val_folder = self._validation()

    def load(self) -> Dataset:
        """Find the images, and decode them if they fit in memory.

        Raises:
            DataError: If a class has no image, or images cannot be read; names them.
        """
        self.files.refresh()
        folders = {"train": "train", "test": "test"} | ({"val": self.val_folder} if self.val_folder else {})
        listed = {part: self._list(folder) for part, folder in folders.items()}
        parts = load_parts({part: files for part, (files, _) in listed.items()}, self.in_memory, self.on_unreadable)
        labels = {part: own[parts[part].kept] for part, (_, own) in listed.items()}
        for part in ("train", "test"):
            self._check_every_class(part, labels[part])
        return Dataset(
            parts["train"].images,
            labels["train"],
            parts["test"].images,
            labels["test"],
            val=parts["val"].images if "val" in parts else None,
            val_labels=labels.get("val"),
            left_out={name: part.left_out for name, part in parts.items()},
        )

    def _classes(self) -> list[str]:
        train, test = (self._folders(part) for part in ("train", "test"))
        if train != test:
            raise DataError(
                f"the classes of {str(self.root)!r} differ: only in train {sorted(set(train) - set(test))}, only in "
                f"test {sorted(set(test) - set(train))}. Both need the same class folders."
            )
        if len(train) < 2:
            raise DataError(f"{str(self.root / 'train')!r} has {len(train)} class folder(s). At least 2 are needed.")
        return train

    def _folders(self, part: str) -> list[str]:
        folders = self.files.folders(part)
        if folders is None:
            raise DataError(
                f"no folder {str((self.root / part).resolve())!r}. data.source.root={str(self.root)!r} must hold "
                "train/<class>/* and test/<class>/*, as a folder or a .zip."
            )
        return folders

    def _validation(self) -> str | None:
        """Name of the folder of validation images, if there is one."""
        found = [name for name in VALIDATION if self.files.folders(name) is not None]
        if len(found) > 1:
            raise DataError(
                f"{str(self.root)!r} has the folders {' and '.join(found)}. Keep one for validation images."
            )
        for folder in found:
            unknown = sorted(set(self._folders(folder)) - set(self.class_names))
            if unknown:
                where = str(self.root / folder)
                raise DataError(f"{where!r} has folders of no class of train: {few(unknown)}. Rename or remove them.")
        return found[0] if found else None

    def _list(self, part: str) -> tuple[FileImages, Tensor]:
        """The files of a part, and their classes."""
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            folder = f"{part}/{name}"
            inside = self.files.folders(folder)
            if inside:
                where = str(self.root / folder)
                raise DataError(f"class folder {where!r} holds folders: {few(inside)}. Move their images up.")
            own = self.files.names(folder)
            paths += [f"{folder}/{file}" for file in own]
            labels += [label] * len(own)
        files = FileImages(self.files, paths, self.image_size, self.channels, self.num_workers)
        return files, torch.tensor(labels, dtype=torch.int64)

    def _check_every_class(self, part: str, labels: Tensor) -> None:
        counts = torch.bincount(labels, minlength=len(self.class_names))
        for name, count in zip(self.class_names, counts.tolist(), strict=True):
            if count == 0:
                folder = str(self.root / part / name)
                raise DataError(f"class folder {folder!r} is empty. Add images, or remove the class.")
