"""Features in the place of images: files, splits, every executor, frozen backbones, `fedloge embed`."""

import json

import numpy as np
import pytest
import torch

from fedloge.cli import main
from fedloge.data import FederatedDataModule
from fedloge.data.features import _mapped, read_features, write_features
from fedloge.data.sources import Digits, Features
from fedloge.errors import ConfigError, DataError
from fedloge.executors.cuda import Cohort
from fedloge.methods import FedAvg, FedYoYo
from fedloge.models import MLP, Identity, SmallCNN
from fedloge.trainer import FederatedTrainer


def arrays(n=120, d=5, classes=3):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    features = rng.normal(size=(n, d)).astype(np.float32)
    features[np.arange(n), labels] += 4
    return {"features": features, "labels": labels, "split": np.where(np.arange(n) % 4 == 0, "test", "train")}


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "f.npz", **arrays())
    return tmp_path / "f.npz"


def test_vectors_reach_the_backbone_as_they_are(file):
    data = FederatedDataModule(Features(str(file)), num_clients=2, imbalance_factor=None)
    data.setup()
    images, labels = next(iter(data.test_batches()))
    stored = arrays()
    test = stored["split"] == "test"
    assert torch.equal(Identity(5)(images), torch.from_numpy(stored["features"][test]))
    assert labels.tolist() == stored["labels"][test].tolist()


def test_standardised_features_have_mean_0_and_variance_1_over_training_rows(file):
    source = Features(str(file), standardise=True)
    data = FederatedDataModule(source, num_clients=1, imbalance_factor=None, batch_size=200)
    data.setup()
    images, _ = next(iter(data.client_batches(0)))
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(5), atol=1e-5)
    assert torch.allclose(images.std((0, 2, 3), unbiased=False), torch.ones(5), atol=1e-5)


def test_without_splits_a_share_of_each_class_is_tested_on(tmp_path):
    found = arrays()
    del found["split"]
    np.savez(tmp_path / "f.npz", **found)
    dataset = Features(str(tmp_path / "f.npz"), test_fraction=0.25).load()
    assert dataset.test_labels.bincount().tolist() == [10, 10, 10]
    assert len(dataset.train_labels) == 90


def test_a_table_of_text_is_read(tmp_path):
    (tmp_path / "t.csv").write_text(
        "label,f_a,f_b,age,split,site\ncat,1,2,9,train,x\ndog,3,4,9,train,y\ncat,5,6,9,test,x\n"
    )
    source = Features(str(tmp_path / "t.csv"))
    dataset = source.load()
    assert source.class_names == ["cat", "dog"]
    assert dataset.train.images.flatten(1).tolist() == [[1, 2], [3, 4]]
    assert dataset.train_users.tolist() == [0, 1]
    wide = Features(str(tmp_path / "t.csv"), columns="[fa]*")
    assert wide.channels == 3


