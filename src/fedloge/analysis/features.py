"""Subject of the diagnostics: a run's generic model, the features that enter its classifier, and all its heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fedloge.checks import check_choice
from fedloge.collapse.streaming import check_features
from fedloge.data.datamodule import FederatedDataModule
from fedloge.errors import FedlogeError, RunError
from fedloge.evaluation.shots import shots
from fedloge.federation.state import FederatedState, Tensors
from fedloge.methods.base import Batch, Client, Method, num_images, within_any
from fedloge.models.heads import FixedLinear
from fedloge.runs.run import load_run
from fedloge.system.live import track

Stage = Literal["last", "final"]
"""``last``, as trained, or ``final``, after realignment or fine-tuning."""

CHUNK = 4096
"""Number of features held in float64 at a time."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features [n, d] that enter the classifier, in the model's precision, and labels int64 [n], on the CPU."""

    values: Tensor
    labels: Tensor

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks in float64, in order."""
        parts = zip(torch.split(self.values, CHUNK), torch.split(self.labels, CHUNK), strict=True)
        return ((values.double(), labels) for values, labels in parts)


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head of the generic model: weight float64 [C, d], bias [C] or None, and whether it is frozen."""

    weight: Tensor
    bias: Tensor | None
    frozen: bool


@dataclass(frozen=True, eq=False)
class Subject:
    """A run with the features and heads to analyse.

    Args:
        method: Name of the method.
        dataset: Name of the dataset.
        round: Rounds trained.
        stage: State of the run that is analysed.
        class_names: Length C.
        groups: many, medium or few for every class.
        test: Features of the balanced test set.
        train: Features of all clients' training images, without augmentation.
        heads: The generic model's linear heads by name, the head in use first.
        classifier: Name of the head in use; None without a linear layer with a row per class.
        agreement: Share of the test images on which the head in use alone predicts the same as the generic model.
        client_heads: Names of the linear heads of which clients have a version of their own; those that were never
            sampled may have none.
        client_counts: n_{k,c}, int64 [K, C].
        state: Federated state that was loaded.
    """

    method: str
    dataset: str
    round: int
    stage: Stage
    class_names: Sequence[str]
    groups: Sequence[str]
    test: Features
    train: Features
    heads: Mapping[str, Head]
    classifier: str | None
    agreement: float
    client_heads: Sequence[str]
    client_counts: Tensor
    state: FederatedState

    @property
    def class_counts(self) -> Tensor:
        """N_c of the training set, int64 [C]."""
        return self.client_counts.sum(0)

    @property
    def frozen(self) -> Head | None:
        """The head that is not trained (SSE-C), or None."""
        return next((head for head in self.heads.values() if head.frozen), None)

    def client_weights(self, head: str) -> Iterator[tuple[int, Tensor]]:
        """Number of each client that has its own version of a head, and its weight, float64 [C, d]."""
        name = f"{head}.weight"
        return ((client, own[name].double()) for client, own in enumerate(self.state.clients) if name in own)


def open_subject(path: str | Path, overrides: Sequence[str] = (), stage: Stage = "last") -> Subject:
    """Load a run's generic model and compute its features of the test and the training set.

    Args:
        path: The run folder.
        overrides: Options of ``fedloge fit`` to change.
        stage: ``last``, as trained, or ``final``, after realignment or fine-tuning.

    Raises:
        RunError: If the path is not a run, its method has no generic model, or the run has no such state.
        ConfigError: If features are not finite, because training diverged.
        FedlogeError: If an override changes an option of the model.
    """
    check_choice("state", stage, ("last", "final"))
    for override in overrides:
        if override.startswith("--model"):
            raise FedlogeError(f"{override!r} cannot change a trained run. Give a run that was trained with it.")
    run = load_run(path, overrides)
    method, data = run.method, run.data
    if "global" not in method.views:
        name = type(method).__name__
        raise RunError(f"{str(path)!r} cannot be analysed: {name} has no generic model. Give a run of another method.")
    state = run.state(stage)
    run.load_data()
    counts = torch.from_numpy(data.partition.train_counts)
    population = [Client(client, tuple(own)) for client, own in enumerate(counts.tolist())]
    averaged = method.generic_personal(state.clients, population)
    method.load(state.shared, averaged)
    device = run.trainer.strategy.root_device
    method.to(device).eval()
    tests = track(data.test_batches(device=device), "test images", len(data.test_labels), num_images)
    trains = track(training_batches(data, device), "training images", int(counts.sum()), num_images)
    classifier, test, predictions = features_of(method, tests)
    train = features_of(method, trains)[1]
    dim = test.values.shape[1]
    heads = generic_heads(method, dim, averaged)
    classifier = classifier or next(iter(heads), None)
    return Subject(
        method=type(method).__name__,
        dataset=data.source.name,
        round=state.round,
        stage=stage,
        class_names=data.class_names,
        groups=shots(data.class_counts, run.trainer.shot_rule),
        test=test,
        train=train,
        heads=dict(sorted(heads.items(), key=lambda item: item[0] != classifier)),
        classifier=classifier,
        agreement=agreement(heads[classifier], test, predictions) if classifier else math.nan,
        client_heads=own_heads(method, dim, state.clients),
        client_counts=counts,
        state=state,
    )


