"""Lists of images: tensors in memory, or files that are decoded on access."""

from __future__ import annotations

import copy
import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fedloge.data.cache import PixelCache
from fedloge.data.decode import ModeError, check_header, decode
from fedloge.data.files import Facts, Files
from fedloge.errors import DataError, few

InMemory = Literal["auto", "always", "never"]
OnUnreadable = Literal["refuse", "skip"]
Found = TypeVar("Found")

log = logging.getLogger(__name__)

IN_MEMORY_LIMIT = 4 * 2**30
"""Size of the decoded images, in bytes, below which ``auto`` keeps them in memory."""

PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
"""Errors that say nothing about the file: the next attempt may succeed."""

SKIP = "Remove or replace them, or leave them out by --data.source.init_args.on_unreadable=skip."

CHUNK = 256
"""Files that a thread looks at in one go."""


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
        files: Files that they were decoded from; None if there are none.
    """

    def __init__(self, images: Tensor, files: FileImages | None = None) -> None:
        self.images, self.files = images, files

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
        self._facts: list[Facts | None] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        """State without the thread pool, which cannot be pickled, and facts, which only the original needs."""
        return self.__dict__ | {"_pool": None, "_facts": None}

    def gather(self, indices: Tensor) -> Tensor:
        """The images at ``indices``.

        Raises:
            DataError: If files cannot be decoded; names the first five.
        """
        return next(self.gather_batches([indices]))

    def gather_batches(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """:meth:`gather` for each batch, with the next batch being decoded in the background.

        Raises:
            DataError: If files cannot be decoded; it counts those of this and of all later batches.
        """
        started: deque[tuple[Tensor, Iterator[Tensor | str]]] = deque()
        problems: list[str] = []
        seen = 0
        for indices in chain(batches, (None,)):
            if indices is not None:
                started.append((indices, self._map(self._read, indices)))
            if started and (indices is None or len(started) > 1):
                pixels, failed = self._collect(*started.popleft())
                problems += failed.values()
                seen += len(pixels)
                if not problems:
                    yield pixels
        refuse(problems, seen)

    def decode_all(self) -> tuple[Tensor, dict[int, str]]:
        """All images [n, channels, H, W], and by their positions the reasons why some could not be decoded."""
        everything = torch.arange(len(self))
        return self._collect(everything, self._map(self._read, everything))

    def check(self) -> dict[int, str]:
        """Reasons, by position, why images cannot be decoded, as far as their headers tell; cached ones are good."""
        found = self._map(self._check, torch.arange(len(self)))
        return {position: problem for position, problem in enumerate(found) if problem is not None}

    def facts(self) -> list[Facts | None]:
        """What is known of each file when this is called first; None for one that does not exist."""
        if self._facts is None:
            self._facts = self.look()
        return self._facts

    def look(self) -> list[Facts | None]:
        """What is known of each file now."""
        self.files.refresh()
        chunks = (self.paths[start : start + CHUNK] for start in range(0, len(self), CHUNK))
        self._pool = self._pool or ThreadPoolExecutor(self.num_workers)
        return list(chain.from_iterable(self._pool.map(lambda chunk: list(map(self._look, chunk)), chunks)))

    def chosen(self, positions: Sequence[int]) -> FileImages:
        """The images at some positions."""
        paths = [self.paths[position] for position in positions]
        result = copy.copy(self)
        result.paths = paths
        result._facts = None if self._facts is None else [self._facts[position] for position in positions]
        return result

    def in_memory(self, wish: InMemory) -> bool:
        """Whether the images are decoded into memory: ``auto`` decodes what takes less than 4 GiB."""
        fits = len(self) * self.channels * self.size**2 < IN_MEMORY_LIMIT
        return wish == "always" or (wish == "auto" and fits)

    def unreadable(self) -> dict[int, str]:
        """Reasons, by position, why images cannot be decoded; every image is decoded and dropped."""
        found = self._map(self._read, torch.arange(len(self)))
        return {position: problem for position, problem in enumerate(found) if isinstance(problem, str)}

    def _map(self, function: Callable[[int], Found], indices: Tensor) -> Iterator[Found]:
        self._pool = self._pool or ThreadPoolExecutor(self.num_workers)
        return self._pool.map(function, indices.tolist())

    def _collect(self, indices: Tensor, decoded: Iterator[Tensor | str]) -> tuple[Tensor, dict[int, str]]:
        images = torch.empty(len(indices), self.channels, self.size, self.size, dtype=torch.uint8)
        problems: dict[int, str] = {}
        for position, pixels in enumerate(decoded):
            if isinstance(pixels, str):
                problems[position] = pixels
            else:
                images[position].copy_(pixels)
        return images, problems

    def _read(self, index: int) -> Tensor | str:
        return self._attempt(self.paths[index], self._pixels)

    def _check(self, index: int) -> str | None:
        return self._attempt(self.paths[index], self._header)

    def _attempt(self, path: str, use: Callable[[str, Facts], Found]) -> Found | str:
        """What ``use`` returns, or why the file cannot be used."""
        name = repr(str(self.files.root / path))
        try:
            facts = self.files.facts(path)
            if not facts.regular or facts.size == 0:
                return f"{name} is {'empty' if facts.regular else 'not a file'}"
            return use(path, facts)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise almost any type on a damaged file
            if isinstance(error, OSError) and error.errno in PASSING:
                raise DataError(f"{name} cannot be read at the moment: {error.strerror}.") from error
            return f"{name} {_reason(error, os.path.islink(self.files.root / path))}"

    def _look(self, path: str) -> Facts | None:
        try:
            return self.files.facts(path)
        except OSError:
            return None

    def _pixels(self, path: str, facts: Facts) -> Tensor:
        if self.cache is None:
            return self._decode(path)
        return self.cache.get(self._cached(path, facts), self._shape, lambda: self._decode(path))

    def _header(self, path: str, facts: Facts) -> None:
        if self.cache is None or not self.cache.has(self._cached(path, facts), self._shape):
            with self.files.open(path) as file:
                check_header(file)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def _cached(self, path: str, facts: Facts) -> str:
        """Name of an image in the cache; a file that was changed has another."""
        return f"{self._root}/{path} {facts.size} {facts.version} {self.shorter_side} {self.size}"

    def _decode(self, path: str) -> Tensor:
        side = self.shorter_side
        with self.files.open(path) as file:
            square: Image.Image = decode(file, self.channels)
        if square.size != (side, side):
            square = ImageOps.fit(square, (side, side), Image.Resampling.BILINEAR)
        pixels = np.array(square, dtype=np.uint8)
        margin = (side - self.size) // 2
        whole = torch.from_numpy(pixels).view(side, side, self.channels).permute(2, 0, 1)
        return whole[:, margin : margin + self.size, margin : margin + self.size]


@dataclass(frozen=True)
class Part:
    """A part of a dataset, as loaded.

    Args:
        images: The images that can be read.
        kept: Their positions in the list that was asked for, int64 [n].
        left_out: Number of images that cannot be read.
    """

    images: Images
    kept: Tensor
    left_out: int


def load_parts(
    parts: Mapping[str, FileImages], in_memory: InMemory = "auto", on_unreadable: OnUnreadable = "refuse"
) -> dict[str, Part]:
    """Decode the parts of a dataset into memory, or check their files where they are decoded on access.

    Args:
        parts: Images of each part, ``train`` and ``test`` for example, all of the same root.
        in_memory: Decode all images once (``always``) or on access (``never``); ``auto`` decides by size (4 GiB).
        on_unreadable: ``refuse``, or ``skip`` what cannot be read, for which every image is decoded once.

    Raises:
        DataError: If images cannot be read or are the same file as another; counts them and names the first five.
    """
    loaded = {name: _load(files, in_memory, on_unreadable) for name, files in parts.items()}
    problems = [problem for _, found in loaded.values() for problem in found.values()]
    if on_unreadable == "refuse":
        refuse(problems, sum(map(len, parts.values())), SKIP)
    elif problems:
        log.warning("%d image(s) cannot be read and are left out: %s", len(problems), few(problems, "; "))
    result = {name: _readable(images, problems) for name, (images, problems) in loaded.items()}
    check_distinct([files for part in result.values() if (files := files_of(part.images)) is not None])
    return result


def _load(files: FileImages, in_memory: InMemory, on_unreadable: OnUnreadable) -> tuple[Images, dict[int, str]]:
    """Images, decoded or not, and by position why some cannot be read."""
    files.facts()  # before the files are read, so that a later change is noticed
    if files.in_memory(in_memory):
        pixels, problems = files.decode_all()
        return TensorImages(pixels, files), problems
    return files, files.unreadable() if on_unreadable == "skip" else files.check()


def _readable(images: Images, problems: Mapping[int, str]) -> Part:
    kept = torch.tensor([i for i in range(len(images)) if i not in problems], dtype=torch.int64)
    if not problems:
        return Part(images, kept, 0)
    files = files_of(images)
    assert files is not None
    chosen = files.chosen(kept.tolist())
    left = TensorImages(images.images[kept], chosen) if isinstance(images, TensorImages) else chosen
    return Part(left, kept, len(problems))


def refuse(problems: Sequence[str], total: int, remedy: str = "Remove or replace them.") -> None:
    """Refuse images that cannot be read, if there are any.

    Raises:
        DataError: If there are problems; counts them and names the first five.
    """
    if problems:
        counted = "" if len(problems) == total == 1 else f"{len(problems)} of {total} images cannot be read: "
        raise DataError(f"{counted}{few(problems, '; ')}. {remedy}")


def check_distinct(parts: Sequence[FileImages]) -> None:
    """Require that no two images are the same file, be it by a link or by another spelling of the path.

    Raises:
        DataError: If some are; counts them and names the first five.
    """
    first: dict[Hashable, str] = {}
    twice = []
    for part in parts:
        for path, facts in zip(part.paths, part.facts(), strict=True):
            key = facts or path
            if key in first:
                twice.append(f"{path!r} is {first[key]!r}")
            else:
                first[key] = path
    if twice:
        root = str(parts[0].files.root)
        raise DataError(f"{len(twice)} image(s) of {root!r} are the same file as another: {few(twice)}. Keep one.")


def files_of(images: Images) -> FileImages | None:
    """The files that images are decoded from; None if there are none."""
    if isinstance(images, TensorImages):
        return images.files
    return images if isinstance(images, FileImages) else None


def outdated(images: Images) -> bool:
    """Whether files were changed, replaced or removed since their images were loaded."""
    files = files_of(images)
    return files is not None and files.look() != files.facts()


def _reason(error: Exception, link: bool) -> str:
    if isinstance(error, ModeError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        broken = link and not isinstance(error, PermissionError)
        return "is a link without a target" if broken else f"cannot be opened: {error.strerror}"
    known = not isinstance(error, UnidentifiedImageError)
    reason = " ".join(str(error).split()) or type(error).__name__ if known else "its format is unknown"
    return f"is not an image that Pillow can read: {reason}"
