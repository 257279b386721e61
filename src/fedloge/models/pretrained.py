"""Backbones of other libraries, with their pretrained weights: torchvision's and timm's classification models."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fedloge.checks import check_choice
from fedloge.errors import ConfigError, did_you_mean
from fedloge.models.base import Backbone

Norm = Literal["batch", "group", "none"]
GROUPS = 32
"""Number of groups of GroupNorm (Wu & He, ECCV 2018), or the largest divisor of the channels below it."""
WEIGHTS, FROZEN = "model.backbone.weights", "model.backbone.frozen"


class ImportedBackbone(Backbone):
    """A network of another library without its last layer.

    Args:
        net: Network that maps images [n, 3, H, W] to features [n, d].
        in_channels: Channels of the images; the first convolution is replaced where the network takes another number.
        image_size: Height and width of a trial image, with which d is found.
        norm: ``batch`` keeps the network's BatchNorm layers, ``group`` replaces them by GroupNorm and ``none`` by
            nothing. GroupNorm takes over their scale and shift.
        frozen: Whether no part is trained.
        trainable: Submodules to train, all others being frozen; None trains all, or none if ``frozen``.
    """

    def __init__(
        self,
        net: nn.Module,
        in_channels: int,
        image_size: int,
        norm: Norm,
        frozen: bool,
        trainable: Sequence[str] | None,
    ) -> None:
        super().__init__()
        check_choice("model.backbone.norm", norm, get_args(Norm))
        if norm != "batch":
            replace_batch_norms(net, norm)
        self.net, self.in_channels = net, in_channels
        self.frozen = _frozen(self, frozen, trainable)
        self.out_features = _feature_size(net, in_channels, image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, d] of images; images [n, d, 1, 1] are features that were computed before."""
        if images.shape[1:] == (self.out_features, 1, 1):
            return images.flatten(1)
        features: Tensor = self.net(images)
        return features.flatten(1)


