"""A long-tailed dataset, split over K clients, as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from fedloge.checks import check_choice, check_least, check_not_negative
from fedloge.data.augment import Augment
from fedloge.data.loader import Batch, BatchLoader, BatchSettings, RandomStreams, SequentialLoader
from fedloge.data.longtail import Profile, long_tail, max_over_min, observed_factor
from fedloge.data.partition import Partition, Scheme, check_split, make_partition
from fedloge.data.sources.base import Dataset, Source
from fedloge.errors import ConfigError, DataError
from fedloge.federation.seeding import SERVER, Stream, generator

PAPER_SHUFFLE_SEED = 0
"""Seed of the shuffle that selects the images of the published long-tailed datasets."""


class FederatedDataModule(LightningDataModule):
    """Makes a dataset long-tailed, splits it over clients, and provides each client's batches and test set.

    Args:
        source: Source of the images.
        num_clients: Number of clients K.
        alpha: Concentration α of the Dirichlet split; small values give clients few classes.
        imbalance_factor: IF of the long tail, as max/min (100) or min/max (0.01). None keeps the classes as they are,
            for a dataset that is long-tailed by nature; the observed factor is recorded.
        profile: Shape of the tail, ``exponential`` or ``step``.
        scheme: ``dirichlet``, ``dirichlet_paper`` (exactly the published splits), ``iid``, or ``natural``, which
            assigns the source's users to the clients at random and evenly; with as many clients as users, one each.
        min_samples: Fewest training images per client (not with ``dirichlet_paper`` or ``natural``).
        batch_size: Batch size of local training; the last, shorter batch of an epoch is kept.
        augment: Augmentation of training images: ``none``, ``crop`` or ``crop_flip`` (padding 4), or
            ``resized_crop_flip``, which scales a random 8 % to 100 % of the image to its size (usual for ImageNet).
        seed: Seed of the split, independent of the run seed.
        auxiliary: Training images per class that the server holds (fewer if a class has fewer), for methods that need
            such a set; privileged knowledge, 0 by default.
        partition_file: Saved split to use instead of making one.
        eval_batch_size: Batch size of testing.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        source: Source,
        num_clients: int = 40,
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
        self.source, self.num_clients, self.alpha = source, num_clients, alpha
        self.imbalance_factor = None if imbalance_factor is None else max_over_min(imbalance_factor)
        self.profile, self.scheme, self.min_samples = profile, scheme, min_samples
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augment, self.seed, self.auxiliary, self.partition_file = augment, seed, auxiliary, partition_file
        self._dataset: Dataset | None = None
        self._partition: Partition | None = None

    # Lightning's hooks -------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Download the dataset, if the source is configured to."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them; a second call does nothing, unless files of images were changed since."""
        self.load()
        if self._partition is None:
            self._partition = self._load_partition() if self.partition_file else self._make_partition()

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

    def load(self) -> Dataset:
        """Load the images, again if their files were changed since."""
        if self._dataset is None or self._dataset.outdated():
            self._dataset, self._partition = self._load(), None
        return self._dataset

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

    def test_batches(self, indices: Tensor | None = None, device: torch.device | None = None) -> Iterator[Batch]:
        """Batches of the global test set in order, or of the images at ``indices``, without augmentation."""
        chosen = torch.arange(len(self.test_labels)) if indices is None else indices.cpu()
        return iter(self._test_loader(chosen, device))

    def _loader(self, indices: Tensor, random: RandomStreams, device: torch.device | None = None) -> BatchLoader:
        settings = self._settings(self.batch_size, device)
        return BatchLoader(self.dataset.train, self.dataset.train_labels, indices, settings, random)

    def _test_loader(self, indices: Tensor, device: torch.device | None = None) -> SequentialLoader:
        settings = self._settings(self.eval_batch_size, device)
        return SequentialLoader(self.dataset.test, self.test_labels, indices, settings)

    def _plain_loader(self, indices: Tensor, device: torch.device | None = None) -> SequentialLoader:
        settings = self._settings(self.eval_batch_size, device)
        return SequentialLoader(self.dataset.train, self.dataset.train_labels, indices, settings)

    def _settings(self, batch_size: int, device: torch.device | None) -> BatchSettings:
        source = self.source
        size = source.image_size if source.stored_size else None
        return BatchSettings(batch_size, self.augment, source.mean, source.std, device, size)

    def _load(self) -> Dataset:
        dataset = self.source.load()
        largest = max(int(labels.max()) for labels in (dataset.train_labels, dataset.test_labels))
        if largest >= self.num_classes:
            raise DataError(f"{self.source.name} has label {largest}, but only {self.num_classes} class_names.")
        return dataset

    def _make_partition(self) -> Partition:
        train_labels, test_labels = self.dataset.train_labels.numpy(), self.test_labels.numpy()
        shuffle = PAPER_SHUFFLE_SEED if self.scheme == "dirichlet_paper" else self.seed
        selected = long_tail(train_labels, self.num_classes, self.imbalance_factor, self.profile, shuffle)
        users = self.dataset.train_users
        return make_partition(
            train_labels,
            selected,
            test_labels,
            self.num_classes,
            scheme=self.scheme,
            num_clients=self.num_clients,
            alpha=self.alpha,
            imbalance_factor=self.imbalance_factor or observed_factor(train_labels),
            min_samples=self.min_samples,
            seed=self.seed,
            users=None if users is None else users.numpy(),
        )

    def _load_partition(self) -> Partition:
        path = str(self.partition_file)
        partition = Partition.load(path)
        if len(partition.train) != self.num_clients:
            problem = f"but {path!r} has {len(partition.train)} clients"
            raise ConfigError("data.num_clients", self.num_clients, problem, "Set it to that number.")
        labels = self.dataset.train_labels.numpy(), self.test_labels.numpy()
        if not partition.fits(*labels, self.num_classes):
            raise DataError(f"data.partition_file={path!r} was made for other data than {self.source.name}.")
        return partition
