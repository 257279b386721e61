"""Neural collapse as a model trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from fedloge.checks import check_least
from fedloge.collapse.measurement import measure_batches
from fedloge.errors import ConfigError


class CollapseCallback(Callback):
    """Measures collapse at the end of training epochs and logs ``collapse/nc1``, ``collapse/cdnv``, ….

    The features are the input of the classifier, found by a hook while the module is called on the images of a batch.
    Both passes run in eval mode over the same data, which must come without random augmentation. A federated run has no
    epochs of its own: measure its models with :func:`measure_module`.

    Args:
        classifier: Name of the linear layer in the module, for example ``head``.
        loader: Batches (images, labels, …) to measure on; None takes the training loader as it is.
        every_n_epochs: Epochs between two measurements.
        min_count: Fewest samples of a class that is measured.
        prefix: Prefix of the logged names.

    Raises:
        ConfigError: At the first measurement, if there is no such linear layer or the data have fewer than two classes.
    """

    def __init__(
        self,
        classifier: str = "head",
        loader: Iterable[Any] | None = None,
        every_n_epochs: int = 1,
        min_count: int = 1,
        prefix: str = "collapse/",
    ) -> None:
        check_least("every_n_epochs", every_n_epochs, 1)
        self.classifier, self.loader, self.prefix = classifier, loader, prefix
        self.every_n_epochs, self.min_count = every_n_epochs, min_count

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        loader: Any = trainer.train_dataloader if self.loader is None else self.loader
        values = measure_module(pl_module, self.classifier, loader, self.min_count)
        pl_module.log_dict({self.prefix + name: value for name, value in values.items()})


def measure_module(module: nn.Module, classifier: str, loader: Iterable[Any], min_count: int = 1) -> dict[str, float]:
    """Collapse of the features that enter a module's classifier; the module comes back in the mode it was in.

    Args:
        module: Called on the images of a batch.
        classifier: Name of its linear layer.
        loader: Batches (images, labels, …), the same in every pass.
        min_count: Fewest samples of a class.

    Raises:
        ConfigError: If there is no such linear layer.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    if classifier not in layers:
        raise ConfigError("classifier", classifier, "is no linear layer of the model", f"It has {', '.join(layers)}.")
    head = layers[classifier]
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        return measure_batches(
            lambda: features_of(module, head, loader), head, num_classes=head.out_features, min_count=min_count
        )
    finally:
        for part, mode in modes.items():
            part.training = mode


@torch.no_grad()
def features_of(module: nn.Module, head: nn.Module, loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs of ``head`` while the module is called on the images of each batch, and the labels."""
    caught: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    device = next(module.parameters()).device
    try:
        for images, labels, *_ in loader:
            module(images.to(device))
            yield caught.pop(), labels
            caught.clear()
    finally:
        hook.remove()