class TorchvisionBackbone(ImportedBackbone):
    """Any classification model of torchvision that ends in a linear layer, without this layer.

    Args:
        name: Name of the model, such as ``resnet18``, ``efficientnet_b0`` or ``vit_b_16``.
        weights: Pretrained weights: a name of torchvision's (``DEFAULT``, ``IMAGENET1K_V2``), or a file (safetensors,
            or a state dict saved by torch). None draws them at random.
        frozen: Whether the whole backbone stays as it is. Its features are then computed once for every image.
        trainable: Submodules to train, such as ``[layer4]``; all others are frozen.
        norm: ``batch``, or ``group`` or ``none`` in place of BatchNorm.
        in_channels: Channels of the images; with 1, the filters of the first convolution are summed over colours.
        image_size: Height and width of the images that the network is built for, where it needs to know (``vit_b_16``).

    Raises:
        ConfigError: If the model, the weights, the file or a submodule does not exist, or the weights do not fit.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        frozen: bool = False,
        trainable: Sequence[str] | None = None,
        norm: Norm = "batch",
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        from torchvision import models

        names = models.list_models(module=models)
        if name not in names:
            remedy = did_you_mean(name, names).strip() or "See torchvision's classification models."
            raise ConfigError("model.backbone.name", name, "is no classification model of torchvision", remedy)
        options: dict[str, Any] = {}
        if "aux_logits" in inspect.signature(models.get_model_builder(name)).parameters:
            options["aux_logits"] = False
        if image_size is not None and "vit" in name:
            options["image_size"] = image_size
        net = models.get_model(name, weights=None, **options)
        transform = None
        if weights is not None:
            entries, transform = _torchvision_weights(name, weights)
            _drop_last(net)
            load_weights(net, entries, weights)
        else:
            _drop_last(net)
        _adapt_first(net, in_channels)
        size = image_size or (transform.crop_size[0] if transform is not None else 224)
        super().__init__(net, in_channels, size, norm, frozen, trainable)
        if transform is not None:
            self.mean, self.std, self.image_size = tuple(transform.mean), tuple(transform.std), size


class TimmBackbone(ImportedBackbone):
    """Any model of the timm library without its classifier (``pip install 'fedloge[timm]'``).

    Args:
        name: Name of the model, such as ``resnet18`` or ``vit_tiny_patch16_224``.
        pretrained: Whether to load timm's weights from the Hugging Face hub or its cache.
        weights: File with weights (safetensors, or a state dict saved by torch) instead.
        frozen: Whether the whole backbone stays as it is. Its features are then computed once for every image.
        trainable: Submodules to train; all others are frozen.
        norm: ``batch``, or ``group`` or ``none`` in place of BatchNorm.
        in_channels: Channels of the images.
        image_size: Height and width of the images that the network is built for, where it needs to know.

    Raises:
        ConfigError: If timm is missing, or the model, the file or a submodule does not exist.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        weights: str | None = None,
        frozen: bool = False,
        trainable: Sequence[str] | None = None,
        norm: Norm = "batch",
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise ConfigError("model.backbone", name, "needs timm", "Run `pip install 'fedloge[timm]'`.") from error
        if not timm.is_model(name):
            remedy = did_you_mean(name, timm.list_models()).strip() or "See timm.list_models()."
            raise ConfigError("model.backbone.name", name, "is no model of timm", remedy)
        sized = {} if image_size is None else {"img_size": image_size}
        try:
            net = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **sized)
        except TypeError:  # a convolutional network, which takes any size
            net = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=in_channels)
        except OSError as error:  # no network, no cache
            remedy = "Download the file of weights elsewhere and name it with --model.backbone.weights=FILE."
            raise ConfigError("model.backbone.pretrained", True, f"could not load weights: {error}", remedy) from error
        if weights is not None:
            load_weights(net, read_weights(weights), weights)
        about = net.pretrained_cfg
        size = image_size or about["input_size"][-1]
        super().__init__(net, in_channels, size, norm, frozen, trainable)
        if pretrained or weights is not None:
            self.mean, self.std, self.image_size = tuple(about["mean"]), tuple(about["std"]), size


def read_weights(path: str) -> dict[str, Tensor]:
    """Entries of a file of weights: safetensors, or a state dict saved by torch, which is read without unpickling code.

    Raises:
        ConfigError: If the file does not exist or is something else.
    """
    if not Path(path).is_file():
        raise ConfigError(WEIGHTS, path, "is no file", "Put the file of weights there, or name another.")
    from safetensors.torch import load_file

    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        found = found.get("state_dict", found)
        return {name.removeprefix("module."): entry for name, entry in found.items() if isinstance(entry, Tensor)}
    except Exception as error:  # torch and safetensors raise almost any type on another file
        problem = f"cannot be read as weights: {str(error).splitlines()[0]}"
        raise ConfigError(WEIGHTS, path, problem, "Save a state dict with safetensors or torch.save.") from error


def load_weights(net: nn.Module, entries: Mapping[str, Tensor], origin: str) -> None:
    """Load a network without its last layer from weights, which may have one.

    Raises:
        ConfigError: If entries of the network are missing or have another shape.
    """
    own = net.state_dict()
    wrong = [name for name, entry in own.items() if name not in entries or entries[name].shape != entry.shape]
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong:
        problem = f"does not fit the model: {len(wrong)} of {len(own)} entries are missing or differ in shape"
        raise ConfigError(WEIGHTS, origin, f"{problem} ({', '.join(wrong[:5])})", "Name the weights of this model.")
    net.load_state_dict({name: entries.get(name, entry) for name, entry in own.items()})


def replace_batch_norms(net: nn.Module, norm: Norm) -> None:
    """Replace every BatchNorm2d by GroupNorm with its scale and shift, or by nothing."""
    for name, module in net.named_children():
        if isinstance(module, nn.BatchNorm2d):
            setattr(net, name, _group_norm(module) if norm == "group" else nn.Identity())
        else:
            replace_batch_norms(module, norm)


