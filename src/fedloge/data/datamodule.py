"""One long-tailed dataset, split over K clients, as a LightningDataModule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from lightning import LightningDataModule
from torch import Tensor

from fedloge.data.augment import Augment, augment, normalise
from fedloge.data.images import Images
from fedloge.data.longtail import Profile, long_tail, max_over_min
from fedloge.data.partition import Partition, Scheme, make_partition
from fedloge.data.sources.base import Source
from fedloge.errors import ConfigError, DataError
from fedloge.seeding import Stream, derive

Batch = tuple[Tensor, Tensor]
PAPER_SHUFFLE_SEED = 0
"""Of the shuffle that chooses the images of the published long-tailed sets."""


class FederatedDataModule(LightningDataModule):
    """Makes a dataset long-tailed, splits it over clients, and serves each client's batches and test set.

    Args:
        source: Where the images come from.
        num_clients: K.
        alpha: Concentration α of the Dirichlet split; small values give clients few classes.
        imbalance_factor: IF of the long tail, as max/min (100) or min/max (0.01); 1 leaves the classes as they are.
        profile: ``exponential`` or ``step`` tail.
        scheme: ``dirichlet``, ``dirichlet_paper`` (the published splits, exactly) or ``iid``.
        min_samples: Training images that every client gets at least.
        batch_size: Of local training; the last, shorter batch of an epoch is kept.
        augment: ``none``, ``crop`` or ``crop_flip`` (padding 4) for training images.
        seed: Of the split; the run's own seed does not change it.
        partition_file: A saved split to use instead of making one.
        eval_batch_size: Of testing.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        source: Source,
        num_clients: int = 40,
        alpha: float = 0.5,
        imbalance_factor: float = 100.0,
        profile: Profile = "exponential",
        scheme: Scheme = "dirichlet",
        min_samples: int = 2,
        batch_size: int = 8,
        augment: Augment = "none",
        seed: int = 3407,
        partition_file: str | None = None,
        eval_batch_size: int = 500,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_clients", num_clients, 1),
            ("min_samples", min_samples, 1),
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ConfigError(f"data.{name}", value, f"must be at least {least}", "Choose a larger whole number.")
        if not (alpha > 0 and math.isfinite(alpha)):
            raise ConfigError("data.alpha", alpha, "must be positive", "The paper has 0.5 and 1.")
        self.source, self.num_clients, self.alpha = source, num_clients, alpha
        self.imbalance_factor = max_over_min(imbalance_factor)
        self.profile, self.scheme, self.min_samples = profile, scheme, min_samples
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augment, self.seed, self.partition_file = augment, seed, partition_file
        self._partition: Partition | None = None

    # Lightning's hooks -------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Download, where that was asked for."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them; a second call does nothing."""
        if self._partition is not None:
            return
        self.dataset = self.source.load()
        self._partition = self._load_partition() if self.partition_file else self._make_partition()
        self._class_counts: list[int] = self._partition.train_counts.sum(0).tolist()

    def train_dataloader(self) -> BatchLoader:
        """The pooled long-tailed training set, for centralised training."""
        indices = torch.cat([torch.from_numpy(own) for own in self.partition.train])
        return self._loader(indices, seed=self.seed, round=0, client=self.num_clients, phase=0)

    def test_dataloader(self) -> list[Batch]:
        """The global test set."""
        return list(self.test_batches())

    # What the federated loop asks for ----------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.source.class_names)

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the C classes."""
        return self.source.class_names

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.source.channels

    @property
    def partition(self) -> Partition:
        """The split; known after :meth:`setup`."""
        if self._partition is None:
            raise RuntimeError("call setup() first: the data are not split yet")
        return self._partition

    @property
    def class_counts(self) -> Sequence[int]:
        """N_c of the long-tailed training set, length C."""
        return self._class_counts

    @property
    def test_labels(self) -> Tensor:
        """Labels of the global test set, int64 [n_test]."""
        return self.dataset.test_labels

    def client_counts(self, client: int) -> Sequence[int]:
        """n_{k,c} of a client's training images, length C."""
        counts: list[int] = self.partition.train_counts[client].tolist()
        return counts

    def client_test_indices(self, client: int) -> Tensor:
        """Which images of the global test set are a client's own, int64."""
        return torch.from_numpy(self.partition.test[client])

    def client_loader(self, client: int, *, seed: int, round: int, phase: int = 0) -> BatchLoader:
        """A client's training batches in a round; every iteration over it is the next local epoch."""
        indices = torch.from_numpy(self.partition.train[client])
        return self._loader(indices, seed=seed, round=round, client=client, phase=phase)

    def test_batches(self, indices: Tensor | None = None, device: torch.device | None = None) -> Iterator[Batch]:
        """The global test set in order, or some of its images, without augmentation."""
        chosen = torch.arange(len(self.test_labels)) if indices is None else indices.cpu()
        for batch in torch.split(chosen, self.eval_batch_size):
            images = self.dataset.test.gather(batch).to(device or "cpu")
            labels = self.test_labels[batch].to(device or "cpu")
            yield normalise(images, self.source.mean, self.source.std), labels

    def _loader(self, indices: Tensor, *, seed: int, round: int, client: int, phase: int) -> BatchLoader:
        seeds = {stream: (seed, round, client, stream, phase) for stream in (Stream.ORDER, Stream.AUGMENT)}
        return BatchLoader(self, self.dataset.train, self.dataset.train_labels, indices, seeds)

    def _make_partition(self) -> Partition:
        train_labels, test_labels = self.dataset.train_labels.numpy(), self.test_labels.numpy()
        shuffle = PAPER_SHUFFLE_SEED if self.scheme == "dirichlet_paper" else self.seed
        kept = long_tail(train_labels, self.num_classes, self.imbalance_factor, self.profile, shuffle)
        return make_partition(
            train_labels,
            kept,
            test_labels,
            self.num_classes,
            scheme=self.scheme,
            num_clients=self.num_clients,
            alpha=self.alpha,
            imbalance_factor=self.imbalance_factor,
            min_samples=self.min_samples,
            seed=self.seed,
        )

    def _load_partition(self) -> Partition:
        path = str(self.partition_file)
        partition = Partition.load(path)
        if len(partition.train) != self.num_clients:
            raise ConfigError(
                "data.num_clients",
                self.num_clients,
                f"but {path!r} has {len(partition.train)}",
                "Make them equal.",
            )
        largest = [
            max((int(own.max()) for own in part if len(own)), default=0) for part in (partition.train, partition.test)
        ]
        sizes = [len(self.dataset.train), len(self.dataset.test)]
        if partition.train_counts.shape[1] != self.num_classes or any(
            i >= n for i, n in zip(largest, sizes, strict=True)
        ):
            raise DataError(f"data.partition_file={path!r} was made for other data than {self.source.name}.")
        return partition


