import pytest
import torch
from torch import nn

from fedloge.errors import ConfigError
from fedloge.models import CifarResNet, ResNet, SmallCNN


@pytest.mark.parametrize(
    ("backbone", "dim"),
    [
        (ResNet(18), 512),
        (ResNet(50, stem="imagenet"), 2048),
        (ResNet(18, in_channels=1), 512),
        (CifarResNet(20), 64),
        (CifarResNet(8, width=4, in_channels=1), 16),
        (SmallCNN((8, 12), in_channels=1), 12),
    ],
)
def test_features(backbone, dim):
    assert backbone.out_features == dim
    assert backbone(torch.rand(2, backbone.in_channels, 32, 32)).shape == (2, dim)


def test_cifar_stem_keeps_the_resolution():
    net = ResNet(18).net
    assert net.conv1.kernel_size == (3, 3)
    assert isinstance(net.maxpool, nn.Identity)


def test_published_sizes():
    """ResNet-20 has 0.27 M parameters (He et al., table 6), ResNet-18 with the CIFAR stem 11.17 M without its head,
    ResNet-50 25,557,032 with ImageNet's head of 1000 · 2048 + 1000 (torchvision)."""
    nets = CifarResNet(20), ResNet(18), ResNet(50, stem="imagenet")
    sizes = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert sizes[0] == pytest.approx(0.27e6, rel=0.02)
    assert sizes[1] == 11_168_832
    assert sizes[2] == 25_557_032 - 2_049_000


def test_convolutions_can_be_drawn_as_torch_draws_them():
    """U(±1/√fan_in) has variance 1/(3 fan_in); He's has 2/fan_out, six times as much in a 3x3 layer from 64 to 64."""
    for init, variance in (("torch", 1 / (3 * 9 * 64)), ("he", 2 / (9 * 64))):
        weight = ResNet(18, init=init).net.layer1[0].conv1.weight
        assert weight.var().item() == pytest.approx(variance, rel=0.05)
    assert weight.abs().max() > (9 * 64) ** -0.5
    assert ResNet(18, init="torch").net.conv1.weight.abs().max() <= 27**-0.5
    with pytest.raises(ConfigError, match=r"model\.backbone\.init=.*xavier.*Choose one of he, torch"):
        ResNet(18, init="xavier")


def test_bad_shapes_name_the_option():
    with pytest.raises(ConfigError, match=r"backbone\.depth=9"):
        CifarResNet(9)
    with pytest.raises(ConfigError, match=r"backbone\.depth=19"):
        ResNet(19)
    with pytest.raises(ConfigError, match=r"backbone\.channels="):
        SmallCNN(())
