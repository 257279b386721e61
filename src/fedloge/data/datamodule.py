"""A long-tailed dataset, split over K clients, as a LightningDataModule."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from fedloge.checks import check_choice, check_least, check_not_negative
from fedloge.data.augment import Augment
from fedloge.data.embedding import embed_dataset
from fedloge.data.images import Images
from fedloge.data.loader import Batch, BatchLoader, BatchSettings, RandomStreams, SequentialLoader
from fedloge.data.longtail import Profile, long_tail, max_over_min, observed_factor
from fedloge.data.partition import Partition, Scheme, check_split, make_partition
from fedloge.data.sources.base import Dataset, Source
from fedloge.data.splits import Ints, owners_of
from fedloge.errors import ConfigError, DataError
from fedloge.federation.seeding import SERVER, Stream, generator
from fedloge.models.base import Backbone

NAMED_USERS = 3
"""Users whose names make the name of a client that has many."""

PAPER_SHUFFLE_SEED = 0
"""Seed of the shuffle that selects the images of the published long-tailed datasets."""


class FederatedDataModule(LightningDataModule):
    """Makes a dataset long-tailed, splits it over clients, and provides each client's batches and test set.

    Args:
        source: Source of the images.
        num_clients: Number of clients K; None, with ``natural``, makes every user a client.
        alpha: Concentration α of the Dirichlet split; small values give clients few classes.
        imbalance_factor: IF of the long tail, as max/min (100) or min/max (0.01). None keeps the classes as they are,
            for a dataset that is long-tailed by nature; the observed factor is recorded.
        profile: Shape of the tail, ``exponential`` or ``step``.
        scheme: ``dirichlet``, ``dirichlet_paper`` (exactly the published splits), ``iid``, or ``natural``: client k is
            the source's k-th user, with its name and its own test images where the source knows them. Fewer clients get
            users at random, in numbers that differ by at most one.
        min_samples: Fewest training images per client (not with ``dirichlet_paper`` or ``natural``).
        batch_size: Batch size of local training; the last, shorter batch of an epoch is kept.
        augment: Augmentation of training images: ``none``, ``crop`` or ``crop_flip`` (padding 4), or
            ``resized_crop_flip``, which scales a random 8 % to 100 % of the image to its size (usual for ImageNet).
        seed: Seed of the split, independent of the run seed.
        auxiliary: Training images per class that the server holds (fewer if a class has fewer), for methods that need
            such a set; privileged knowledge, 0 by default.
        partition_file: Saved split to use instead of making one.
        eval_batch_size: Batch size of testing.
        val_fraction: Share of each client's training images that is held out for validation, by class; 0 holds out
            none. The test sets stay the same. A source with validation images of its own needs no share.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        source: Source,
        num_clients: int | None = 40,
        alpha: float = 0.5,
        imbalance_factor: float | None = 100.0,
        profile: Profile = "exponential",
        scheme: Scheme = "dirichlet",
        min_samples: int = 2,
        batch_size: int = 8,
        augment: Augment = "none",
        seed: int = 3407,
        auxiliary: int = 0,
        partition_file: str | None = None,
        eval_batch_size: int = 100,
        val_fraction: float = 0.0,
    ) -> None:
        super().__init__()
        check_split(scheme, num_clients, alpha, min_samples)
        check_choice("data.profile", profile, get_args(Profile))
        check_choice("data.augment", augment, get_args(Augment))
        check_least("data.batch_size", batch_size, 1)
        check_least("data.eval_batch_size", eval_batch_size, 1)
        check_not_negative("data.auxiliary", auxiliary, "0 gives the server no images.")
        if not 0 <= seed < 2**32:
            raise ConfigError("data.seed", seed, "must lie in [0, 2**32)", "The published splits have 3407.")
        if not 0 <= val_fraction < 1:
            raise ConfigError("data.val_fraction", val_fraction, "must lie in [0, 1)", "For example 0.1.")
        self.source, self.asked_clients, self.alpha = source, num_clients, alpha
        self.imbalance_factor = None if imbalance_factor is None else max_over_min(imbalance_factor)
        self.profile, self.scheme, self.min_samples = profile, scheme, min_samples
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augment, self.seed, self.auxiliary, self.partition_file = augment, seed, auxiliary, partition_file
        self.val_fraction = val_fraction
        self._dataset: Dataset | None = None
        self._partition: Partition | None = None

    # Lightning's hooks -------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Download the dataset, if the source is configured to."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them; a second call does nothing."""
        if self._partition is None:
            self._dataset = self._load()
            split = self._load_partition() if self.partition_file else self._make_partition()
            self._partition = self._with_names(self._with_validation(split))

    def train_dataloader(self) -> BatchLoader:
        """The pooled long-tailed training set, for centralised training."""
        pooled = torch.from_numpy(np.concatenate(self.partition.train))
        return self._loader(pooled, RandomStreams(self.seed, round=0, client=self.num_clients))

    def test_dataloader(self) -> SequentialLoader:
        """The global test set."""
        return self._test_loader(torch.arange(len(self.test_labels)))

    # Interface of the federated loop -------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """C."""
        return self.source.num_classes

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the C classes, in label order."""
        return self.source.class_names

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return self.source.channels

    @property
    def image_size(self) -> int:
        """Height and width of an image."""
        return self.source.image_size

    @property
    def num_clients(self) -> int:
        """K; where every user is a client, known after :meth:`setup` or from the file of the partition."""
        if self.asked_clients is not None:
            return self.asked_clients
        known = self._partition is None and self.partition_file
        return len((Partition.load(known) if known else self.partition).train)

    @property
    def dataset(self) -> Dataset:
        """The images before they are made long-tailed; available after :meth:`setup`."""
        if self._dataset is None:
            raise RuntimeError("the data are not loaded: call setup() first")
        return self._dataset

    @property
    def partition(self) -> Partition:
        """The split; available after :meth:`setup`."""
        if self._partition is None:
            raise RuntimeError("the data are not split: call setup() first")
        return self._partition

    @property
    def class_counts(self) -> Sequence[int]:
        """Class counts N_c of the long-tailed training set, length C."""
        counts: list[int] = self.partition.train_counts.sum(0).tolist()
        return counts

    @property
    def fingerprint(self) -> str:
        """Hash of the split; with equal hashes, clients train and test on the same images."""
        return self.partition.sha256

    @property
    def test_labels(self) -> Tensor:
        """Labels of the global test set, int64 [n_test]."""
        return self.dataset.test_labels

    def public_test_indices(self) -> Tensor | None:
        """Indices of the test images that belong to no client, for the generic model; None where it takes all.

        Only with scheme ``natural`` and known users of the test images.
        """
        users = self.dataset.test_users
        if self.scheme != "natural" or users is None or not bool((users < 0).any()):
            return None
        return (users < 0).nonzero().flatten()

    def validation(self) -> Validation | None:
        """The clients' validation images; None if no client has any."""
        partition, dataset = self.partition, self.dataset
        if not sum(map(len, partition.val)):
            return None
        if dataset.val is not None and dataset.val_labels is not None:
            return Validation(self, dataset.val, dataset.val_labels, np.arange(len(dataset.val_labels)))
        return Validation(self, dataset.train, dataset.train_labels, np.unique(np.concatenate(partition.val)))

    def client_counts(self, client: int) -> Sequence[int]:
        """Class counts n_{k,c} of a client's training images, length C."""
        counts: list[int] = self.partition.train_counts[client].tolist()
        return counts

    def client_test_indices(self, client: int) -> Tensor:
        """Indices of a client's test images in the global test set, int64."""
        return torch.from_numpy(self.partition.test[client])

    def client_loader(
        self, client: int, *, seed: int, round: int, phase: int = 0, device: torch.device | None = None
    ) -> BatchLoader:
        """A client's training batches in a round; each iteration is the next local epoch.

        Args:
            client: Client id k.
            seed: Run seed.
            round: Round number.
            phase: Index of the phase of local training.
            device: Device of augmentation and batches; images are copied there as uint8, a quarter of the bytes.
        """
        indices = torch.from_numpy(self.partition.train[client])
        return self._loader(indices, RandomStreams(seed, round, client, phase), device)

    def client_batches(self, client: int, device: torch.device | None = None) -> SequentialLoader:
        """A client's training images in order, without augmentation."""
        return self._plain_loader(torch.from_numpy(self.partition.train[client]), device)

    def auxiliary_set(self) -> Batch:
        """Training images that the server holds, min(``auxiliary``, N_c) of class c, without augmentation.

        Clients keep these images too. The selection depends on ``seed`` alone.

        Raises:
            ConfigError: If ``auxiliary`` is 0.
        """
        if self.auxiliary == 0:
            problem = "but this method needs a balanced set of images on the server"
            raise ConfigError("data.auxiliary", 0, problem, "Set --data.auxiliary=32 (privileged knowledge).")
        pooled = torch.from_numpy(np.sort(np.concatenate(self.partition.train)))
        pooled = pooled[torch.randperm(len(pooled), generator=generator(self.seed, 0, SERVER, Stream.AUXILIARY))]
        labels = self.dataset.train_labels[pooled]
        chosen = torch.cat([pooled[labels == c][: self.auxiliary] for c in range(self.num_classes)])
        batches = list(self._plain_loader(chosen))
        return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])

    def embedded(self, backbone: Backbone, device: torch.device, needs_images: bool = False) -> FederatedDataModule:
        """The data with features in the place of images if the whole backbone is frozen; else the data themselves.

        Args:
            backbone: Backbone θ; it passes features [n, d, 1, 1] through.
            device: Device to compute on.
            needs_images: Whether the method changes images, so that they are kept.

        Raises:
            ConfigError: If the source has features already, and they cannot be augmented or the method needs images.
        """
        if self.image_size == 1:
            self._check_features(needs_images)
        if backbone.frozen != ("",) or needs_images:
            return self
        if self.augment != "none":
            warnings.warn(
                "the backbone is frozen, so its features are computed once: images are not augmented "
                f"(data.augment={self.augment!r} has no effect)",
                stacklevel=2,
            )
        settings = self.batch_settings(device)
        body = copy.deepcopy(backbone).eval().to(device)
        made = copy.copy(self)
        made._dataset = embed_dataset(self.dataset, body, settings)
        made.source = copy.copy(self.source)
        made.source.channels, made.source.image_size, made.source.stored_size = backbone.out_features, 1, None
        made.source.mean, made.source.std = (0.0,) * backbone.out_features, (1.0,) * backbone.out_features
        made.augment = "none"
        return made

    def _check_features(self, needs_images: bool) -> None:
        if self.augment != "none":
            remedy = "Set --data.augment=none."
            raise ConfigError("data.augment", self.augment, "cannot augment features", remedy)
        if needs_images:
            problem = "holds features, and this method changes the images themselves"
            raise ConfigError("data.source", self.source.name, problem, "Choose another method or source.")

    def test_batches(self, indices: Tensor | None = None, device: torch.device | None = None) -> Iterator[Batch]:
        """Batches of the global test set in order, or of the images at ``indices``, without augmentation."""
        chosen = torch.arange(len(self.test_labels)) if indices is None else indices.cpu()
        return iter(self._test_loader(chosen, device))

    def _loader(self, indices: Tensor, random: RandomStreams, device: torch.device | None = None) -> BatchLoader:
        settings = self._settings(self.batch_size, device)
        return BatchLoader(self.dataset.train, self.dataset.train_labels, indices, settings, random)

    def _test_loader(self, indices: Tensor, device: torch.device | None = None) -> SequentialLoader:
        return self.sequential(self.dataset.test, self.test_labels, indices, device)

    def _plain_loader(self, indices: Tensor, device: torch.device | None = None) -> SequentialLoader:
        return self.sequential(self.dataset.train, self.dataset.train_labels, indices, device)

    def sequential(
        self, images: Images, labels: Tensor, indices: Tensor, device: torch.device | None = None
    ) -> SequentialLoader:
        """Batches of some images for testing, in order and without augmentation."""
        return SequentialLoader(images, labels, indices, self._settings(self.eval_batch_size, device))

    def batch_settings(self, device: torch.device | None = None) -> BatchSettings:
        """Settings of batches for testing, without augmentation."""
        return replace(self._settings(self.eval_batch_size, device), augment="none")

    def _settings(self, batch_size: int, device: torch.device | None) -> BatchSettings:
        source = self.source
        size = source.image_size if source.stored_size else None
        return BatchSettings(batch_size, self.augment, source.mean, source.std, device, size)

    def _load(self) -> Dataset:
        self.source.seed = self.seed
        dataset = self.source.load()
        largest = max(int(labels.max()) for labels in (dataset.train_labels, dataset.test_labels))
        if largest >= self.num_classes:
            raise DataError(f"{self.source.name} has label {largest}, but only {self.num_classes} class_names.")
        return dataset

    def _make_partition(self) -> Partition:
        train_labels, test_labels = self.dataset.train_labels.numpy(), self.test_labels.numpy()
        shuffle = PAPER_SHUFFLE_SEED if self.scheme == "dirichlet_paper" else self.seed
        selected = long_tail(train_labels, self.num_classes, self.imbalance_factor, self.profile, shuffle)
        users, test_users = self.dataset.train_users, self.dataset.test_users
        return make_partition(
            train_labels,
            selected,
            test_labels,
            self.num_classes,
            scheme=self.scheme,
            num_clients=self.asked_clients,
            alpha=self.alpha,
            imbalance_factor=self.imbalance_factor or observed_factor(train_labels),
            min_samples=self.min_samples,
            seed=self.seed,
            users=None if users is None else users.numpy(),
            test_users=None if test_users is None else test_users.numpy(),
        )

    def _with_validation(self, split: Partition) -> Partition:
        """The split with validation images for the clients, if it has none and they are asked for or the source's."""
        labels = self.dataset.val_labels
        if labels is not None and self.val_fraction:
            remedy = "Set it to 0."
            problem = f"but {self.source.name} has validation images of its own"
            raise ConfigError("data.val_fraction", self.val_fraction, problem, remedy)
        if split.val:
            return split
        if labels is not None:
            users, train_users = self.dataset.val_users, self.dataset.train_users
            if self.scheme != "natural" or users is None or train_users is None:
                return split.with_drawn_validation(labels.numpy())
            owners = owners_of(users.numpy(), split.train, train_users.numpy())
            return split.with_own_validation(labels.numpy(), owners)
        if not self.val_fraction:
            return split
        groups = self.dataset.train_groups
        train = self.dataset.train_labels.numpy()
        return split.with_validation(train, self.val_fraction, None if groups is None else groups.numpy())

    def _with_names(self, split: Partition) -> Partition:
        """The split with the names of the clients' users, joined where a client has several."""
        users, names = self.dataset.train_users, self.dataset.user_names
        if self.scheme != "natural" or users is None or names is None or split.names:
            return split
        own = (dict.fromkeys(users[torch.from_numpy(part)].tolist()) for part in split.train)
        return replace(split, names=tuple(joined([names[user] for user in sorted(part)]) for part in own))

    def _load_partition(self) -> Partition:
        path = str(self.partition_file)
        partition = Partition.load(path)
        if self.asked_clients not in (None, len(partition.train)):
            problem = f"but {path!r} has {len(partition.train)} clients"
            raise ConfigError("data.num_clients", self.asked_clients, problem, "Set it to that number.")
        train, test, val = self.dataset.train_labels, self.test_labels, self.dataset.val_labels
        if not partition.fits(train.numpy(), test.numpy(), self.num_classes, None if val is None else val.numpy()):
            raise DataError(f"data.partition_file={path!r} was made for other data than {self.source.name}.")
        return partition


