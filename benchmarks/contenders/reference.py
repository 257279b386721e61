"""The reference loop: the algorithms written down as plainly as possible, for one round and without regard to speed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.clock import Clock
from benchmarks.contenders.exchanging import drift, received
from benchmarks.problem import Arrays, Problem, to_arrays


def run(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """What every contender's result is compared with."""
    match problem.kind:
        case "round":
            return one_round(problem)
        case "step":
            return entries(trained(problem))
        case "eval":
            return evaluation(problem)
        case "exchange":
            return exchange(problem)
        case "ssec":
            return {"zeros": np.array(np.floor(0.6 * 512 * problem.federation.num_classes))}


def one_round(problem: Problem) -> Arrays:
    """Every client trains from the initial state; the average is taken in double precision."""
    images = problem.served[0]
    sums: dict[str, Tensor] = {}
    held = sorted(index for own in problem.partition["train"] for index in own)
    result: Arrays = {"check/images": images[held].numpy()}
    for client, network in enumerate(trained(problem)):
        for name, tensor in network.state_dict().items():
            if name.startswith("phi."):
                result |= to_arrays({f"personal/{client}/{name}": tensor})
            elif tensor.is_floating_point() and not name.startswith("sse."):
                sums[name] = sums.get(name, 0) + tensor.double() * problem.sizes[client]
    total = sum(problem.sizes)
    return {**to_arrays({name: tensor / total for name, tensor in sums.items()}), **result}


def trained(problem: Problem) -> Iterator[nn.Module]:
    """The network of every client after its local training."""
    images, labels = (tensor.to(problem.device) for tensor in problem.served)
    for client, own in enumerate(problem.orders):
        network = problem.network()
        network.load_state_dict(problem.personal(client), strict=False)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=problem.federation.lr, momentum=problem.federation.momentum)
        for epoch in own.to(problem.device):
            for batch in epoch.split(problem.federation.batch_size):
                optimizer.zero_grad()
                torch.autograd.backward(loss(network, images[batch], labels[batch]))
                optimizer.step()
        yield network


def entries(networks: Iterable[nn.Module]) -> Arrays:
    """The trained entries of all clients."""
    result: Arrays = {}
    for client, network in enumerate(networks):
        own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("sse.")}
        result |= to_arrays({f"{client}/{name}": tensor for name, tensor in own.items()})
    return result


def loss(network: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of FedAvg; of FedLoGe θ through the fixed ETF, ψ and φ on detached features."""
    features = network.backbone(images)
    if hasattr(network, "head"):
        return functional.cross_entropy(network.head(features), labels)
    heads = network.sse(features), network.psi(features.detach()), network.phi(features.detach())
    return torch.stack([functional.cross_entropy(logits, labels) for logits in heads]).sum()


@torch.no_grad()
def evaluation(problem: Problem) -> Arrays:
    """Confusion of the generic model, and the correct answers of every personal model, from a pass per model."""
    images, labels = problem.normalised("test")
    network: Any = problem.network().eval()
    classes = problem.federation.num_classes

    def answers(head: nn.Module, chosen: Tensor) -> Tensor:
        return torch.cat([head(network.backbone(images[part])).argmax(1) for part in torch.split(chosen, 500)])

    generic = answers(network.sse, torch.arange(len(labels)))
    confusion = torch.zeros(classes, classes)
    for truth, answer in zip(labels, generic, strict=True):
        confusion[truth, answer] += 1
    correct = []
    for client, own in enumerate(problem.partition["test"]):
        if own:
            network.load_state_dict(problem.personal(client), strict=False)
            chosen = torch.tensor(own)
            correct.append(float((answers(network.phi, chosen) == labels[chosen]).sum()))
    return {"confusion": confusion.numpy(), "correct": np.array(correct)}


def exchange(problem: Problem) -> Arrays:
    """The average of what the clients send, client by client in double precision."""
    sums: dict[str, Tensor] = {}
    for client, size in enumerate(problem.sizes):
        network = problem.network()
        drift(network, client)
        for name, tensor in received(network).items():
            sums[name] = sums.get(name, 0) + tensor.double() * size
    return to_arrays({name: tensor / sum(problem.sizes) for name, tensor in sums.items()})
