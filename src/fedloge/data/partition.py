"""How the training images are split over clients, and which test images are a client's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedloge.errors import ConfigError, DataError

Scheme = Literal["dirichlet", "dirichlet_paper", "iid"]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """Which images belong to which client.

    Args:
        scheme: How it was made.
        seed: Of the split.
        alpha: Concentration of the Dirichlet distribution.
        imbalance_factor: IF of the training set, max/min.
        train: Per client, indices into the source's training images.
        test: Per client, indices into the source's test images; one index may occur more than once.
        train_counts: n_{k,c}, int64 [K, C].
        test_counts: Likewise of the local test sets.
    """

    scheme: str
    seed: int
    alpha: float
    imbalance_factor: float
    train: tuple[Ints, ...]
    test: tuple[Ints, ...]
    train_counts: Ints
    test_counts: Ints

    @property
    def sha256(self) -> str:
        """Hash of who holds which images, independent of how the split came about."""
        content = [[own.tolist() for own in part] for part in (self.train, self.test)]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        rows = zip(self.train, self.test, self.train_counts, self.test_counts, strict=True)
        keys = ("train", "test", "train_counts", "test_counts")
        content = {
            "scheme": self.scheme,
            "seed": self.seed,
            "IF": self.imbalance_factor,
            "alpha": self.alpha,
            "K": len(self.train),
            "sha256": self.sha256,
            "clients": [dict(zip(keys, (part.tolist() for part in row), strict=True)) for row in rows],
        }
        Path(path).write_text(json.dumps(content) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Partition:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: If the file is missing, malformed, or its indices do not match its hash.
        """
        try:
            partition, sha256 = cls._parse(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"data.partition_file={str(path)!r} is not a partition: {error!r}.") from error
        if partition.sha256 != sha256:
            raise DataError(f"data.partition_file={str(path)!r} was changed: its indices do not match its sha256.")
        return partition

    @classmethod
    def _parse(cls, content: Any) -> tuple[Partition, str]:
        def column(key: str) -> tuple[Ints, ...]:
            return tuple(np.array(client[key], dtype=np.int64) for client in content["clients"])

        counts = [np.stack(column(key)) for key in ("train_counts", "test_counts")]
        numbers = (int(content["seed"]), float(content["alpha"]), float(content["IF"]))
        return cls(str(content["scheme"]), *numbers, column("train"), column("test"), *counts), str(content["sha256"])


def make_partition(
    train_labels: Ints,
    kept: Ints,
    test_labels: Ints,
    num_classes: int,
    *,
    scheme: Scheme,
    num_clients: int,
    alpha: float,
    imbalance_factor: float,
    min_samples: int,
    seed: int,
) -> Partition:
    """Split the kept training images over clients and give each client its local test set.

    Args:
        train_labels: Class of every training image of the source.
        kept: Indices of those that the long tail keeps.
        test_labels: Class of every test image.
        num_classes: C.
        scheme: ``dirichlet``, ``dirichlet_paper`` or ``iid``.
        num_clients: K.
        alpha: Concentration; small values give clients few classes.
        imbalance_factor: Recorded in the result.
        min_samples: Images that every client gets at least (not with ``dirichlet_paper``).
        seed: Of split and local test sets.

    Raises:
        ConfigError: If there are too few images for so many clients, or a client ends up with none.
    """
    labels = train_labels[kept]
    if num_clients * max(min_samples, 1) > len(labels):
        raise ConfigError(
            "data.num_clients",
            num_clients,
            f"is too many for {len(labels)} training images with min_samples={min_samples}",
            "Take fewer clients, a smaller imbalance factor or smaller min_samples.",
        )
    rng = np.random.default_rng(seed)
    if scheme == "dirichlet_paper":
        owners = dirichlet_paper(labels, num_classes, num_clients, alpha, seed)
    elif scheme == "dirichlet":
        owners = repair(dirichlet(labels, num_classes, num_clients, alpha, rng), labels, num_clients, min_samples, rng)
    else:
        owners = rng.permutation(np.arange(len(labels)) % num_clients)
    counts = count_matrix(owners, labels, num_clients, num_classes)
    if not counts.sum(1).all():
        raise ConfigError(
            "data.scheme",
            scheme,
            f"left client {int(np.argmin(counts.sum(1)))} without training images",
            "Take scheme dirichlet, fewer clients or a larger alpha.",
        )
    wanted = len(test_labels) * counts // len(labels)
    return Partition(
        scheme=scheme,
        seed=seed,
        alpha=alpha,
        imbalance_factor=imbalance_factor,
        train=tuple(kept[owners == k] for k in range(num_clients)),
        test=local_tests(wanted, test_labels, rng),
        train_counts=counts,
        test_counts=wanted,
    )


