"""Features in the place of images: vectors of length d, stored as float32 images [n, d, 1, 1]."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedloge.data.images import TensorImages
from fedloge.errors import ConfigError, DataError

IN_MEMORY_LIMIT = 4 * 2**30
"""Size of an array, in bytes, above which an ``.npz`` file is mapped into memory instead of read."""


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


def check_output(path: str | Path) -> None:
    """Check that :func:`write_features` can write such a file.

    Raises:
        ConfigError: If the suffix is unknown or the folder does not exist.
        DataError: If pyarrow is missing.
    """
    file = Path(path)
    if file.suffix not in (".npz", ".parquet"):
        raise ConfigError("output", str(path), "has an unknown ending", "Choose .npz or .parquet.")
    if not file.parent.is_dir():
        raise ConfigError("output", str(path), "lies in a folder that does not exist", "Make the folder first.")
    if file.suffix == ".parquet":
        _pyarrow()


def write_features(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as :func:`read_features` reads them: an ``.npz`` file, or a ``.parquet`` table."""
    file = Path(path)
    partial = file.with_name(f".{file.name}.partial")
    if file.suffix == ".npz":
        with partial.open("wb") as stream:
            np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
    else:
        pyarrow, parquet = _pyarrow()
        names = [name for name in arrays if name not in ("features", "class_names")]
        table = {("label" if name == "labels" else name): arrays[name] for name in names}
        width = len(str(arrays["features"].shape[1] - 1))
        table |= {f"f_{number:0{width}}": column for number, column in enumerate(arrays["features"].T)}
        if "class_names" in arrays:
            table["label"] = np.asarray(arrays["class_names"])[table["label"]]
        parquet.write_table(pyarrow.table(table), partial)
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
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran, dtype = readers[np.lib.format.read_magic(member)](member)
            head = member.tell()
        stream.seek(info.header_offset + 26)
        name_length, extra_length = np.frombuffer(stream.read(4), "<u2").tolist()
        offset = info.header_offset + 30 + name_length + extra_length + head
        return np.memmap(file, dtype, "c", offset, shape, "F" if fortran else "C")


def _read_table(file: Path, columns: str) -> dict[str, NDArray[Any]]:
    """Arrays of a table; columns of text stay text."""
    found = _read_parquet(file) if file.suffix == ".parquet" else _read_text(file)
    names = [name for name in found if fnmatch(name, columns)]
    arrays: dict[str, NDArray[Any]] = {name: found[name] for name in found if name in ("split", "site", "group")}
    if "label" in found:
        arrays["labels"] = found["label"]
    if names:
        arrays["features"] = np.stack([found[name].astype(np.float32) for name in names], axis=1)
    return arrays


def _read_parquet(file: Path) -> dict[str, NDArray[Any]]:
    _, parquet = _pyarrow()
    table = parquet.read_table(file)
    return {name: table[name].to_numpy() for name in table.column_names}


def _read_text(file: Path) -> dict[str, NDArray[Any]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.reader(stream, delimiter="\t" if file.suffix == ".tsv" else ","))
    columns = zip(*rows[1:], strict=True)
    return {name: np.array(column) for name, column in zip(rows[0], columns, strict=True)}
