"""Objects that are used for a second run give the same run as new ones."""

import pytest
import torch

import fedloge.methods
from conftest import tiny_source
from fedloge.data import FederatedDataModule
from fedloge.methods import FedAvg
from fedloge.models import SmallCNN
from fedloge.trainer import FederatedTrainer
from tiny_runs import content, run_tiny

METHODS = sorted(
    name
    for name, kind in vars(fedloge.methods).items()
    if isinstance(kind, type) and issubclass(kind, fedloge.methods.Method) and kind is not fedloge.methods.Method
)
OPTIONS = {
    "CReFF": {"per_class": 4, "match_steps": 2, "head_epochs": 2},
    "FedETF": {"pm": "finetune", "finetune_epochs": 1, "finetune_cycles": 1},
    "FedLoGe": {"beta": 0.3, "gamma": 1.0, "finetune_epochs": 1},
    "FedRep": {"head_epochs": 1, "body_epochs": 1, "final_head_epochs": 1},
}


def new_method(name):
    torch.manual_seed(0)
    return getattr(fedloge.methods, name)(SmallCNN((6,), in_channels=1), 3, **OPTIONS.get(name, {}))


def new_data():
    return FederatedDataModule(tiny_source(), num_clients=3, imbalance_factor=4, batch_size=16, alpha=1.0, auxiliary=2)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_objects_give_the_same_run(name, tmp_path):
    method, data = new_method(name), new_data()
    trainer = FederatedTrainer(
        2, 1, executor="serial", accelerator="cpu", run_dir=str(tmp_path / "run"), overwrite=True, logger="csv"
    )
    trainer.fit(method, datamodule=data)
    first = content(tmp_path / "run")
    trainer.fit(method, datamodule=data)
    second = content(tmp_path / "run")
    assert second == first
    assert len(trainer.loggers) == 1


def test_a_backbone_can_be_given_to_several_methods(tmp_path):
    backbone = SmallCNN((6,), in_channels=1)
    before = {name: entry.clone() for name, entry in backbone.state_dict().items()}
    run_tiny(tmp_path / "run", method=FedAvg(backbone, 3), rounds=1)
    assert all(torch.equal(entry, before[name]) for name, entry in backbone.state_dict().items())


def test_another_precision_leaves_no_trace(tmp_path):
    method, options = new_method("FedAvg"), {"rounds": 1, "local_epochs": 1, "accelerator": "cpu", "overwrite": True}
    for precision in ("32-true", "64-true", "32-true"):
        trainer = FederatedTrainer(**options, precision=precision, run_dir=str(tmp_path / precision))
        found = content(tmp_path / precision) if precision == "32-true" and (tmp_path / precision).exists() else None
        trainer.fit(method, datamodule=new_data())
    assert content(tmp_path / "32-true") == found
    assert method.head.weight.dtype == torch.float32


def test_weights_that_were_loaded_are_the_new_start(tmp_path):
    method, other = new_method("FedAvg"), FedAvg(SmallCNN((6,), in_channels=1), 3)
    run_tiny(tmp_path / "first", method=method, rounds=1)
    method.load_state_dict(other.state_dict())
    run_tiny(tmp_path / "second", method=method, rounds=1)
    run_tiny(tmp_path / "other", method=other, rounds=1)
    assert content(tmp_path / "second") == content(tmp_path / "other")
