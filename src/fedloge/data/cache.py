"""A cache of decoded images on disk."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CHECKSUM_BYTES = 4
LEAST_FREE = 2 * 2**30
"""Bytes of disk space that the cache leaves free."""


class PixelCache:
    """Decoded pixels by name, one file per image: a checksum (CRC-32) followed by the raw bytes.

    Threads, processes and runs may share a folder. A damaged file is written again. If the disk is nearly full or not
    writable, the cache warns once and stops growing; images that it lacks are then decoded at every use. An image file
    that was changed is decoded again, as its name in the cache holds its size and time of change; what was decoded from
    the old one stays in the folder until that is deleted.

    Args:
        folder: Folder of the cache, created when the first image is stored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.grows = True

    def get(self, name: str, shape: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
        """Return the cached pixels, or make and store them.

        Args:
            name: Unique name of the image, including everything that its pixels depend on.
            shape: Shape of the uint8 pixels.
            make: Returns the pixels; called if they are not cached or damaged.
        """
        path = self._path(name, shape)
        found = _read(path, shape)
        if found is None:
            found = make()
            self._store(path, found)
        return found

    def has(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether pixels are cached; they are not read, so they may be damaged."""
        try:
            return self._path(name, shape).stat().st_size == torch.Size(shape).numel() + CHECKSUM_BYTES
        except OSError:
            return False

    def _path(self, name: str, shape: tuple[int, ...]) -> Path:
        digest = hashlib.sha256(f"{name} {shape}".encode()).hexdigest()
        return self.folder / digest[:2] / digest[2:32]

    def _store(self, path: Path, pixels: Tensor) -> None:
        if not self.grows:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < LEAST_FREE:
                raise OSError(f"less than {LEAST_FREE // 2**30} GiB are free")
            content = pixels.contiguous().numpy().tobytes()
            temporary.write_bytes(_checksum(content) + content)
            os.replace(temporary, path)
        except OSError as error:
            self.grows = False
            with contextlib.suppress(OSError):
                temporary.unlink()
            log.warning("the image cache %s stores no more images: %s", self.folder, error.strerror or error)


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    try:
        content = bytearray(path.read_bytes())
    except OSError:
        return None
    pixels = memoryview(content)[CHECKSUM_BYTES:]
    if len(pixels) != torch.Size(shape).numel() or _checksum(pixels) != content[:CHECKSUM_BYTES]:
        return None
    return torch.frombuffer(content, dtype=torch.uint8, offset=CHECKSUM_BYTES).view(shape)


def _checksum(content: bytes | memoryview) -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little")