def _group_norm(batch: nn.BatchNorm2d) -> nn.GroupNorm:
    group = nn.GroupNorm(math.gcd(GROUPS, batch.num_features), batch.num_features, batch.eps, batch.affine)
    if batch.affine:
        group.load_state_dict({"weight": batch.weight, "bias": batch.bias})
    return group


def _torchvision_weights(name: str, weights: str) -> tuple[Mapping[str, Tensor], Any]:
    """Entries and transform of torchvision's weights of that name, or of a file."""
    from torchvision import models

    known = models.get_model_weights(name)
    if weights not in known.__members__:
        if "." not in weights and "/" not in weights:
            remedy = f"Choose one of {', '.join(known.__members__)}, or name a file."
            raise ConfigError(WEIGHTS, weights, f"is neither a file nor weights of {name}", remedy)
        return read_weights(weights), known["DEFAULT"].transforms()
    chosen = known[weights]
    try:
        return chosen.get_state_dict(progress=False, check_hash=True), chosen.transforms()
    except OSError as error:  # no network
        place = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
        remedy = f"Put {chosen.url} at {str(place)!r}, or name the file with --model.backbone.weights=FILE."
        raise ConfigError(WEIGHTS, weights, f"could not be downloaded: {error}", remedy) from error


def _drop_last(net: nn.Module) -> None:
    """Replace the last linear layer by nothing."""
    name = next((name for name, module in reversed(list(net.named_modules())) if isinstance(module, nn.Linear)), None)
    if name is None:
        problem = "does not end in a linear layer"
        raise ConfigError("model.backbone.name", type(net).__name__, problem, "Choose another model.")
    net.set_submodule(name, nn.Identity())


def _adapt_first(net: nn.Module, in_channels: int) -> None:
    """Let the first convolution take another number of channels; its filters are averaged to keep their response."""
    name, first = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    if first.in_channels == in_channels:
        return
    made = nn.Conv2d(
        in_channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    with torch.no_grad():
        made.weight.copy_(first.weight.sum(1, keepdim=True).expand_as(made.weight) / in_channels)
        if first.bias is not None and made.bias is not None:
            made.bias.copy_(first.bias)
    net.set_submodule(name, made)


@torch.no_grad()
def _feature_size(net: nn.Module, in_channels: int, image_size: int) -> int:
    """Length d of the features of an image, from a trial in eval mode."""
    trained = net.training
    features = net.eval()(torch.zeros(1, in_channels, image_size, image_size))
    net.train(trained)
    return int(features.flatten(1).shape[1])


def _frozen(backbone: ImportedBackbone, frozen: bool, trainable: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the largest submodules that are not trained, relative to the backbone; ``""`` is all of it."""
    if trainable is None:
        return ("",) if frozen else ()
    if frozen:
        raise ConfigError(FROZEN, frozen, f"does not go with trainable={list(trainable)}", "Set one of the two.")
    parts = dict(backbone.net.named_modules())
    for part in trainable:
        if part not in parts or not part:
            remedy = did_you_mean(part, [name for name in parts if name]).strip()
            raise ConfigError("model.backbone.trainable", part, "is no submodule of the network", remedy)
    return tuple(f"net.{name}" for name in _without(backbone.net, "", tuple(trainable)))


def _without(module: nn.Module, prefix: str, parts: tuple[str, ...]) -> list[str]:
    """Largest submodules and parameters that lie outside ``parts``."""
    names: list[str] = []
    for name, child in [*module.named_children(), *module.named_parameters(recurse=False)]:
        path = f"{prefix}{name}"
        if any(path == part or path.startswith(f"{part}.") for part in parts):
            continue
        if any(part.startswith(f"{path}.") for part in parts) and isinstance(child, nn.Module):
            names += _without(child, f"{path}.", parts)
        else:
            names.append(path)
    return names
