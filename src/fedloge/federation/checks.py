"""Checks before a run: method and data fit each other, and the server knows only what the method declares."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from fedloge.callbacks import FederatedCallback
from fedloge.checks import check_choice, check_least, check_not_negative, check_share, check_threads
from fedloge.data.datamodule import FederatedDataModule
from fedloge.data.loader import LastBatch, batch_sizes
from fedloge.errors import ConfigError
from fedloge.methods.base import Client, Method, ServerData
from fedloge.models.base import Backbone
from fedloge.models.batchnorm import trains_on_one_image
from fedloge.system.one_process import one_process


def check_lengths(
    rounds: int, local_epochs: int, participation: float, evaluate_every: int, checkpoint_every: int
) -> None:
    """Check the trainer's options for the length of a run and of its rounds.

    Raises:
        ConfigError: If one is out of range.
    """
    check_least("trainer.rounds", rounds, 1)
    check_least("trainer.local_epochs", local_epochs, 1)
    check_least("trainer.evaluate_every", evaluate_every, 1)
    check_least("trainer.checkpoint_every", checkpoint_every, 1)
    if not 0 < participation <= 1:
        remedy = "1.0 trains every client in every round."
        raise ConfigError("trainer.participation", participation, "must lie in (0, 1]", remedy)


def check_limits(seed: int, threads: int, on_client_failure: str, min_clients: float) -> None:
    """Check the trainer's other options.

    Raises:
        ConfigError: If one is out of range or unknown.
    """
    check_not_negative("trainer.seed", seed, "Choose 0 or more.")
    check_threads("trainer.threads", threads)
    check_choice("trainer.on_client_failure", on_client_failure, ("retry", "skip", "abort"))
    check_share("trainer.min_clients", min_clients)


LIGHTNING_ERRORS = MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError


@contextlib.contextmanager
def clear_lightning_errors(**arguments: Any) -> Iterator[None]:
    """Turn an error of Lightning's constructor into a ConfigError that names the argument.

    Args:
        **arguments: Arguments that the user gave. Lightning does not say which of them its error is about: it is the
            first that raises an error beside those before it.
    """
    try:
        yield
    except LIGHTNING_ERRORS as error:
        name = next((name for name in arguments if not _accepts(arguments, name)), None)
        if name is None:
            raise
        remedy = "auto chooses one that is available." if name == "accelerator" else ""
        problem = f"cannot be used: {' '.join(str(error).split()).rstrip('.')}"
        raise ConfigError(f"trainer.{name}", _named(arguments[name]), problem, remedy) from error


def _accepts(arguments: Mapping[str, Any], last: str) -> bool:
    """Whether Lightning accepts the arguments up to the last one."""
    names = list(arguments)
    part = {name: arguments[name] for name in names[: names.index(last) + 1]}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    try:
        with one_process() as alone:
            Trainer(**{"logger": False, **part, **quiet, **alone})
    except LIGHTNING_ERRORS:
        return False
    return True


def _named(value: Any) -> Any:
    """A value as a message shows it: objects by their classes."""
    if isinstance(value, list):
        return [_named(item) for item in value]
    return value if isinstance(value, str | int | float | None) else type(value).__name__


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Require callbacks that a run calls.

    Raises:
        ConfigError: If one is not a :class:`FederatedCallback`; it names the class.
    """
    for callback in callbacks:
        if not isinstance(callback, FederatedCallback):
            problem = "is a callback of Lightning's own loop, and nothing in a federated run would call it"
            remedy = "Leave it out, or write a FederatedCallback."
            raise ConfigError("trainer.callbacks", type(callback).__name__, problem, remedy)


def check_types(model: Any, data: Any, val_dataloaders: Any = None) -> tuple[Method, FederatedDataModule]:
    """Return model and data if they are a method and a federated data module.

    Raises:
        ConfigError: If one of them is something else, or there are loaders of validation data.
    """
    if val_dataloaders is not None:
        remedy = "Leave it out: the data module has the validation and the test images."
        raise ConfigError("val_dataloaders", type(val_dataloaders).__name__, "is not used", remedy)
    if not isinstance(model, Method):
        raise ConfigError("model", type(model).__name__, "is not a fedloge Method", "Subclass fedloge.Method.")
    if not isinstance(data, FederatedDataModule):
        remedy = "Pass fit(method, datamodule=...)."
        raise ConfigError("datamodule", type(data).__name__, "is not a FederatedDataModule", remedy)
    return model, data