def test_parquet_holds_the_same(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    found = arrays() | {"class_names": np.array(["a", "b", "c"])}
    write_features(tmp_path / "f.parquet", found)
    source = Features(str(tmp_path / "f.parquet"))
    write_features(tmp_path / "f.npz", found)
    other = Features(str(tmp_path / "f.npz"))
    assert list(source.class_names) == list(other.class_names) == ["a", "b", "c"]
    assert torch.equal(source.load().train.images, other.load().train.images)


def test_a_large_array_is_mapped_into_memory(file, tmp_path):
    mapped = _mapped(file, "features.npy")
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, arrays()["features"])
    np.savez_compressed(tmp_path / "c.npz", **arrays())
    assert np.array_equal(_mapped(tmp_path / "c.npz", "features.npy"), arrays()["features"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "has no features, only labels, split"),
        ({"labels": np.zeros(3, int)}, "has 120 features, but 3 labels"),
        ({"features": np.full((120, 5), np.nan)}, "120 rows of .* hold values that are not finite, the first: 0, 1"),
        ({"split": np.array(["dev"] * 120)}, "must be train, val or test, not 'dev'"),
        ({"split": np.array(["train"] * 120)}, "has no rows with split test"),
        ({"class_names": np.array(["a"] * 120)[:2]}, "must lie in 0 … 1, for 2 class_names"),
        ({"labels": np.zeros(120, int)}, r"has 1 class\(es\)"),
    ],
)
def test_incomplete_files_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "f.npz", **{k: v for k, v in (arrays() | change).items() if v is not None})
    with pytest.raises(DataError, match=message):
        Features(str(tmp_path / "f.npz"))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "f.npz").write_bytes(b"nothing")
    for name, message in (("missing.npz", "is no file"), ("f.npz", "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_features(tmp_path / name)


def test_augmentation_and_methods_that_change_images_are_refused(file, tmp_path):
    data = FederatedDataModule(Features(str(file)), num_clients=2, imbalance_factor=None, augment="crop")
    trainer = FederatedTrainer(rounds=1, run_dir=str(tmp_path / "run"), executor="serial")
    with pytest.raises(ConfigError, match=r"data\.augment='crop' cannot augment features"):
        trainer.fit(FedAvg(Identity(5), 3), datamodule=data)
    data = FederatedDataModule(Features(str(file)), num_clients=2, imbalance_factor=None)
    with pytest.raises(ConfigError, match="holds features, and this method changes the images"):
        trainer.fit(FedYoYo(Identity(5), 3), datamodule=data)


def fitted(run_dir, backbone, data, executor="serial", **options):
    torch.manual_seed(3)
    trainer = FederatedTrainer(rounds=2, local_epochs=1, run_dir=str(run_dir), executor=executor, **options)
    trainer.fit(FedAvg(backbone, 3, lr=0.1), datamodule=data)
    return trainer


def test_executors_agree_on_features_to_the_bit(file, tmp_path):
    states = {}
    for name, executor in (("serial", "serial"), ("lanes", Cohort(lanes=2, graphs=False))):
        data = FederatedDataModule(Features(str(file)), num_clients=3, alpha=1.0, imbalance_factor=None)
        torch.manual_seed(3)
        states[name] = fitted(tmp_path / name, MLP((4,), in_channels=5), data, executor).progress.state.shared
    first, second = states.values()
    assert all(torch.equal(entry, second.tensors[name]) for name, entry in first.tensors.items())


class Frozen(SmallCNN):
    """A backbone that is not trained, and counts its images."""

    frozen = ("",)
    seen = 0

    def forward(self, images):
        if images.shape[2:] == (1, 1):
            return images.flatten(1)
        type(self).seen += len(images)
        return super().forward(images)


def test_the_features_of_a_frozen_backbone_are_computed_once(make_data, tmp_path):
    data = make_data(num_clients=2, augment="crop")
    Frozen.seen = 0
    with pytest.warns(UserWarning, match=r"data\.augment='crop' has no effect"):
        trainer = fitted(tmp_path / "run", Frozen((6,), in_channels=1), data)
    dataset = data.dataset
    assert Frozen.seen == len(dataset.train) + len(dataset.test)
    assert data.image_size > 1  # the user's own data are as they were
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    sent = 4 * sum(parameter.numel() for parameter in trainer.method.head.parameters())
    assert summary["bytes_up"] == 2 * 2 * sent


@pytest.mark.slow
def test_embed_writes_what_fit_reads(tmp_path, capsys):
    file, run = tmp_path / "f.npz", tmp_path / "run"
    small = ["--data.source=Digits", "--model=FedAvg", "--model.backbone=SmallCNN", "--model.backbone.in_channels=1"]
    assert main(["embed", *small, "--output", str(file)]) == 0
    assert "1,797 vectors of" in capsys.readouterr().out
    found = read_features(file)
    assert found["class_names"].tolist() == list(Digits().class_names)
    length = found["features"].shape[1]
    features = ["--data.source=Features", f"--data.source.file={file}", "--data.num_clients=3", "--report=false"]
    model = ["--model=FedLoGe", "--model.backbone=Identity", f"--model.backbone.in_channels={length}"]
    fit = ["fit", *features, *model, "--trainer.rounds=2", f"--trainer.run_dir={run}", "--quiet"]
    assert main(fit) == 0
    assert main(["test", str(run)]) == 0
    assert main(["embed", "--run", str(run), "--output", str(tmp_path / "again.npz")]) == 0
    again = read_features(tmp_path / "again.npz")
    assert np.array_equal(again["features"], found["features"])  # through Identity