@torch.no_grad()
def features_of(method: Method, batches: Iterable[Batch]) -> tuple[str | None, Features, Tensor]:
    """The name of the generic model's classifier, the features that enter it, and the model's predictions, int64 [n].

    The classifier is the last linear layer with a row per class that the generic model calls; its input is projected or
    normalised where the method does that. For a method that calls none (τ-normalisation) the features are those
    that it passes to ``logits``.
    """
    called: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: called.append((name, inputs[0])))
        for name, module in linear_layers(method).items()
    ]
    kind = next(method.parameters()).dtype
    name, values, labels, predictions = None, [], [], []
    try:
        for images, own_labels in batches:
            features = method.features(images.to(kind), "global")
            called.clear()
            predictions.append(method.logits(features, "global").argmax(1).cpu())
            name, entering = called[-1] if called else (None, features)
            values.append(entering.cpu())
            labels.append(own_labels.cpu())
    finally:
        for hook in hooks:
            hook.remove()
    found = Features(torch.cat(values), torch.cat(labels))
    check_features(found.values, found.labels, method.num_classes)
    return name, found, torch.cat(predictions)


def agreement(head: Head, features: Features, predictions: Tensor) -> float:
    """Share of the features for which a head alone makes these predictions."""
    bias = 0 if head.bias is None else head.bias
    own = torch.cat([(values @ head.weight.T + bias).argmax(1) for values, _ in features.batches()])
    return float((own == predictions).double().mean())


def linear_layers(method: Method) -> dict[str, nn.Linear | FixedLinear]:
    """Linear layers with a row per class outside the bodies, by name."""
    return {
        name: module
        for name, module in method.named_modules()
        if isinstance(module, (nn.Linear, FixedLinear))
        and len(module.weight) == method.num_classes
        and not within_any(name, method.bodies)
    }


def generic_heads(method: Method, dim: int, averaged: Tensors) -> dict[str, Head]:
    """Heads of the generic model with d columns as loaded: shared, fixed, or averaged for testing."""
    heads = {}
    for name, module in linear_layers(method).items():
        on_server = not method.is_personal(f"{name}.weight") or f"{name}.weight" in averaged
        if on_server and module.weight.shape[1] == dim:
            bias = None if module.bias is None else module.bias.detach().double().cpu()
            heads[name] = Head(module.weight.detach().double().cpu(), bias, within_any(name, method.fixed))
    return heads


def own_heads(method: Method, dim: int, clients: Iterable[Tensors]) -> list[str]:
    """Names of the heads with d columns of which some client has a version of its own."""
    names = [name for name, module in linear_layers(method).items() if module.weight.shape[1] == dim]
    found: set[str] = set()
    for own in clients:
        found |= {name for name in names if f"{name}.weight" in own}
        if len(found) == len(names):
            break
    return [name for name in names if name in found]


def training_batches(data: FederatedDataModule, device: torch.device) -> Iterator[Batch]:
    """All clients' training images in order, without augmentation."""
    for client in range(data.num_clients):
        yield from data.client_batches(client, device)