def check_fit(method: Method, data: FederatedDataModule, local_epochs: int) -> None:
    """Check that method, backbone and data fit each other, and warn of what fits badly.

    Raises:
        ConfigError: If they do not; names the option to change.
    """
    method.check()
    if method.num_classes != data.num_classes:
        problem = f"but the data have {data.num_classes} classes"
        raise ConfigError("model.num_classes", method.num_classes, problem, "Make them equal.")
    if method.backbone.in_channels != data.channels:
        problem = f"but the images have {data.channels} channel(s)"
        remedy = f"Set --model.backbone.in_channels={data.channels}."
        raise ConfigError("model.backbone.in_channels", method.backbone.in_channels, problem, remedy)
    _check_frozen(method, local_epochs)
    _compare_with_pretraining(method.backbone, data)


def _check_frozen(method: Method, local_epochs: int) -> None:
    for phase in method.phases(local_epochs) if method.backbone.frozen else ():
        method.phase = phase
        if phase.epochs and not any(method.is_trained(name) for name, _ in method.named_parameters()):
            problem = f"leaves {type(method).__name__} nothing to train in its phase {phase.name!r}"
            remedy = "Name submodules with --model.backbone.trainable, or choose another method."
            raise ConfigError("model.backbone.frozen", True, problem, remedy)


def _compare_with_pretraining(backbone: Backbone, data: FederatedDataModule) -> None:
    """Warn where the images differ from those that the backbone's weights were made with."""
    for name in ("mean", "std", "image_size"):
        made, own = getattr(backbone, name), getattr(data.source, name)
        if made is not None and (tuple(own) if isinstance(made, tuple) else own) != made:
            shown = [list(value) if isinstance(value, tuple) else value for value in (own, made)]
            warnings.warn(
                f"data.source.{name} is {shown[0]}, and the backbone's weights were made with {shown[1]}: set "
                f"--data.source.{name}='{shown[1]}' to use the same",
                stacklevel=2,
            )


def usual_last_batch(method: Method, data: FederatedDataModule) -> LastBatch:
    """``data.last_batch`` as given, or else ``merge`` for a network that cannot train on one image."""
    return data.asked_last_batch or ("keep" if _trains_on_one_image(method, data) else "merge")


def settle_last_batch(method: Method, data: FederatedDataModule, population: Sequence[Client]) -> list[str]:
    """Choose ``data.last_batch`` where that is left open; returns what happens to batches of one image, if any."""

    def single() -> int:
        sizes = (batch_sizes(client.num_examples, data.batch_size, data.last_batch) for client in population)
        return sum(1 in own for own in sizes)

    data.last_batch = data.asked_last_batch or "keep"
    before, notes = single(), []
    if not before or _trains_on_one_image(method, data):
        return []
    data.last_batch = usual_last_batch(method, data)
    left = single()
    if before > left:
        notes.append(f"Clients whose last batch is one image, merged with the batch before: {before - left}.")
    if left:
        notes.append(f"Clients with batches of one image, for which BatchNorm takes its running statistics: {left}.")
    return notes


def _trains_on_one_image(method: Method, data: FederatedDataModule) -> bool:
    return trains_on_one_image(method, method.all_logits, (data.channels, data.image_size, data.image_size))


def server_data(method: Method, data: FederatedDataModule) -> ServerData:
    """The knowledge that the method declares in ``privileged``, and nothing else."""
    counts = tuple(map(int, data.class_counts)) if "class_counts" in method.privileged else None
    if "auxiliary" not in method.privileged:
        return ServerData(counts)
    images, labels = data.auxiliary_set()
    return ServerData(counts, (images.to(next(method.parameters()).dtype), labels))


def sha256(module: nn.Module) -> str:
    """Hash of a module's state, including the names of its entries."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
