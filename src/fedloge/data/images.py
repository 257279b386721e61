"""Where images come from: tensors in memory, or files decoded when they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fedloge.data.files import Files
from fedloge.errors import DataError


class Images(Protocol):
    """A list of images of one size."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def gather(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` int64 [n], as uint8 [n, channels, H, W]."""
        ...


def gather_batches(images: Images, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """``gather`` batch by batch; files of the next batch are decoded while the last one is in use."""
    return images.gather_batches(batches) if isinstance(images, FileImages) else map(images.gather, batches)


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
        files: Where the files are.
        paths: The images, relative to the files' root.
        size: Height and width; a larger image is scaled by its shorter side and cropped at the centre.
        channels: 1 (grey) or 3 (RGB).
        num_workers: Threads.
    """

    def __init__(self, files: Files, paths: Sequence[str], size: int, channels: int, num_workers: int) -> None:
        self.files, self.paths, self.size, self.channels = files, list(paths), size, channels
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
        return self._collect(indices, self._start(indices))

    def gather_batches(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """:meth:`gather` batch by batch, always with one more batch being decoded in the background."""
        started: deque[tuple[Tensor, Iterator[Tensor]]] = deque()
        for indices in batches:
            started.append((indices, self._start(indices)))
            if len(started) > 1:
                yield self._collect(*started.popleft())
        for batch in started:
            yield self._collect(*batch)

    def in_memory(self) -> TensorImages:
        """All of them, decoded."""
        return TensorImages(self.gather(torch.arange(len(self))))

    def _start(self, indices: Tensor) -> Iterator[Tensor]:
        self._pool = self._pool or ThreadPoolExecutor(self.num_workers)
        return self._pool.map(self._decode, indices.tolist())

    def _collect(self, indices: Tensor, decoded: Iterator[Tensor]) -> Tensor:
        images = torch.empty(len(indices), self.channels, self.size, self.size, dtype=torch.uint8)
        for image, pixels in zip(images, decoded, strict=True):
            image.copy_(pixels)
        return images

    def _decode(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            with self.files.open(path) as file, Image.open(file) as image:
                square: Image.Image = image.convert("L" if self.channels == 1 else "RGB")
                if square.size != (self.size, self.size):
                    square = ImageOps.fit(square, (self.size, self.size), Image.Resampling.BILINEAR)
                pixels = np.array(square, dtype=np.uint8)
        except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
            raise DataError(
                f"{str(self.files.root / path)!r} is not an image that Pillow can read: {error}. Remove or replace it."
            ) from error
        return torch.from_numpy(pixels).view(self.size, self.size, self.channels).permute(2, 0, 1)
