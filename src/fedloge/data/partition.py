"""Partitions: the training and test images of each client."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from fedloge.checks import check_choice, check_least, check_positive
from fedloge.data.longtail import factor_of_counts
from fedloge.data.splits import (
    Ints,
    count_matrix,
    dirichlet,
    dirichlet_paper,
    hold_out,
    iid,
    local_test_counts,
    local_tests,
    natural,
    owners_of,
    repair,
)
from fedloge.errors import ConfigError, DataError, did_you_mean
from fedloge.system.storage import write_whole

Scheme = Literal["dirichlet", "dirichlet_paper", "iid", "natural"]

SHOWN_NAMES = 10
"""Names of clients that a message lists."""

VALIDATION = 1
"""Random stream of the validation images, apart from that of the split, which therefore stays the same."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Assignment of images to clients; two partitions are the same if their ``sha256`` is.

    Args:
        scheme: Scheme that made the partition.
        seed: Seed of the split.
        alpha: Concentration α of the Dirichlet distribution.
        imbalance_factor: IF that was asked for, max/min; :attr:`measured_factor` is that of the training set.
        train: Per client, indices of the source's training images.
        test: Per client, indices of the source's test images; an index may occur more than once.
        train_counts: Class counts n_{k,c} of the training images, int64 [K, C].
        test_counts: Class counts of the local test sets, int64 [K, C].
        val: Per client, indices of the source's validation images, or of its training images where the source has no
            validation images; empty if no client holds any.
        val_counts: Class counts of the clients' validation images, int64 [K, C]; None without any.
        names: Names of the clients, all different; empty where they have only numbers.
    """

    scheme: str
    seed: int
    alpha: float
    imbalance_factor: float
    train: tuple[Ints, ...]
    test: tuple[Ints, ...]
    train_counts: Ints
    test_counts: Ints
    val: tuple[Ints, ...] = ()
    val_counts: Ints | None = None
    names: tuple[str, ...] = ()

    def name(self, client: int) -> str:
        """Name of a client; ``client 3``, for example, where clients have only numbers."""
        return self.names[client] if self.names else f"client {client}"

    def label(self, client: int) -> str:
        """Name of a client beside the word "client": its number where it has no name."""
        return self.names[client] if self.names else str(client)

    def find(self, name: str) -> int | None:
        """Number of the client that has a name, or of which it is the number; None if there is none."""
        if name in self.names:
            return self.names.index(name)
        return int(name) if name.isdecimal() and int(name) < len(self.train) else None

    def all_words(self, name: str = "") -> str:
        """The clients in a message, for one who asked for a client of another name."""
        if not self.names:
            return f"clients 0 to {len(self.train) - 1}"
        shown = ", ".join(map(repr, self.names[:SHOWN_NAMES]))
        more = f" and {len(self.names) - SHOWN_NAMES} more" if len(self.names) > SHOWN_NAMES else ""
        return f"the clients {shown}{more}.{did_you_mean(name, self.names)}".rstrip(".")

    @property
    def has_alpha(self) -> bool:
        """Whether the scheme uses α."""
        return self.scheme.startswith("dirichlet")

    @property
    def class_counts(self) -> Ints:
        """Class counts N_c of all clients together, int64 [C]."""
        counts: Ints = self.train_counts.sum(0)
        return counts

    @property
    def measured_factor(self) -> float:
        """IF of the training set, max/min over the classes that it has."""
        return factor_of_counts(self.class_counts)

    @property
    def imbalance(self) -> str:
        """The measured IF in words, and the one that was asked for where whole images cannot explain the difference."""
        counts, asked = self.class_counts, self.imbalance_factor
        present = counts[counts > 0]
        if abs(present.max() / asked - present.min()) < 1:
            found, note = asked, "max/min"
        else:
            found, note = self.measured_factor, f"max/min; {asked:g} asked for"
        empty = len(counts) - len(present)
        return f"IF {found:.4g} ({note}{f'; {empty} classes have no images' if empty else ''})"

    @property
    def sha256(self) -> str:
        """Hash of the clients' image indices, independent of scheme and seed."""
        parts = (self.train, self.test, self.val) if self.val else (self.train, self.test)
        content = [[own.tolist() for own in part] for part in parts]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def fits(self, train_labels: Ints, test_labels: Ints, num_classes: int, val_labels: Ints | None = None) -> bool:
        """Whether the class counts of every client agree with these labels."""
        validated = train_labels if val_labels is None else val_labels
        for labels, (part, counts) in zip((train_labels, test_labels, validated), self._parts(), strict=False):
            if counts.shape[1] != num_classes or any(own.max(initial=-1) >= len(labels) for own in part):
                return False
            if not np.array_equal([np.bincount(labels[own], minlength=num_classes) for own in part], counts):
                return False
        return True

    def with_validation(self, labels: Ints, fraction: float, groups: Ints | None = None) -> Partition:
        """The partition with a share of each client's training images held out for validation, by class.

        The test sets stay the same. Every class of a client keeps at least one training image.

        Args:
            labels: Class of each training image of the source, int64 [n].
            fraction: Share in (0, 1).
            groups: Group of each training image of the source, int64 [n]; groups are held out as a whole.
        """
        rng = np.random.default_rng([self.seed, VALIDATION])
        held = [hold_out(labels[own], fraction, rng, None if groups is None else groups[own]) for own in self.train]
        val = tuple(own[mask] for own, mask in zip(self.train, held, strict=True))
        counts = self._counts(val, labels)
        train = tuple(own[~mask] for own, mask in zip(self.train, held, strict=True))
        return replace(self, train=train, train_counts=self.train_counts - counts, val=val, val_counts=counts)

    def with_drawn_validation(self, labels: Ints) -> Partition:
        """The partition with validation images for each client, drawn from a common set as the test images are.

        Args:
            labels: Class of each validation image of the source, int64 [n_val].
        """
        counts = local_test_counts(self.train_counts, labels)
        val = local_tests(counts, labels, np.random.default_rng([self.seed, VALIDATION]))
        return replace(self, val=val, val_counts=counts)

    def with_own_validation(self, labels: Ints, owners: Ints) -> Partition:
        """The partition with the validation images that belong to each client.

        Args:
            labels: Class of each validation image of the source, int64 [n_val].
            owners: Client of each, int64 [n_val], -1 for none.
        """
        val = tuple(np.flatnonzero(owners == k) for k in range(len(self.train)))
        return replace(self, val=val, val_counts=self._counts(val, labels))

    def _counts(self, part: tuple[Ints, ...], labels: Ints) -> Ints:
        num_classes = self.train_counts.shape[1]
        return np.stack([np.bincount(labels[own], minlength=num_classes) for own in part])

    def save(self, path: str | Path) -> None:
        """Write the partition as JSON."""
        keys = ["train", "test", "train_counts", "test_counts"] + (["val", "val_counts"] if self.val else [])
        rows = zip(*(getattr(self, key) for key in keys), strict=True)
        content: dict[str, Any] = {
            "scheme": self.scheme,
            "seed": self.seed,
            "IF": self.measured_factor,
            "IF_asked": self.imbalance_factor,
            "alpha": self.alpha,
            "K": len(self.train),
            "sha256": self.sha256,
            "clients": [dict(zip(keys, (part.tolist() for part in row), strict=True)) for row in rows],
        }
        for client, name in zip(content["clients"], self.names, strict=False):
            client["name"] = name
        write_whole(path, json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Partition:
        """Read a partition that :meth:`save` wrote.

        Raises:
            DataError: If the file is missing or malformed, or its indices do not match its hash or are no valid split.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            partition, sha256 = cls._parse(content), str(content["sha256"])
        except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise DataError(f"data.partition_file={str(path)!r} is not a partition: {error!r}.") from error
        if partition.sha256 != sha256:
            raise DataError(f"data.partition_file={str(path)!r} was changed: its indices do not match its sha256.")
        problem = "K is not the number of its clients" if content["K"] != len(partition.train) else partition._problem()
        if problem:
            raise DataError(f"data.partition_file={str(path)!r} is not a partition: {problem}.")
        return partition

    @classmethod
    def _parse(cls, content: Any) -> Partition:
        validated = "val" in content["clients"][0]

        def column(key: str) -> tuple[Ints, ...]:
            return tuple(np.array(client[key], dtype=np.int64).reshape(-1) for client in content["clients"])

        return cls(
            scheme=str(content["scheme"]),
            seed=int(content["seed"]),
            alpha=float(content["alpha"]),
            imbalance_factor=float(content.get("IF_asked", content["IF"])),  # older files have the latter alone
            train=column("train"),
            test=column("test"),
            train_counts=np.stack(column("train_counts")),
            test_counts=np.stack(column("test_counts")),
            val=column("val") if validated else (),
            val_counts=np.stack(column("val_counts")) if validated else None,
            names=tuple(str(client["name"]) for client in content["clients"] if "name" in client),
        )

    def _parts(self) -> list[tuple[tuple[Ints, ...], Ints]]:
        """Images and class counts of training, test and, if any client holds some, validation."""
        parts = [(self.train, self.train_counts), (self.test, self.test_counts)]
        return parts if self.val_counts is None else [*parts, (self.val, self.val_counts)]

    def _problem(self) -> str | None:
        owned = np.concatenate(self.train)
        if min(own.min(initial=0) for own in (*self.train, *self.test, *self.val)) < 0:
            return "an index is negative"
        if len(np.unique(owned)) < len(owned):
            return "a training image occurs twice"
        if self.names and (len(self.names) < len(self.train) or len(set(self.names)) < len(self.names)):
            return "the names of the clients are not one for each, and different"
        for part, counts in self._parts():
            if [len(own) for own in part] != counts.sum(1).tolist():
                return "the class counts of a client do not add up to its images"
        return None


def check_split(scheme: str, num_clients: int | None, alpha: float, min_samples: int) -> None:
    """Check the options of a split that do not depend on the data.

    Raises:
        ConfigError: If an option is out of range.
    """
    check_choice("data.scheme", scheme, get_args(Scheme))
    if num_clients is None and scheme != "natural":
        raise ConfigError("data.num_clients", None, f"needs a number with scheme {scheme}", "For example 20.")
    check_least("data.num_clients", num_clients, 1)
    check_least("data.min_samples", min_samples, 1)
    check_positive("data.alpha", alpha, "The paper has 0.5 and 1.")


def make_partition(
    train_labels: Ints,
    selected: Ints,
    test_labels: Ints,
    num_classes: int,
    *,
    scheme: Scheme,
    num_clients: int | None,
    alpha: float,
    imbalance_factor: float,
    min_samples: int,
    seed: int,
    users: Ints | None = None,
    test_users: Ints | None = None,
) -> Partition:
    """Split the selected training images over clients and draw a local test set for each client.

    With scheme ``natural`` and known users of the test images, a client's test set is that of its users instead.

    Args:
        train_labels: Class of each training image of the source, int64 [n].
        selected: Indices of the training images that form the long-tailed dataset.
        test_labels: Class of each test image of the source, int64 [n_test].
        num_classes: C.
        scheme: ``dirichlet``, ``dirichlet_paper``, ``iid`` or ``natural``.
        num_clients: K; None, with scheme ``natural``, makes every user a client.
        alpha: Concentration α; small values give clients few classes.
        imbalance_factor: IF that was asked for, to record in the result.
        min_samples: Fewest images per client (not with ``dirichlet_paper`` or ``natural``).
        seed: Seed of the split and the local test sets.
        users: User of each training image of the source, int64 [n]; required by ``natural``.
        test_users: User of each test image of the source, int64 [n_test], -1 for none; used by ``natural`` alone.

    Raises:
        ConfigError: If an argument is out of range, there are too few images or users for K clients, or a client would
            have no images.
    """
    check_split(scheme, num_clients, alpha, min_samples)
    labels = train_labels[selected]
    if num_clients is None:
        num_clients = len(np.unique(_users(users, selected, 1)))
    if scheme != "natural":
        _check_enough(len(labels), num_clients, min_samples)
    rng = np.random.default_rng(seed)
    if scheme == "dirichlet_paper":
        owners = dirichlet_paper(labels, num_classes, num_clients, alpha, seed)
    elif scheme == "dirichlet":
        owners = repair(dirichlet(labels, num_classes, num_clients, alpha, rng), labels, num_clients, min_samples, rng)
    elif scheme == "natural":
        owners = natural(_users(users, selected, num_clients), num_clients, rng)
    else:
        owners = iid(labels, num_clients, rng)
    counts = count_matrix(owners, labels, num_clients, num_classes)
    _check_nobody_empty(counts, scheme)
    train = tuple(selected[owners == k] for k in range(num_clients))
    if scheme == "natural" and users is not None and test_users is not None:
        homes = owners_of(test_users, train, users)
        test = tuple(np.flatnonzero(homes == k) for k in range(num_clients))
        tested = count_matrix(homes[homes >= 0], test_labels[homes >= 0], num_clients, num_classes)
    else:
        tested = local_test_counts(counts, test_labels)
        test = local_tests(tested, test_labels, rng)
    return Partition(scheme, seed, alpha, imbalance_factor, train, test, counts, tested)


def _check_enough(images: int, num_clients: int, min_samples: int) -> None:
    if num_clients * min_samples > images:
        problem = f"is too many for {images} training images with min_samples={min_samples}"
        remedy = "Choose fewer clients, a smaller imbalance factor or smaller min_samples."
        raise ConfigError("data.num_clients", num_clients, problem, remedy)


def _users(users: Ints | None, selected: Ints, num_clients: int) -> Ints:
    if users is None:
        problem = "needs the user of each image, which this source does not know"
        remedy = "Choose scheme dirichlet, or a source of lists with users."
        raise ConfigError("data.scheme", "natural", problem, remedy)
    own = users[selected]
    if num_clients > len(np.unique(own)):
        problem = f"is more than the {len(np.unique(own))} users of the images"
        raise ConfigError("data.num_clients", num_clients, problem, "Choose fewer clients.")
    return own


def _check_nobody_empty(counts: Ints, scheme: str) -> None:
    sizes = counts.sum(1)
    if not sizes.all():
        problem = f"left client {int(np.argmin(sizes))} without training images"
        raise ConfigError("data.scheme", scheme, problem, "Choose scheme dirichlet, fewer clients or a larger alpha.")
