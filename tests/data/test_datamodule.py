import copy
import pickle

import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image

from fedloge.data import FederatedDataModule, ImageFolder
from fedloge.data.images import TensorImages
from fedloge.data.sources import Dataset, Source
from fedloge.errors import ConfigError, DataError
from image_trees import coloured, paint_class


def batches(data, **where):
    return [(x.clone(), y.clone()) for x, y in data.client_loader(0, **({"seed": 0, "round": 1} | where))]


def same(first, second):
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))


@pytest.fixture
def data(make_data):
    module = make_data(augment="crop")
    module.setup()
    return module


def test_batches_depend_on_seed_round_client_and_epoch_alone(data):
    assert same(batches(data), batches(data))
    for other in ({"seed": 1}, {"round": 2}, {"phase": 1}):
        assert not same(batches(data), batches(data, **other))
    loader, again = (data.client_loader(0, seed=0, round=1) for _ in range(2))
    first, second = list(loader), list(loader)
    assert not same(first, second)  # the next epoch has another order
    assert same(first + second, list(again) + list(again))


def test_clients_have_generators_of_their_own(data):
    orders = [
        torch.randperm(50, generator=data.client_loader(k, seed=0, round=1).random.generator(0, 0)) for k in (0, 1)
    ]
    assert not torch.equal(*orders)


def test_an_epoch_serves_every_image_once_and_keeps_the_short_batch(make_data):
    data = make_data(batch_size=7)
    data.setup()
    served = batches(data)
    counts = torch.bincount(torch.cat([labels for _, labels in served]), minlength=3)
    assert counts.tolist() == data.client_counts(0)
    assert len(served) == len(data.client_loader(0, seed=0, round=1))
    assert len(served[-1][1]) == sum(data.client_counts(0)) % 7 or len(served[-1][1]) == 7


def test_counts(data):
    assert data.class_counts == [sum(k) for k in zip(data.client_counts(0), data.client_counts(1), strict=True)]
    assert data.class_counts == [20, 10, 5]


def test_test_batches_are_in_order(data):
    labels = torch.cat([y for _, y in data.test_batches()])
    assert torch.equal(labels, data.test_labels)
    images, chosen = next(iter(data.test_batches(torch.tensor([7, 3]))))
    assert chosen.tolist() == data.test_labels[[7, 3]].tolist()
    assert images.dtype == torch.float32


def test_works_as_an_ordinary_datamodule(data):
    pooled = torch.cat([y for _, y in data.train_dataloader()])
    assert torch.bincount(pooled).tolist() == data.class_counts
    assert sum(len(y) for _, y in data.test_dataloader()) == len(data.test_labels)


class Linear(LightningModule):
    """Counts the images it is tested on."""

    def __init__(self):
        super().__init__()
        self.layer, self.trained, self.tested = torch.nn.Linear(16, 3), 0, 0

    def training_step(self, batch, batch_idx):
        self.trained += len(batch[1])
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def test_step(self, batch, batch_idx):
        self.tested += self.layer(batch[0].flatten(1)).shape[0]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_trains_and_tests_with_it(make_data):
    data, module = make_data(eval_batch_size=4), Linear()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert module.trained == 2 * sum(data.class_counts)
    assert module.tested == len(data.test_labels)


def test_images_in_files_give_the_same_batches_as_in_memory(make_data, tmp_path):
    for part, count in (("train", 12), ("test", 4)):
        for c, name in enumerate(("a", "b")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (6, 6), (100 * c, 10 * i, i)).save(tmp_path / part / name / f"{i:02}.png")
    both = [
        make_data(ImageFolder(str(tmp_path), image_size=6, in_memory=mode), augment="crop_flip")
        for mode in ("always", "never")
    ]
    for module in both:
        module.setup()
    assert same(*(batches(module) for module in both))
    assert same(*(list(module.test_batches()) for module in both))


def test_device_of_the_batches(data):
    """The meta device holds no data, which is enough to see that both tensors arrive."""
    data.augment = "none"
    for loader in (
        data.client_loader(0, seed=0, round=1, device=torch.device("meta")),
        data.test_batches(device=torch.device("meta")),
    ):
        images, labels = next(iter(loader))
        assert (images.device.type, labels.device.type) == ("meta", "meta")


def test_partition_from_a_file(make_data, data, tmp_path):
    data.partition.save(tmp_path / "p.json")
    again = make_data(seed=1, partition_file=str(tmp_path / "p.json"))
    again.setup()
    assert again.partition.sha256 == data.partition.sha256
    with pytest.raises(ConfigError, match=r"data\.num_clients=3 but .* has 2 clients"):
        make_data(num_clients=3, partition_file=str(tmp_path / "p.json")).setup()


def test_partition_of_other_data_is_refused(make_data, tmp_path):
    from fedloge.data import Digits

    digits = make_data(Digits(), num_clients=2)
    digits.setup()
    digits.partition.save(tmp_path / "p.json")
    with pytest.raises(DataError, match="made for other data than tiny"):
        make_data(partition_file=str(tmp_path / "p.json")).setup()


