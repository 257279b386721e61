"""Backbones of torchvision and timm: the last layer, weights from files, frozen parts, other normalisation."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from fedloge.errors import ConfigError
from fedloge.methods import Ditto, FedAvg, FedLoGe
from fedloge.models import TimmBackbone, TorchvisionBackbone
from fedloge.models.pretrained import load_weights


def images(n=2, channels=3, size=32):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A full classifier's state dict, as torch saves it, with the network."""
    torch.manual_seed(5)
    net = models.resnet18(num_classes=7).eval()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(net.state_dict(), path)
    return path, net


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("resnet18", 512),
        ("densenet121", 1024),
        ("mobilenet_v3_small", 1024),
        ("shufflenet_v2_x0_5", 1024),
        pytest.param("vgg11", 4096, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 768, marks=pytest.mark.slow),
        pytest.param("googlenet", 1024, marks=pytest.mark.slow),
    ],
)
def test_a_model_of_torchvision_ends_before_its_last_linear_layer(name, features):
    backbone = TorchvisionBackbone(name, image_size=64).eval()
    assert backbone.out_features == features
    assert backbone(images(size=64)).shape == (2, features)


def test_a_transformer_is_built_for_the_images(monkeypatch):
    small = models.vision_transformer.VisionTransformer
    monkeypatch.setattr(models.vision_transformer, "VisionTransformer", lambda **kw: small(**kw | {"num_layers": 1}))
    backbone = TorchvisionBackbone("vit_b_16", image_size=32).eval()
    assert backbone(images(1)).shape == (1, 768)


def test_a_file_of_weights_gives_the_features_before_its_last_layer(weights):
    path, net = weights
    backbone = TorchvisionBackbone("resnet18", weights=str(path)).eval()
    with torch.no_grad():
        assert torch.equal(net.fc(backbone(images())), net(images()))
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert backbone.image_size == 224


def test_safetensors_and_a_nested_state_dict_are_read_too(weights, tmp_path):
    path, net = weights
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    torch.save({"state_dict": {f"module.{name}": entry for name, entry in net.state_dict().items()}}, tmp_path / "n.pt")
    first = TorchvisionBackbone("resnet18", weights=str(path)).state_dict()
    for file in ("net.safetensors", "n.pt"):
        found = TorchvisionBackbone("resnet18", weights=str(tmp_path / file)).state_dict()
        assert all(torch.equal(found[name], entry) for name, entry in first.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "resnet17"},
            "model.backbone.name='resnet17' is no classification model of torchvision. Did you mean",
        ),
        ({"name": "squeezenet1_0"}, "does not end in a linear layer"),
        ({"name": "resnet18", "weights": "missing.pth"}, "model.backbone.weights='missing.pth' is no file"),
        (
            {"name": "resnet18", "weights": "FIRST"},
            "is neither a file nor weights of resnet18. Choose one of IMAGENET1K_V1",
        ),
        ({"name": "resnet18", "norm": "layer"}, "model.backbone.norm='layer' is unknown"),
        ({"name": "resnet18", "trainable": ["layer5"]}, "model.backbone.trainable='layer5' is no submodule"),
        ({"name": "resnet18", "trainable": ["layer4"], "frozen": True}, "does not go with trainable"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError) as error:
        TorchvisionBackbone(**options)
    assert message in str(error.value)


def test_weights_of_another_model_are_refused(weights, tmp_path):
    path, _ = weights
    with pytest.raises(ConfigError, match=r"does not fit the model: \d+ of \d+ entries"):
        TorchvisionBackbone("resnet34", weights=str(path))
    broken = tmp_path / "x.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        TorchvisionBackbone("resnet18", weights=str(broken))


def test_without_a_network_the_error_says_where_the_file_belongs(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(ConfigError) as error:
        TorchvisionBackbone("resnet18", weights="DEFAULT")
    assert "https://download.pytorch.org/models/resnet18" in str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / "resnet18") in str(error.value)


def test_grey_images_get_the_response_of_the_same_colour_images(weights):
    path, _ = weights
    grey = TorchvisionBackbone("resnet18", weights=str(path), in_channels=1).eval()
    colour = TorchvisionBackbone("resnet18", weights=str(path)).eval()
    one = images(channels=1)
    with torch.no_grad():
        assert torch.allclose(grey(one), colour(one.expand(-1, 3, -1, -1)), atol=1e-4)


def test_group_norm_keeps_scale_and_shift():
    net = nn.Sequential(nn.Conv2d(3, 48, 3), nn.BatchNorm2d(48))
    nn.init.uniform_(net[1].weight)
    from fedloge.models.pretrained import replace_batch_norms

    scale = net[1].weight.clone()
    replace_batch_norms(net, "group")
    assert isinstance(net[1], nn.GroupNorm)
    assert (net[1].num_groups, net[1].num_channels) == (16, 48)
    assert torch.equal(net[1].weight, scale)
    without = TorchvisionBackbone("resnet18", norm="none", image_size=32)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.GroupNorm) for module in without.modules())


def test_frozen_parts_are_fixed_not_trained_and_in_eval_mode():
    method = FedAvg(TorchvisionBackbone("resnet18", trainable=["layer4.1", "fc"], image_size=32), 3)
    method.begin_phase(method.phases(1)[0])
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert {name.removeprefix("backbone.net.").rpartition(".")[0] for name in trained} == {
        *("layer4.1.conv1", "layer4.1.bn1", "layer4.1.conv2", "layer4.1.bn2", "head")
    }
    assert not method.backbone.net.layer1.training
    assert method.backbone.net.layer4[1].training
    shared = method.shared_state()
    assert "backbone.net.conv1.weight" in shared.fixed
    assert all("layer4.1" in name or name.startswith("head") for name in shared.tensors)


def test_the_private_body_of_ditto_is_frozen_too():
    method = Ditto(TorchvisionBackbone("resnet18", frozen=True, image_size=32), 3)
    assert set(method.personal_entries()) == {"personal_head.weight", "personal_head.bias"}


def test_a_projection_is_trained_although_the_backbone_is_frozen():
    method = FedLoGe(TorchvisionBackbone("resnet18", frozen=True, image_size=32), 3, projection=True)
    assert method.is_shared("projection.weight")
    assert not method.is_shared("backbone.net.conv1.weight")


def test_features_pass_through(weights):
    backbone = TorchvisionBackbone("resnet18", frozen=True, image_size=32)
    features = torch.randn(4, 512)
    assert torch.equal(backbone(features[:, :, None, None]), features)


def test_weights_without_counters_of_batches_fit():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    entries = {name: entry for name, entry in net.state_dict().items() if "num_batches" not in name}
    load_weights(net, {**entries, "0.bias": torch.ones(4)}, "here")
    assert torch.equal(net[0].bias, torch.ones(4))


def test_timm_gives_features(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net = timm.create_model("resnet10t", num_classes=5).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    backbone = TimmBackbone("resnet10t", weights=str(tmp_path / "net.safetensors"), frozen=True, image_size=64).eval()
    with torch.no_grad():
        assert torch.allclose(net.get_classifier()(backbone(images(size=64))), net(images(size=64)), atol=1e-5)
    with pytest.raises(ConfigError, match="is no model of timm"):
        TimmBackbone("resnet10u")


def test_without_timm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedloge\[timm\]'"):
        TimmBackbone("resnet18")
