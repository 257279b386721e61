import pickle

import pytest
import torch

from fedloge.data import FederatedDataModule
from fedloge.errors import ConfigError, DataError


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
    loader = data.client_loader(0, seed=0, round=1)
    assert not same(list(loader), list(loader))  # the next epoch has another order


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


def test_partition_from_a_file(make_data, data, tmp_path):
    data.partition.save(tmp_path / "p.json")
    again = make_data(seed=1, partition_file=str(tmp_path / "p.json"))
    again.setup()
    assert again.partition.sha256 == data.partition.sha256
    with pytest.raises(ConfigError, match=r"data\.num_clients=3 but .* has 2"):
        make_data(num_clients=3, partition_file=str(tmp_path / "p.json")).setup()


def test_partition_of_other_data_is_refused(make_data, tmp_path):
    from fedloge.data import Digits

    digits = make_data(Digits(), num_clients=2)
    digits.setup()
    digits.partition.save(tmp_path / "p.json")
    with pytest.raises(DataError, match="made for other data than tiny"):
        make_data(partition_file=str(tmp_path / "p.json")).setup()


def test_pickles(data):
    assert same(batches(data), batches(pickle.loads(pickle.dumps(data))))


@pytest.mark.parametrize(
    ("option", "value"),
    [("alpha", 0), ("alpha", -1), ("imbalance_factor", 0), ("num_clients", 0), ("batch_size", 0), ("min_samples", 0)],
)
def test_bad_values_name_the_option(make_data, option, value):
    with pytest.raises(ConfigError, match=rf"data\.{option}="):
        make_data(**{option: value})


def test_asking_before_setup_is_an_error(make_data):
    with pytest.raises(RuntimeError, match="setup"):
        _ = make_data().partition
    assert isinstance(make_data(), FederatedDataModule)
