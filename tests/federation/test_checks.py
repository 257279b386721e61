import pytest
import torch

from fedloge import FedAvg
from fedloge.errors import ConfigError
from fedloge.federation.checks import check_types, sha256
from fedloge.models import SmallCNN


def test_a_module_that_is_no_method_is_refused(make_data):
    with pytest.raises(ConfigError, match="model='Linear' is not a fedloge Method"):
        check_types(torch.nn.Linear(1, 1), make_data())


def test_a_loader_is_no_data_module():
    with pytest.raises(ConfigError, match="datamodule='list' is not a FederatedDataModule"):
        check_types(FedAvg(SmallCNN((6,), in_channels=1), 3), [])


def test_a_hash_depends_on_names_and_values():
    layers = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    assert sha256(layers[0]) != sha256(layers[1])
    layers[1].load_state_dict(layers[0].state_dict())
    assert sha256(layers[0]) == sha256(layers[1])
    assert sha256(layers[0]) != sha256(torch.nn.Sequential(layers[0]))