def dirichlet(labels: Ints, num_classes: int, num_clients: int, alpha: float, rng: np.random.Generator) -> Ints:
    """Owner of every image: per class, client shares p ~ Dirichlet(α) and each image to client k with p_k."""
    owners = np.zeros(len(labels), dtype=np.int64)
    for c in range(num_classes):
        members = np.flatnonzero(labels == c)
        shares = rng.dirichlet(np.full(num_clients, alpha))
        if not np.isfinite(shares).all() or not shares.sum() > 0:  # α so small that every share underflows
            shares = np.eye(num_clients)[rng.integers(num_clients)]
        owners[members] = rng.choice(num_clients, len(members), p=shares / shares.sum())
    return owners


def dirichlet_paper(labels: Ints, num_classes: int, num_clients: int, alpha: float, seed: int) -> Ints:
    """Owner of every image by the recipe of the published splits, whose legacy generator it needs.

    The binomial draw that nothing uses is part of the recipe: it moves the generator on.
    """
    rng = np.random.RandomState(seed)
    rng.binomial(1, 1, (num_clients, num_classes))
    owners = np.zeros(len(labels), dtype=np.int64)
    for c in range(num_classes):
        members = np.flatnonzero(labels == c)
        shares = rng.dirichlet(np.full(num_clients, alpha))
        owners[members] = rng.choice(num_clients, len(members), p=shares)
    return owners


def repair(owners: Ints, labels: Ints, num_clients: int, min_samples: int, rng: np.random.Generator) -> Ints:
    """Give every client at least ``min_samples`` images, each taken from whoever is largest then.

    The giver loses an image of the class it has most of. Every step adds one missing image, so it ends.
    """
    owners = owners.copy()
    sizes = np.bincount(owners, minlength=num_clients)
    for poor in np.flatnonzero(sizes < min_samples):
        while sizes[poor] < min_samples:
            rich = int(np.argmax(sizes))
            own = np.flatnonzero(owners == rich)
            commonest = np.bincount(labels[own]).argmax()
            owners[rng.choice(own[labels[own] == commonest])] = poor
            sizes[poor] += 1
            sizes[rich] -= 1
    return owners


def count_matrix(owners: Ints, labels: Ints, num_clients: int, num_classes: int) -> Ints:
    """n_{k,c}, int64 [K, C]."""
    cells = np.bincount(owners * num_classes + labels, minlength=num_clients * num_classes)
    return cells.reshape(num_clients, num_classes).astype(np.int64)


def local_tests(wanted: Ints, test_labels: Ints, rng: np.random.Generator) -> tuple[Ints, ...]:
    """Draw every client's test images from the global test set, independently of the other clients.

    A client that asks for more images of a class than there are gets each of them as often as it fits and draws the
    rest, so that its test distribution keeps the shape of its training distribution.

    Args:
        wanted: Test images per client and class, ⌊n_test · n_{k,c} / N⌋, int64 [K, C].
        test_labels: Class of every test image.
        rng: Generator.

    Returns:
        Per client, indices of test images.
    """
    members = [np.flatnonzero(test_labels == c) for c in range(wanted.shape[1])]
    return tuple(_draw(row, members, rng) for row in wanted)


def _draw(row: Ints, members: Sequence[Ints], rng: np.random.Generator) -> Ints:
    parts = [np.zeros(0, dtype=np.int64)]
    for count, own in zip(row.tolist(), members, strict=True):
        passes, rest = divmod(count, len(own))
        parts += [own] * passes + [np.sort(rng.choice(own, rest, replace=False))]
    return np.concatenate(parts)
