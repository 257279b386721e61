"""Features in a file, in the place of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedloge.data.features import as_images, read_features
from fedloge.data.sources.base import Dataset, Source
from fedloge.data.splits import hold_out
from fedloge.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")
SPLIT_SEED = 0


class Features(Source):
    """Feature vectors, or the columns of any table of numbers, for the backbones ``Identity`` and ``MLP``.

    Args:
        file: ``.npz`` file with the arrays ``features`` [n, d], ``labels`` [n] and, if there are any, ``split``
            (train, val or test), ``site``, ``group`` and ``class_names``, as written by ``fedloge embed``; or a table
            (``.csv``, ``.tsv``, ``.parquet``) with the columns ``label``, ``split``, ``site`` and ``group``.
        columns: Pattern of the columns of a table that hold the features.
        test_fraction: Share of the rows to test on, drawn by class, where the file has no ``split``.
        standardise: Whether to shift and scale each feature to mean 0 and variance 1 over the training rows.

    Raises:
        ConfigError: If an argument is out of range.
        DataError: If the file is missing, unreadable or incomplete.
    """

    image_size = 1

    def __init__(self, file: str, columns: str = "f_*", test_fraction: float = 0.2, standardise: bool = False) -> None:
        if not 0 < test_fraction < 1:
            raise ConfigError("data.source.test_fraction", test_fraction, "must lie in (0, 1)", "For example 0.2.")
        self.file, self.name = file, Path(file).stem
        arrays = read_features(file, columns)
        self.class_names, self._labels = _classes(arrays, file)
        self._features, self._split = arrays["features"], _splits(arrays, self._labels, test_fraction, file)
        self._sites = arrays.get("site")
        self.channels = self._features.shape[1]
        train = self._features[self._split == "train"]
        spread = train.std(0) if standardise else np.ones(self.channels)
        self.mean = tuple((train.mean(0) if standardise else np.zeros(self.channels)).tolist())
        self.std = tuple(np.where(spread > 0, spread, 1).tolist())

    def load(self) -> Dataset:
        """The features by split."""
        parts = {name: self._split == name for name in SPLITS}
        images = {name: as_images(torch.from_numpy(self._features[rows])) for name, rows in parts.items()}
        labels = {name: torch.from_numpy(self._labels[rows]) for name, rows in parts.items()}
        users = None
        if self._sites is not None:
            _, numbers = np.unique(self._sites, return_inverse=True)
            users = torch.from_numpy(numbers[parts["train"]].astype(np.int64))
        val = (images["val"], labels["val"]) if parts["val"].any() else (None, None)
        return Dataset(images["train"], labels["train"], images["test"], labels["test"], users, *val)


def _classes(arrays: dict[str, NDArray[Any]], file: str) -> tuple[Sequence[str], NDArray[np.int64]]:
    """Names of the classes and the class of each row; labels are numbers 0 … C-1 or names."""
    labels = arrays["labels"]
    if labels.dtype.kind in "iu" and "class_names" in arrays:
        names = [str(name) for name in arrays["class_names"]]
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(names):
            raise DataError(f"labels in {file!r} must lie in 0 … {len(names) - 1}, for {len(names)} class_names.")
        return names, labels.astype(np.int64)
    found, numbers = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise DataError(f"{file!r} has {len(found)} class(es). At least 2 are needed.")
    return [str(name) for name in found], numbers.astype(np.int64)


def _splits(
    arrays: dict[str, NDArray[Any]], labels: NDArray[np.int64], test_fraction: float, file: str
) -> NDArray[np.str_]:
    """Split of each row; drawn where the file has none."""
    if "split" in arrays:
        split = arrays["split"].astype(str)
        unknown = sorted(set(split.tolist()) - set(SPLITS))
        if unknown:
            raise DataError(f"split in {file!r} must be train, val or test, not {', '.join(map(repr, unknown[:5]))}.")
    else:
        groups = arrays.get("group")
        numbers = None if groups is None else np.unique(groups, return_inverse=True)[1]
        held = hold_out(labels, test_fraction, np.random.default_rng(SPLIT_SEED), numbers)
        split = np.where(held, "test", "train")
    for name in ("train", "test"):
        if not (split == name).any():
            raise DataError(f"{file!r} has no rows with split {name}.")
    return split