class BatchLoader:
    """Batches of some images in an order, and with augmentation, that its seeds and the epoch alone decide.

    Args:
        data: Batch size, augmentation and normalisation.
        images: The source's training images.
        labels: Their classes.
        indices: Which of them to serve.
        seeds: Arguments of :func:`fedloge.seeding.derive` per stream.
    """

    def __init__(
        self,
        data: FederatedDataModule,
        images: Images,
        labels: Tensor,
        indices: Tensor,
        seeds: dict[Stream, tuple[int, int, int, Stream, int]],
    ) -> None:
        self.data, self.images, self.labels, self.indices, self.seeds = data, images, labels, indices, seeds
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.data.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order, augmentation = (self._generator(stream) for stream in (Stream.ORDER, Stream.AUGMENT))
        self.epoch += 1
        source = self.data.source
        shuffled = self.indices[torch.randperm(len(self.indices), generator=order)]
        for batch in torch.split(shuffled, self.data.batch_size):
            images = augment(self.images.gather(batch), self.data.augment, augmentation)
            yield normalise(images, source.mean, source.std), self.labels[batch]

    def _generator(self, stream: Stream) -> torch.Generator:
        seed, round, client, _, phase = self.seeds[stream]
        return torch.Generator().manual_seed(derive(seed, round, client, stream, phase * 100_000 + self.epoch))
