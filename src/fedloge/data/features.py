"""Features in the place of images: vectors of length d, stored as float32 images [n, d, 1, 1]."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloge.data.images import Images, TensorImages
from fedloge.data.loader import BatchSettings, SequentialLoader
from fedloge.data.sources.base import Dataset
from fedloge.errors import DataError

IN_MEMORY_LIMIT = 4 * 2**30
"""Size of an array, in bytes, above which an ``.npz`` file is mapped into memory instead of read."""


@torch.no_grad()
def embed(images: Images, body: Callable[[Tensor], Tensor], settings: BatchSettings) -> Tensor:
    """Features of all images, float32 [n, d] on the CPU, without augmentation.

    Args:
        images: Images.
        body: Function from normalised images [n, channels, H, W] to features [n, d].
        settings: Batch settings; batches lie on their device.
    """
    nobody = torch.zeros(len(images), dtype=torch.int64)
    batches = SequentialLoader(images, nobody, torch.arange(len(images)), settings)
    return torch.cat([body(batch).float().cpu() for batch, _ in batches])


def embed_dataset(dataset: Dataset, body: Callable[[Tensor], Tensor], settings: BatchSettings) -> Dataset:
    """The dataset with the features of its images in their place."""
    parts: dict[str, Images | None] = {
        field.name: getattr(dataset, field.name)
        for field in dataclasses.fields(dataset)
        if hasattr(getattr(dataset, field.name), "gather") and not isinstance(getattr(dataset, field.name), Tensor)
    }
    found = {name: as_images(embed(images, body, settings)) for name, images in parts.items() if images is not None}
    changes: dict[str, Any] = dict(found)
    return dataclasses.replace(dataset, **changes)


def as_images(features: Tensor) -> TensorImages:
    """Features float32 [n, d] as images [n, d, 1, 1]."""
    return TensorImages(features[:, :, None, None])


def read_features(path: str | Path, columns: str = "f_*") -> dict[str, NDArray[Any]]:
    """Arrays of a file of features: ``features`` float32 [n, d], ``labels`` [n], and those of its others that it has.

    Args:
        path: ``.npz`` file with arrays of these names, or a table (``.csv``, ``.tsv``, ``.parquet``), whose columns
            are ``label``, ``split``, ``site`` and ``group``.
        columns: Pattern of the columns of a table that hold the features.

    Raises:
        DataError: If the file is missing, unreadable or incomplete, or features are not finite.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"data.source.file={str(path)!r} is no file.")
    try:
        arrays = _read_npz(file) if file.suffix == ".npz" else _read_table(file, columns)
    except (OSError, ValueError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DataError(f"data.source.file={str(path)!r} cannot be read: {error}.") from error
    for name in ("features", "labels"):
        if name not in arrays:
            raise DataError(f"data.source.file={str(path)!r} has no {name}, only {', '.join(arrays) or 'nothing'}.")
    features = arrays["features"]
    if features.ndim != 2 or not features.shape[1] or features.dtype.kind not in "fiu":
        raise DataError(f"features in {str(path)!r} must be numbers [n, d], not {features.dtype} {features.shape}.")
    for name, values in arrays.items():
        if name != "class_names" and len(values) != len(features):
            raise DataError(f"{str(path)!r} has {len(features)} features, but {len(values)} {name}.")
    arrays["features"] = features if features.dtype == np.float32 else features.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(arrays["features"]).all(1))
    if len(wrong):
        rows = ", ".join(map(str, wrong[:5]))
        raise DataError(f"{len(wrong)} rows of {str(path)!r} hold values that are not finite, the first: {rows}.")
    return arrays


def write_features(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as :func:`read_features` reads them: ``.npz``, or a ``.parquet`` table.

    Raises:
        DataError: If the suffix is another, or pyarrow is missing.
    """
    file = Path(path)
    partial = file.with_name(f".{file.name}.partial")
    if file.suffix == ".npz":
        with partial.open("wb") as stream:
            np.savez(stream, **dict(arrays))
    elif file.suffix == ".parquet":
        pyarrow, parquet = _pyarrow()
        names = [name for name in arrays if name not in ("features", "class_names")]
        table = {("label" if name == "labels" else name): arrays[name] for name in names}
        width = len(str(arrays["features"].shape[1] - 1))
        table |= {f"f_{number:0{width}}": column for number, column in enumerate(arrays["features"].T)}
        if "class_names" in arrays:
            table["label"] = np.asarray(arrays["class_names"])[table["label"]]
        parquet.write_table(pyarrow.table(table), partial)
    else:
        raise DataError(f"--output={str(path)!r} must end in .npz or .parquet.")
    partial.replace(file)


def _pyarrow() -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError("Parquet files need pyarrow. Run `pip install pyarrow`, or use .npz.") from error
    return pyarrow, parquet


def _read_npz(file: Path) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as archive:
        large = {info.filename for info in archive.zip.infolist() if info.file_size > IN_MEMORY_LIMIT}
        arrays = {name: archive[name] for name in archive.files if f"{name}.npy" not in large}
    for name in large:
        arrays[name.removesuffix(".npy")] = _mapped(file, name)
    return arrays


def _mapped(file: Path, name: str) -> NDArray[Any]:
    """An array of an ``.npz`` file, mapped into memory; read if it is compressed."""
    with zipfile.ZipFile(file) as archive, file.open("rb") as stream:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            with archive.open(name) as member:
                found: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
                return found
        with archive.open(name) as member:  # positions the header within the member
            version = np.lib.format.read_magic(member)
            shape, fortran, dtype = np.lib.format._read_array_header(member, version)  # type: ignore[attr-defined]
            head = member.tell()
        stream.seek(info.header_offset + 26)
        name_length, extra_length = np.frombuffer(stream.read(4), "<u2").tolist()
        offset = info.header_offset + 30 + name_length + extra_length + head
        return np.memmap(file, dtype, "c", offset, shape, "F" if fortran else "C")


def _read_table(file: Path, columns: str) -> dict[str, NDArray[Any]]:
    raise DataError(f"data.source.file={str(file)!r} must end in .npz or .parquet.")