def test_partition_of_a_relabelled_dataset_is_refused(make_data, data, tmp_path):
    """As many images, but other classes: only the labels tell."""
    data.partition.save(tmp_path / "p.json")
    other = make_data(partition_file=str(tmp_path / "p.json"))
    dataset = other.source.load()
    dataset.train_labels.copy_(dataset.train_labels.flip(0).clone())
    with pytest.raises(DataError, match="made for other data than tiny"):
        other.setup()


def test_labels_without_a_class_name_are_refused(make_data):
    class Wrong(Source):
        name, class_names, channels, image_size, mean, std = "wrong", ("a", "b"), 1, 4, (0.5,), (0.5,)

        def load(self):
            images, labels = TensorImages(torch.zeros(9, 1, 4, 4, dtype=torch.uint8)), torch.arange(9) % 3
            return Dataset(images, labels, images, labels)

    with pytest.raises(DataError, match="wrong has label 2, but only 2 class_names"):
        make_data(Wrong()).setup()


def test_setup_again_keeps_the_split(data):
    partition, dataset = data.partition, data.dataset
    data.setup("test")
    assert data.partition is partition
    assert data.dataset is dataset
    assert data.fingerprint == partition.sha256


def test_describes_its_images(make_data):
    data = make_data()
    assert (data.num_classes, data.channels, data.image_size) == (3, 1, 4)
    assert data.class_names == ["0", "1", "2"]


def test_pickles_and_copies(data):
    assert same(batches(data), batches(pickle.loads(pickle.dumps(data))))
    assert same(batches(data), batches(copy.deepcopy(data)))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alpha", 0),
        ("alpha", -1),
        ("alpha", float("inf")),
        ("imbalance_factor", 0),
        ("num_clients", 0),
        ("batch_size", 0),
        ("eval_batch_size", 0),
        ("min_samples", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("scheme", "foo"),
        ("profile", "foo"),
        ("augment", "foo"),
        ("val_fraction", -0.1),
        ("val_fraction", 1.0),
    ],
)
def test_bad_values_name_the_option(make_data, option, value):
    with pytest.raises(ConfigError, match=rf"data\.{option}="):
        make_data(**{option: value})


def test_nothing_is_held_out_by_default(data):
    assert data.validation() is None
    assert data.partition.val == ()


def test_a_share_of_the_training_images_is_held_out(make_data):
    """Sixty images of three classes; a fifth of each client's is served for validation and no longer for training."""
    data = make_data(imbalance_factor=None, val_fraction=0.2)
    data.setup()
    validation = data.validation()
    assert len(validation.test_labels) == sum(map(len, data.partition.val)) == pytest.approx(12, abs=1)
    assert sum(data.class_counts) == 60 - len(validation.test_labels)
    for client in (0, 1):
        indices = validation.client_test_indices(client)
        images, labels = next(iter(validation.test_batches(indices)))
        own = torch.from_numpy(data.partition.val[client])
        assert torch.equal(labels, data.dataset.train_labels[own])
        assert torch.equal(labels, validation.test_labels[indices])
        assert torch.equal(images, next(iter(data.sequential(data.dataset.train, data.dataset.train_labels, own)))[0])


class Validated(Source):
    """Two classes, and validation images that are brighter than all others."""

    name, class_names, channels, image_size, mean, std = "own", ("a", "b"), 1, 4, (0.0,), (1.0,)

    def load(self):
        images, labels = TensorImages(torch.zeros(40, 1, 4, 4, dtype=torch.uint8)), torch.arange(40) % 2
        val = TensorImages(torch.full((10, 1, 4, 4), 255, dtype=torch.uint8))
        return Dataset(images, labels, images, labels, val=val, val_labels=torch.arange(10) % 2)


def test_a_source_may_have_validation_images_of_its_own(make_data):
    data = make_data(Validated(), imbalance_factor=None)
    data.setup()
    images, labels = next(iter(data.validation().test_batches()))
    assert torch.equal(labels, torch.arange(10) % 2)
    assert bool((images == 1).all())
    assert sum(data.class_counts) == 40


def test_a_share_beside_validation_images_of_the_source_is_refused(make_data):
    with pytest.raises(ConfigError, match=r"data\.val_fraction=0\.1 but own has validation images of its own"):
        make_data(Validated(), val_fraction=0.1).setup()


def test_asking_before_setup_is_an_error(make_data):
    with pytest.raises(RuntimeError, match="setup"):
        _ = make_data().partition
    with pytest.raises(RuntimeError, match="setup"):
        _ = make_data().test_labels
    assert isinstance(make_data(), FederatedDataModule)


@pytest.mark.parametrize("in_memory", ["always", "never"])
def test_images_that_were_changed_are_loaded_again(tmp_path, in_memory):
    data = FederatedDataModule(
        ImageFolder(str(coloured(tmp_path)), image_size=12, in_memory=in_memory), num_clients=2, imbalance_factor=None
    )
    data.setup()
    loaded = data.dataset
    data.setup()
    assert data.dataset is loaded
    paint_class(tmp_path / "test" / "ant" / "0.png", 2, 7)
    data.setup()
    assert data.dataset.test.gather(torch.tensor([0]))[0].float().mean((1, 2)).argmax() == 2
