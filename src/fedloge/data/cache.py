"""Decoded images on disk, so that none is decoded twice."""

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
"""Bytes that are left free on the disk."""


class PixelCache:
    """Pixels by name, a file for each image: a checksum (CRC-32) and what was decoded, as it is in memory.

    Threads, processes and runs may share a folder. A damaged file is made anew. Where the disk is nearly full or cannot
    be written, which is told once, images that are not there yet are decoded each time they are needed. That an image
    was replaced goes unnoticed: delete the folder then.

    Args:
        folder: Made when the first image is kept.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.grows = True

    def get(self, name: str, shape: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
        """The pixels of that name, or else what ``make`` returns, which is kept.

        Args:
            name: Of the image, with everything that its pixels depend on.
            shape: Of the pixels, uint8.
            make: Called where the cache has none, or damaged ones.
        """
        digest = hashlib.sha256(f"{name} {shape}".encode()).hexdigest()
        path = self.folder / digest[:2] / digest[2:32]
        found = _read(path, shape)
        if found is None:
            found = make()
            self._keep(path, found)
        return found

    def _keep(self, path: Path, pixels: Tensor) -> None:
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
            log.warning("%s keeps no more decoded images: %s", self.folder, error.strerror or error)


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
