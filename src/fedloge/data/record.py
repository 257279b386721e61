"""What the labels and images of a run mean: kept in its folder, and compared with the data that it is used with."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloge.data.images import Images, TensorImages, files_of
from fedloge.data.sources.base import Dataset, Source
from fedloge.data.sources.folder import ImageFolder
from fedloge.data.sources.lists import ImageLists
from fedloge.errors import DataError, few

RECORD = "data.json"
"""File of a run folder that holds the record."""

MARK = 8
"""Hexadecimal digits that stand for an image in the record."""

FORM = ("image_size", "stored_size", "channels", "mean", "std")
"""How images are taken."""

SAMPLED = 1000
"""Number of images without files whose pixels are part of the digest."""


@dataclass(frozen=True)
class ImageDigest:
    """What identifies a list of images; paths are not kept.

    Args:
        count: Number of images.
        sha256: Hash of path, class and user of each image in order; of images without files also of pixels.
        marks: Hashes of path and user of the images of each class, ``MARK`` digits each, by label.
        paths: Paths by mark and label, known only where the images are at hand.
    """

    count: int
    sha256: str
    marks: Mapping[str, str]
    paths: Mapping[tuple[str, str], str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, images: Images, labels: Tensor, users: Tensor | None = None) -> ImageDigest:
        """The digest of some images."""
        files = files_of(images)
        names = [""] * len(images) if files is None else files.paths
        owners = [""] * len(images) if users is None else list(map(str, users.tolist()))
        whole = hashlib.sha256()
        marks: dict[str, list[str]] = {}
        paths: dict[tuple[str, str], str] = {}
        for name, label, owner in zip(names, map(str, labels.tolist()), owners, strict=True):
            entry = hashlib.sha256(f"{name}\0{owner}".encode()).hexdigest()
            whole.update(f"{label} {entry}\n".encode())
            marks.setdefault(label, []).append(entry[:MARK])
            paths[label, entry[:MARK]] = name
        if isinstance(images, TensorImages) and files is None:
            sample = images.images[:: max(len(images) // SAMPLED, 1)]
            whole.update(sample.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return cls(len(images), whole.hexdigest(), {label: "".join(own) for label, own in marks.items()}, paths)

    def differences(self, now: ImageDigest, class_names: Sequence[str]) -> Iterator[str]:
        """What differs in another list whose paths are known; nothing if it is the same."""
        if self.sha256 == now.sha256:
            return
        changes = list(self._changes(now, class_names))
        if self.count != now.count:
            yield f"{self.count} images (now {now.count})"
        yield from changes or ["other pixels" if "" in now.paths.values() else "another order of the images"]

    def _changes(self, now: ImageDigest, class_names: Sequence[str]) -> Iterator[str]:
        old, new = (Counter(digest._entries()) for digest in (self, now))
        gone, added = Counter(label for label, _ in (old - new).elements()), list((new - old).elements())
        for label, count in gone.items():
            yield f"{count} of class {class_names[int(label)]!r} are gone"
        if added:
            named = [f"{_quoted(now.paths[entry])} of class {class_names[int(entry[0])]!r}" for entry in added]
            yield f"{len(added)} are new: {few(named)}"

    def _entries(self) -> Iterator[tuple[str, str]]:
        """Label and mark of every image."""
        for label, own in self.marks.items():
            yield from ((label, own[start : start + MARK]) for start in range(0, len(own), MARK))


@dataclass(frozen=True)
class DataRecord:
    """What a run's models need to know of its data, and what identifies these data.

    Args:
        name: Name of the dataset.
        class_names: Names of the C classes, in label order.
        channels: Number of channels of an image.
        image_size: Height and width of the model's input.
        stored_size: Height and width that images are scaled to before the centre is taken; None means ``image_size``.
        mean: Channel means of images scaled to [0, 1].
        std: Channel standard deviations of images scaled to [0, 1].
        fitted: Whether images of any size and mode are made to fit, as those that the run was trained on were.
        images: Digest of each part: ``train``, ``test`` and, if there is one, ``val``.
        left_out: Number of images of each part that could not be read and were left out.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    image_size: int
    stored_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fitted: bool
    images: Mapping[str, ImageDigest] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source, dataset: Dataset | None = None) -> DataRecord:
        """The record of a source, without digests unless its images are given."""
        from_files = isinstance(source, (ImageFolder, ImageLists))
        return cls(
            source.name,
            tuple(map(str, source.class_names)),
            source.channels,
            source.image_size,
            source.stored_size,
            tuple(map(float, source.mean)),
            tuple(map(float, source.std)),
            from_files if dataset is None else files_of(dataset.train) is not None,
            {} if dataset is None else dict(_digests(dataset)),
            {} if dataset is None else dict(dataset.left_out),
        )

    @classmethod
    def load(cls, path: str | Path) -> DataRecord:
        """Read what :meth:`content` wrote.

        Raises:
            DataError: If the file is missing or malformed.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            images = {part: ImageDigest(**digest) for part, digest in content.pop("images").items()}
            content |= {name: tuple(content[name]) for name in ("class_names", "mean", "std")}
            return cls(**content, images=images)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{str(path)!r} is not the record of a run's data: {error!r}.") from error

    def content(self) -> dict[str, Any]:
        """The record as a JSON object."""
        images = {
            part: {"count": digest.count, "sha256": digest.sha256, "marks": digest.marks}
            for part, digest in self.images.items()
        }
        return {**vars(self), "images": images}

    def differences(self, now: DataRecord) -> list[str]:
        """What differs in other data, apart from their name and place; empty if they mean the same."""
        pairs = [(option, getattr(self, option), getattr(now, option)) for option in FORM]
        form = [f"{option}={old!r} (now {new!r})" for option, old, new in pairs if old != new]
        return [*self._other_classes(now), *form] or self.other_images(now)

    def other_images(self, now: DataRecord) -> list[str]:
        """What differs in the classes and images of other data, whatever their size and statistics."""
        found = list(self._other_classes(now))
        for part, digest in self.images.items() if not found else ():
            own = now.images.get(part)
            changes = ["none are there"] if own is None else digest.differences(own, self.class_names)
            found += [f"{part} images: {change}" for change in changes]
        return found

    def same_images(self, other: DataRecord) -> bool:
        """Whether classes and images are the same, however the images are taken."""
        return self.class_names == other.class_names and self.images == other.images

    def _other_classes(self, now: DataRecord) -> Iterator[str]:
        if len(self.class_names) != len(now.class_names):
            yield f"{len(self.class_names)} classes (now {len(now.class_names)})"
        pairs = enumerate(zip(self.class_names, now.class_names, strict=False))
        other = [f"class {c} is {old!r} (now {new!r})" for c, (old, new) in pairs if old != new]
        if other:
            yield few(other)


def _quoted(path: str) -> str:
    return repr(path) if path else "one"


def _digests(dataset: Dataset) -> Iterator[tuple[str, ImageDigest]]:
    yield "train", ImageDigest.of(dataset.train, dataset.train_labels, dataset.train_users)
    yield "test", ImageDigest.of(dataset.test, dataset.test_labels)
    if dataset.val is not None and dataset.val_labels is not None:
        yield "val", ImageDigest.of(dataset.val, dataset.val_labels)
