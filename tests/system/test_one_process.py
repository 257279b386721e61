"""One process and one device, whatever the environment and the options say."""

import pytest
from lightning import Callback, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from fedloge.errors import ConfigError
from fedloge.executors import LocalSettings
from fedloge.executors.client import local_trainer
from fedloge.methods import FedAvg
from fedloge.models import SmallCNN
from fedloge.system.one_process import one_process
from fedloge.trainer import FederatedTrainer

ENVIRONMENTS = {
    "SLURM": {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "3",
        "SLURM_NODEID": "1",
        "SLURM_NODELIST": "a[1-2]",
        "SLURM_STEP_ID": "0",
    },
    "torchrun": {
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "nowhere",
        "MASTER_PORT": "1",
        "GROUP_RANK": "1",
    },
    "LSF": {
        "LSB_JOBID": "7",
        "LSB_DJOB_RANKFILE": "/nowhere",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
        "JSM_NAMESPACE_RANK": "1",
        "JSM_NAMESPACE_SIZE": "2",
    },
    "MPI": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1", "PMI_SIZE": "2"},
    "Lightning": {
        "PL_TRAINER_DEVICES": "2",
        "PL_TRAINER_NUM_NODES": "2",
        "PL_TRAINER_STRATEGY": "ddp",
        "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1",
        "PL_FEDERATEDTRAINER_ROUNDS": "9",
    },
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_environment_changes_nothing(name, monkeypatch):
    for variable, value in ENVIRONMENTS[name].items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as read from the environment when Lightning is imported
    for trainer in (FederatedTrainer(accelerator="cpu"), local_trainer(LocalSettings(0), 1)):
        assert (trainer.world_size, trainer.global_rank, trainer.local_rank, trainer.node_rank) == (1, 0, 0, 0)
        assert (trainer.num_devices, trainer.num_nodes) == (1, 1)
        assert trainer.limit_train_batches == 1.0
        assert trainer.is_global_zero
    assert rank_zero_only.rank == 0


def test_hidden_variables_are_put_back(monkeypatch):
    monkeypatch.setenv("PL_TRAINER_DEVICES", "2")
    with one_process():
        assert "PL_TRAINER_DEVICES" not in __import__("os").environ
    assert __import__("os").environ["PL_TRAINER_DEVICES"] == "2"


@pytest.mark.parametrize("devices", [2, 0, -1, [], [0, 1], "2", "-1", True])
def test_other_numbers_of_devices_are_refused(devices):
    with pytest.raises(ConfigError, match=r"trainer\.devices=.* is not one device, and a run uses one\. Take 1"):
        FederatedTrainer(accelerator="cpu", devices=devices)


@pytest.mark.parametrize("devices", [1, "auto"])
def test_one_device(devices):
    assert FederatedTrainer(accelerator="cpu", devices=devices).num_devices == 1


BAD = {
    "accelerator": ({"accelerator": "abacus"}, "trainer.accelerator='abacus' cannot be used"),
    "devices": ({"accelerator": "cpu", "devices": [0]}, r"trainer.devices=[0] cannot be used"),
    "precision": ({"accelerator": "cpu", "precision": "7-true"}, "trainer.precision='7-true' cannot be used"),
    "callbacks": (
        {"accelerator": "cpu", "callbacks": [ModelCheckpoint()]},
        "trainer.callbacks=['ModelCheckpoint'] cannot be used",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_an_error_of_lightning_names_the_argument(name):
    options, expected = BAD[name]
    with pytest.raises(ConfigError) as caught:
        FederatedTrainer(**options)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("callback", [EarlyStopping("global/acc"), Callback()])
def test_callbacks_that_nothing_calls_are_refused(callback, make_data, tmp_path):
    trainer = FederatedTrainer(1, 1, accelerator="cpu", run_dir=str(tmp_path / "run"), callbacks=callback)
    expected = rf"trainer\.callbacks='{type(callback).__name__}' is a callback of Lightning's own loop, and nothing"
    with pytest.raises(ConfigError, match=expected):
        trainer.fit(FedAvg(SmallCNN((6,), in_channels=1), 3), datamodule=make_data())
    assert not (tmp_path / "run").exists()


def test_a_usual_trainer_is_left_alone(monkeypatch):
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "7")
    options = {"logger": False, "accelerator": "cpu", "enable_checkpointing": False, "enable_progress_bar": False}
    assert Trainer(**options).max_epochs == 7
