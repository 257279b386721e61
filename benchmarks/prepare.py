"""Make a workload's inputs: images, split by fedloge's own functions, initial state, and the first round's batches."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fedloge.methods
from benchmarks.problem import Arrays, Problem, build_backbone, describe, to_arrays
from benchmarks.workloads import Federation, Kind
from fedloge.data import Arrays as Source
from fedloge.data import FederatedDataModule
from fedloge.data.sources import CIFAR10
from fedloge.errors import DataError
from fedloge.methods.base import Method
from fedloge.trainer import FederatedTrainer


def prepare(folder: Path, kind: Kind, federation: Federation, device: str = "cpu", cifar: str | None = None) -> None:
    """Write everything that :class:`benchmarks.problem.Problem` reads.

    Args:
        folder: Folder to write to.
        kind: Kind of the workload.
        federation: Data, network and training.
        device: Device of the contenders.
        cifar: Folder of the real CIFAR-10; None makes images from the seed.

    Raises:
        DataError: If the folder does not hold CIFAR-10, or it has fewer images of a class than are asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset = "synthetic" if cifar is None else "CIFAR-10"
    (folder / "problem.json").write_text(describe(kind, device, dataset, federation))
    if kind == "ssec":
        return
    data = synthetic(federation) if cifar is None else real(federation, cifar)
    np.savez(folder / "data.npz", **data)  # type: ignore[arg-type]
    module = data_module(federation, {name: torch.from_numpy(array) for name, array in data.items()})
    module.setup()
    split = {part: [own.tolist() for own in getattr(module.partition, part)] for part in ("train", "test")}
    (folder / "partition.json").write_text(json.dumps(split))
    entries = initial(federation, module)
    np.savez(folder / "initial.npz", **entries)  # type: ignore[arg-type]
    if kind == "eval":
        np.savez(folder / "initial.npz", **entries | telling_heads(Problem(folder)))  # type: ignore[arg-type]
    if federation.augment == "none":
        orders = {str(client): order(module, federation, client) for client in range(federation.num_clients)}
        np.savez(folder / "orders.npz", **orders)  # type: ignore[arg-type]
        np.savez(folder / "served.npz", images=served(module))


def synthetic(federation: Federation) -> Arrays:
    """CIFAR-shaped images from the seed: a smooth pattern per class under noise."""
    draw = np.random.default_rng(federation.seed)
    coarse = draw.uniform(-40, 40, (federation.num_classes, 3, 4, 4))
    size = federation.image_size
    patterns = coarse.repeat(size // 4, axis=2).repeat(size // 4, axis=3)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(federation.num_classes), count)
        noise = draw.normal(128, 40, (len(labels), 3, size, size))
        return np.clip(noise + patterns[labels], 0, 255).astype(np.uint8), labels

    train, test = part(federation.per_class), part(federation.test_per_class)
    return {"train_images": train[0], "train_labels": train[1], "test_images": test[0], "test_labels": test[1]}


def real(federation: Federation, root: str) -> Arrays:
    """The first images of every class of CIFAR-10."""
    dataset = CIFAR10(root).load()
    parts: Arrays = {}
    for part, images, labels, count in (
        ("train", dataset.train, dataset.train_labels, federation.per_class),
        ("test", dataset.test, dataset.test_labels, federation.test_per_class),
    ):
        members = [torch.nonzero(labels == c).flatten() for c in range(federation.num_classes)]
        smallest = min(map(len, members))
        if smallest < count:
            raise DataError(f"CIFAR-10 has {smallest} {part} images of a class, and the workload wants {count}.")
        chosen = torch.cat([own[:count] for own in members])
        parts[f"{part}_images"], parts[f"{part}_labels"] = images.gather(chosen).numpy(), labels[chosen].numpy()
    return parts


def data_module(federation: Federation, data: dict[str, Tensor]) -> FederatedDataModule:
    """fedloge's view of the data; the split follows from the seed."""
    source = Source(**data, mean=federation.mean, std=federation.std)  # type: ignore[arg-type]
    return FederatedDataModule(
        source,
        num_clients=federation.num_clients,
        alpha=federation.alpha,
        imbalance_factor=federation.imbalance_factor,
        batch_size=federation.batch_size,
        augment=federation.augment,
        seed=federation.seed,
        eval_batch_size=federation.eval_batch_size,
    )


def build_method(federation: Federation, kind: type[Method] | None = None) -> Method:
    """fedloge's method, or another kind of it, with weights drawn from the seed."""
    torch.manual_seed(federation.seed)
    own: dict[str, Any] = {"gamma": federation.gamma} if federation.method == "FedLoGe" else {}
    kind = kind or getattr(fedloge.methods, federation.method)
    return kind(
        build_backbone(federation), federation.num_classes, lr=federation.lr, momentum=federation.momentum, **own
    )


def initial(federation: Federation, module: FederatedDataModule) -> Arrays:
    """The state before the first round as the server makes it."""
    with tempfile.TemporaryDirectory() as run:
        trainer = FederatedTrainer(executor="serial", accelerator="cpu", seed=federation.seed, run_dir=run)
        state = trainer.start(build_method(federation), module)
    arrays = to_arrays({**state.shared.tensors, **state.shared.fixed})
    for client, own in enumerate(state.clients):
        arrays |= to_arrays({f"personal/{client}/{name}": tensor for name, tensor in own.items()})
    return arrays


@torch.no_grad()
def telling_heads(problem: Problem) -> Arrays:
    """Random heads, another φ for every client, that give many answers.

    An untrained network gives all images the same answer, whoever computes it from whatever; it comes from the mean of
    the features, to which the rows of these heads are orthogonal.
    """
    network: Any = problem.network().eval()
    images, _ = problem.normalised("test")
    mean = torch.cat([network.backbone(part) for part in torch.split(images, 500)]).mean(0)
    draw = torch.Generator().manual_seed(problem.federation.seed)
    heads = [name for name in problem.initial if name.endswith(("sse.weight", "psi.weight", "phi.weight"))]
    weights = {name: torch.randn(problem.initial[name].shape, generator=draw) for name in heads}
    return to_arrays({name: rows - torch.outer(rows @ mean, mean) / (mean @ mean) for name, rows in weights.items()})


def served(module: FederatedDataModule) -> np.ndarray:
    """The training images as fedloge serves them, float32; zeros where no client holds an image."""
    images = torch.zeros(len(module.dataset.train_labels), module.channels, module.image_size, module.image_size)
    for client, own in enumerate(module.partition.train):
        images[torch.from_numpy(own)] = torch.cat([batch for batch, _ in module.client_batches(client)])
    return images.numpy()


def order(module: FederatedDataModule, federation: Federation, client: int) -> np.ndarray:
    """int64 [E, n_k]: which image comes when in a client's first round, read off the batches that fedloge serves."""
    images = module.dataset.train.gather(torch.arange(len(module.dataset.train_labels)))
    position = {image.numpy().tobytes(): index for index, image in enumerate(images)}
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (federation.mean, federation.std))
    loader = module.client_loader(client, seed=federation.seed, round=1)
    epochs = []
    for _ in range(federation.epochs):
        served = torch.cat([batch[0] for batch in loader])
        pixels = ((served * std + mean) * 255).round().to(torch.uint8)
        epochs.append([position[image.numpy().tobytes()] for image in pixels])
    return np.array(epochs, dtype=np.int64)
