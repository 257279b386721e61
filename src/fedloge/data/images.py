"""Lists of images: tensors in memory, or files that are decoded on access."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fedloge.data.cache import PixelCache
from fedloge.data.files import Files
from fedloge.errors import DataError

InMemory = Literal["auto", "always", "never"]
IN_MEMORY_LIMIT = 4 * 2**30
"""Size of the decoded images, in bytes, below which ``auto`` keeps them in memory."""


class Images(Protocol):
    """A list of images of one size."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def gather(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` int64 [n], as uint8 [n, channels, H, W]."""
        ...


def gather_batches(images: Images, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """``gather`` for each batch; files of the next batch are decoded in the background."""
    return images.gather_batches(batches) if isinstance(images, FileImages) else map(images.gather, batches)


class TensorImages:
    """Images in memory.

    Args:
        images: Pixels, uint8 [N, channels, H, W].
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
        files: Folder or archive that holds the files.
        paths: Paths of the images relative to the root of ``files``.
        size: Height and width; other images are scaled by their shorter side and cropped at the centre.
        channels: 1 (grey) or 3 (RGB).
        num_workers: Number of threads.
        shorter_side: Length to scale the shorter side to; None takes ``size``, more leaves a margin that is cut off.
        cache: Cache of decoded images; None decodes at every access.
    """

    def __init__(
        self,
        files: Files,
        paths: Sequence[str],
        size: int,
        channels: int,
        num_workers: int,
        *,
        shorter_side: int | None = None,
        cache: PixelCache | None = None,
    ) -> None:
        self.files, self.paths, self.size, self.channels = files, list(paths), size, channels
        self.num_workers, self.shorter_side, self.cache = num_workers, shorter_side or size, cache
        self._root = files.root.resolve()
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        """State without the thread pool, which cannot be pickled; the copy makes its own."""
        return self.__dict__ | {"_pool": None}

    def gather(self, indices: Tensor) -> Tensor:
        """The images at ``indices``.

        Raises:
            DataError: If a file cannot be decoded; names the file.
        """
        return self._collect(indices, self._start(indices))

    def gather_batches(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """:meth:`gather` for each batch, with the next batch being decoded in the background."""
        started: deque[tuple[Tensor, Iterator[Tensor]]] = deque()
        for indices in batches:
            started.append((indices, self._start(indices)))
            if len(started) > 1:
                yield self._collect(*started.popleft())
        for batch in started:
            yield self._collect(*batch)

    def load(self, in_memory: InMemory) -> Images:
        """Decode all images into memory, or return these files: ``auto`` decodes what takes less than 4 GiB."""
        fits = len(self) * self.channels * self.size**2 < IN_MEMORY_LIMIT
        decode = in_memory == "always" or (in_memory == "auto" and fits)
        return TensorImages(self.gather(torch.arange(len(self)))) if decode else self

    def _start(self, indices: Tensor) -> Iterator[Tensor]:
        self._pool = self._pool or ThreadPoolExecutor(self.num_workers)
        return self._pool.map(self._read, indices.tolist())

    def _collect(self, indices: Tensor, decoded: Iterator[Tensor]) -> Tensor:
        images = torch.empty(len(indices), self.channels, self.size, self.size, dtype=torch.uint8)
        for image, pixels in zip(images, decoded, strict=True):
            image.copy_(pixels)
        return images

    def _read(self, index: int) -> Tensor:
        path = self.paths[index]
        if self.cache is None:
            return self._decode(path)
        name = f"{self._root}/{path} {self.shorter_side} {self.size}"
        return self.cache.get(name, (self.channels, self.size, self.size), lambda: self._decode(path))

    def _decode(self, path: str) -> Tensor:
        side = self.shorter_side
        try:
            with self.files.open(path) as file, Image.open(file) as image:
                square: Image.Image = image.convert("L" if self.channels == 1 else "RGB")
                if square.size != (side, side):
                    square = ImageOps.fit(square, (side, side), Image.Resampling.BILINEAR)
                pixels = np.array(square, dtype=np.uint8)
        except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
            raise DataError(
                f"{str(self.files.root / path)!r} is not an image that Pillow can read: {error}. Remove or replace it."
            ) from error
        margin = (side - self.size) // 2
        whole = torch.from_numpy(pixels).view(side, side, self.channels).permute(2, 0, 1)
        return whole[:, margin : margin + self.size, margin : margin + self.size]
