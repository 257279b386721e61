"""A loop as research code usually has it.

Images are PIL images, transformed one by one in a DataLoader; every client gets a deep copy of the model; the server
keeps a list of their state dicts and adds them up at the end of the round; every model is tested in a pass of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import transforms

from benchmarks.clock import Clock
from benchmarks.contenders.exchanging import drift
from benchmarks.problem import Arrays, Problem, to_arrays

States = list[dict[str, Tensor]]


def run(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """Do the problem's work."""
    match problem.kind:
        case "round":
            return rounds(problem, repetitions, clock)
        case "eval":
            return evaluations(problem, repetitions, clock)
        case "exchange":
            return exchanges(problem, repetitions, clock)
        case other:
            raise ValueError(f"naive has no {other!r}")


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images kept as arrays [H, W, 3] and opened with PIL, as torchvision's CIFAR does."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Any) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def pictures(problem: Problem, part: str) -> Pictures:
    """The training or the test images with the usual transforms."""
    federation, augmentation = problem.federation, []
    if part == "train" and federation.augment == "crop_flip":
        augmentation = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    usual = [transforms.ToTensor(), transforms.Normalize(federation.mean, federation.std)]
    return Pictures(
        problem.data[f"{part}_images"], problem.data[f"{part}_labels"], transforms.Compose([*augmentation, *usual])
    )


def rounds(problem: Problem, repetitions: int, clock: Clock) -> Arrays:
    """Train, average and test; a single round without augmentation is on the batches of the reference."""
    federation = problem.federation
    train, test = pictures(problem, "train"), pictures(problem, "test")
    model = problem.network()
    heads = [problem.personal(client) for client in range(federation.num_clients)]
    given = repetitions == 1 and federation.augment == "none"
    torch.manual_seed(federation.seed)
    for _ in range(repetitions):
        states: States = []
        for client in range(federation.num_clients):
            local = copy.deepcopy(model)
            local.load_state_dict(heads[client], strict=False)
            own = Subset(train, problem.partition["train"][client])
            epochs: Sequence[Iterable[Any]]
            if given:
                same = TensorDataset(*problem.served)
                epochs = [DataLoader(same, federation.batch_size, sampler=e.tolist()) for e in problem.orders[client]]
            else:
                epochs = [DataLoader(own, federation.batch_size, shuffle=True)] * federation.epochs
            local_training(problem, local, epochs)
            heads[client] = {name: copy.deepcopy(local.state_dict()[name]) for name in heads[client]}
            states.append(copy.deepcopy(local.state_dict()))
        model.load_state_dict(average(states, problem.sizes))
        evaluate_all(problem, model, heads, test)
        clock.tick()
    shared = {name: tensor for name, tensor in model.state_dict().items() if name not in (*heads[0], "sse.weight")}
    personal = {f"personal/{k}/{name}": tensor for k, head in enumerate(heads) for name, tensor in head.items()}
    held = sorted(index for own in problem.partition["train"] for index in own)
    own_images = {"check/images": torch.stack([train[index][0] for index in held])} if given else {}
    return to_arrays({**shared, **personal, **own_images})


def local_training(problem: Problem, model: Any, epochs: Sequence[Iterable[Any]]) -> None:
    """FedAvg: one optimiser. FedLoGe: one each for body, ψ and φ, in turn on every batch."""
    settings: dict[str, Any] = {"lr": problem.federation.lr, "momentum": problem.federation.momentum}
    model.train()
    if problem.federation.method == "FedAvg":
        optimizer = torch.optim.SGD(model.parameters(), **settings)
    else:
        body, global_head, local_head = (
            torch.optim.SGD(part.parameters(), **settings) for part in (model.backbone, model.psi, model.phi)
        )
    for loader in epochs:
        for images, labels in loader:
            images, labels = images.to(problem.device, problem.dtype), labels.to(problem.device)
            if problem.federation.method == "FedAvg":
                step(optimizer, functional.cross_entropy(model(images), labels))
            else:
                features = model.backbone(images)
                step(body, functional.cross_entropy(model.sse(features), labels))
                step(global_head, functional.cross_entropy(model.psi(features.detach()), labels))
                step(local_head, functional.cross_entropy(model.phi(features.detach()), labels))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """A step on a loss, whose value is read for the log."""
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    loss.item()


def average(states: States, sizes: Sequence[int]) -> dict[str, Tensor]:
    """The weighted average of a list of state dicts, entry by entry."""
    total = sum(sizes)
    mean = copy.deepcopy(states[0])
    for name in mean:
        mean[name] = states[0][name] * (sizes[0] / total)
        for state, size in zip(states[1:], sizes[1:], strict=True):
            mean[name] = mean[name] + state[name] * (size / total)
    return mean


def evaluate_all(problem: Problem, model: nn.Module, heads: States, test: Pictures) -> Arrays:
    """Test the generic model, and a deep copy of it with the client's head for every client."""
    everything = DataLoader(test, problem.federation.eval_batch_size)
    generic = "head" if problem.federation.method == "FedAvg" else "sse"
    confusion = evaluate(problem, model, generic, everything)
    correct = []
    for client, own in enumerate(problem.partition["test"]):
        if own:
            personal = copy.deepcopy(model)
            personal.load_state_dict(heads[client], strict=False)
            loader = DataLoader(Subset(test, own), problem.federation.eval_batch_size)
            matrix = evaluate(problem, personal, "phi" if heads[client] else "head", loader)
            correct.append(float(matrix.diagonal().sum()))
    return {"confusion": confusion, "correct": np.array(correct)}


def evaluate(problem: Problem, model: Any, head: str, loader: Iterable[Any]) -> np.ndarray:
    """Confusion matrix of a model."""
    model.eval()
    confusion = np.zeros((problem.federation.num_classes, problem.federation.num_classes))
    with torch.no_grad():
        for images, labels in loader:
            features = model.backbone(images.to(problem.device, problem.dtype))
            answers = getattr(model, head)(features).argmax(1).cpu()
            np.add.at(confusion, (labels.numpy(), answers.numpy()), 1)
    return confusion


def evaluations(problem: Problem, repetitions: int, clock: Clock) -> Arrays:
    """Test all models."""
    model, test = problem.network(), pictures(problem, "test")
    heads = [problem.personal(client) for client in range(problem.federation.num_clients)]
    for _ in range(repetitions):
        result = evaluate_all(problem, model, heads, test)
        clock.tick()
    return result


def exchanges(problem: Problem, repetitions: int, clock: Clock) -> Arrays:
    """A deep copy of the model for every client, a list of deep-copied state dicts, and their average."""
    model = problem.network()
    for _ in range(repetitions):
        states: States = []
        for client in range(problem.federation.num_clients):
            local = copy.deepcopy(model)
            with clock.paused():
                drift(local, client)
            states.append(copy.deepcopy(local.state_dict()))
        mean = average(states, problem.sizes)
        clock.tick()
    model.load_state_dict(mean)
    return to_arrays(model.state_dict())
