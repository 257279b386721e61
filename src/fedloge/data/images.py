"""Where images come from: tensors in memory, or files decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fedloge.errors import DataError


class Images(Protocol):
    """A list of images of one size."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def gather(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` int64 [n], as uint8 [n, channels, H, W]."""
        ...


class TensorImages:
    """Images in memory.

    Args:
        images: uint8 [N, channels, H, W].
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, indices: Tensor) -> Tensor:
        """The images at ``indices``."""
        return self.images[indices.to(self.images.device)]


class FileImages:
    """Images in files, decoded by a pool of threads (Pillow decodes outside Python's lock).

    Args:
        paths: The files.
        size: Height and width; a larger image is scaled by its shorter side and cropped at the centre.
        channels: 1 (grey) or 3 (RGB).
        num_workers: Threads.
    """

    def __init__(self, paths: Sequence[Path], size: int, channels: int, num_workers: int) -> None:
        self.paths, self.size, self.channels = list(paths), size, channels
        self.num_workers = num_workers
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        """A pool of threads cannot be copied; the copy makes its own."""
        return self.__dict__ | {"_pool": None}

    def gather(self, indices: Tensor) -> Tensor:
        """The images at ``indices``.

        Raises:
            DataError: Naming the file that cannot be decoded.
        """
        self._pool = self._pool or ThreadPoolExecutor(self.num_workers)
        return torch.stack(list(self._pool.map(self._decode, indices.tolist())))

    def _decode(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                square: Image.Image = image.convert("L" if self.channels == 1 else "RGB")
                if square.size != (self.size, self.size):
                    square = ImageOps.fit(square, (self.size, self.size), Image.Resampling.BILINEAR)
                pixels = np.array(square, dtype=np.uint8)
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{str(path)!r} is not an image that Pillow can read: {error}. Remove or replace it."
            ) from error
        return torch.from_numpy(pixels).view(self.size, self.size, self.channels).permute(2, 0, 1)
