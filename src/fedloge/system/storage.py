"""Files that are written completely or not at all, with checksums."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloge.errors import RunError

Shapes = Mapping[str, tuple[torch.dtype, Sequence[int]]]

SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end the file there is flushed to disk and renamed to ``path``.

    After an error nothing is left, and an older file stays. A symbolic link is followed. What is no regular file, such
    as ``/dev/stdout`` or a pipe, is written to directly.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all, see :func:`whole`; text in UTF-8, with line ends as they are."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_tensors(path: Path, shapes: Shapes, tensors: Iterable[Tensor]) -> None:
    """Write a safetensors file one tensor after another, so that they need not be in memory together.

    Args:
        path: Path of the file, which is on disk when this returns.
        shapes: Type and shape of every entry by name.
        tensors: Entries in the same order.
    """
    header, offset = {}, 0
    for name, (dtype, shape) in shapes.items():
        end = offset + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to disk; before that, renaming a file is not durable."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: If the file is missing or malformed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise RunError(f"{str(path)!r} does not hold a JSON object.")
    return content


def without_nan(value: Any) -> Any:
    """A JSON value with null in place of numbers that are not finite."""
    return map_floats(value, lambda number: number if math.isfinite(number) else None)


def map_floats(value: Any, change: Callable[[float], float | None]) -> Any:
    """A JSON value with ``change`` applied to every float in its mappings and lists."""
    if isinstance(value, Mapping):
        return {key: map_floats(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_floats(item, change) for item in value]
    return change(value) if isinstance(value, float) else value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(content: Mapping[str, object]) -> str:
    """SHA-256 of a JSON object, independent of the order and layout of its file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def clear_os_errors(what: str) -> Iterator[None]:
    """Turn an OSError (full disk, read-only folder) into one line.

    Raises:
        RunError: If the block raises an OSError; says what could not be written, and why.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{what} cannot be written: {error.strerror or error}.") from error
