"""BatchNorm with a single value per channel."""

import pytest
import torch
from torch import nn

from fedloge.models import CifarResNet, SmallCNN
from fedloge.models.batchnorm import running_statistics, trains_on_one_image


@pytest.mark.parametrize(
    ("net", "size", "expected"),
    [
        (SmallCNN((4, 4), in_channels=1), 4, True),
        (SmallCNN((4, 4, 4), in_channels=1), 4, False),  # its last map has one pixel
        (CifarResNet(8, width=4, in_channels=1), 32, True),
        (CifarResNet(8, width=4, in_channels=1), 4, False),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 4, True),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3)), 4, False),
    ],
)
def test_which_networks_train_on_one_image(net, size, expected):
    before = {name: entry.clone() for name, entry in net.state_dict().items()}
    assert trains_on_one_image(net, net, (1, size, size)) == expected
    assert all(torch.equal(entry, before[name]) for name, entry in net.state_dict().items())
    image = torch.rand(1, 1, size, size)
    if expected:
        net.train()(image)
    else:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            net.train()(image)


def test_one_value_per_channel_is_normalised_with_the_running_statistics():
    layer = nn.BatchNorm1d(2)
    layer(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    before = {name: entry.clone() for name, entry in layer.state_dict().items()}
    with running_statistics(layer):
        found = layer(torch.tensor([[1.0, 1.0]]))
        assert layer.training
    # mean 0.1 * (2, 4), variance 0.9 + 0.1 * (2, 8)
    torch.testing.assert_close(found, torch.tensor([[0.8 / 1.10001**0.5, 0.6 / 1.70001**0.5]]))
    assert all(torch.equal(entry, before[name]) for name, entry in layer.state_dict().items())
    assert not layer._forward_pre_hooks


def test_larger_inputs_are_normalised_as_ever():
    images, nets = torch.rand(1, 1, 4, 4), [SmallCNN((4, 4), in_channels=1) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    with running_statistics(nets[1]):
        assert torch.equal(nets[0](images), nets[1](images))
    assert all(torch.equal(entry, nets[0].state_dict()[name]) for name, entry in nets[1].state_dict().items())


def test_an_error_leaves_the_layer_in_training_mode():
    layer = nn.BatchNorm1d(2)
    with running_statistics(layer), pytest.raises(RuntimeError):
        layer(torch.ones(1, 2, dtype=torch.int64))
    assert layer.training