def joined(names: Sequence[str]) -> str:
    """Names of a client's users as one name: ``Berlin + Wien``, or ``Berlin + Wien + Rom + 4 more``."""
    more = [f"{len(names) - NAMED_USERS} more"] if len(names) > NAMED_USERS else []
    return " + ".join([*names[:NAMED_USERS], *more])


class Validation:
    """Validation images of all clients, in the place of the test set of a :class:`FederatedDataModule`.

    Args:
        data: Data module after ``setup``.
        images: Images that the partition's ``val`` selects from.
        labels: Their classes, int64.
        chosen: Indices of the images that the generic model is validated on, ascending; those of a client are among
            them.
    """

    def __init__(self, data: FederatedDataModule, images: Images, labels: Tensor, chosen: Ints) -> None:
        self._data, self._images, self._labels, self._chosen = data, images, labels, chosen

    @property
    def class_counts(self) -> Sequence[int]:
        """Class counts N_c of the training set, length C."""
        return self._data.class_counts

    @property
    def test_labels(self) -> Tensor:
        """Labels of the validation set, int64 [n_val]."""
        return self._labels[torch.from_numpy(self._chosen)]

    def test_batches(self, indices: Tensor | None = None, device: torch.device | None = None) -> Iterator[Batch]:
        """Batches of the validation set in order, or of the images at ``indices``."""
        chosen = torch.from_numpy(self._chosen)
        chosen = chosen if indices is None else chosen[indices.cpu()]
        return iter(self._data.sequential(self._images, self._labels, chosen, device))

    def client_test_indices(self, client: int) -> Tensor:
        """Indices of a client's validation images in the validation set, int64."""
        return torch.from_numpy(np.searchsorted(self._chosen, self._data.partition.val[client]))
