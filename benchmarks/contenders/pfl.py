"""Apple's pfl: SimulatedBackend, FederatedAveraging and central evaluation, on tensors in memory.

As started with torchrun it divides the clients over its processes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.clock import Clock
from benchmarks.problem import Arrays, Problem


def run(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """Rounds of federated averaging, each followed by a test of the generic model; personal models are not tested."""
    federation = problem.federation
    model = PyTorchModel(module := Model(problem.network()), torch.optim.SGD, central_optimizer(module))
    model._local_optimizer_create = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=federation.momentum)
    clients = users(problem, given=repetitions == 1 and federation.augment == "none")
    sizes = {client: len(own) for client, own in enumerate(clients)}
    training = FederatedDataset(clients.__getitem__, MinimizeReuseUserSampler(list(sizes)), user_id_to_weight=sizes)
    backend = SimulatedBackend(training_data=training, val_data=training, postprocessors=[WeightByDatapoints()])
    testing = NNEvalHyperParams(local_batch_size=federation.eval_batch_size)
    torch.manual_seed(federation.seed)
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=repetitions,
            evaluation_frequency=repetitions,  # of the clients' own data: once, in the round that is not timed
            train_cohort_size=federation.num_clients,
            val_cohort_size=None,
        ),
        backend=backend,
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=federation.epochs,
            local_learning_rate=federation.lr,
            local_batch_size=federation.batch_size,
        ),
        model_eval_params=testing,
        callbacks=[
            CentralEvaluationCallback(PyTorchTensorDataset(problem.normalised("test")), testing),
            Ticker(clock),
        ],
        send_metrics_to_platform=False,
    )
    return {name: p.detach().cpu().numpy().copy() for name, p in module.network.named_parameters()}


class Model(nn.Module):
    """What pfl asks of a model: a loss and metrics."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of a batch."""
        if not self.network.training:
            self.network.train()
        return functional.cross_entropy(self.network(images), labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """Accuracy on a batch."""
        self.network.eval()
        correct = int((self.network(images).argmax(1) == labels).sum())
        return {"accuracy": Weighted(correct, len(labels))}


class Ticker(TrainingProcessCallback[Any]):  # type: ignore[misc]
    """Ticks the clock after every round; it stands behind the evaluation."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """A round with its evaluation is done."""
        self.clock.tick()
        return False, Metrics()


class Client(PyTorchTensorDataset):  # type: ignore[misc]
    """A client's images; local epochs are shuffled, or come in given orders (pfl's own come in one order always)."""

    training_batch: int
    orders: list[Tensor]

    def iter(self, batch_size: int | None) -> Iterator[list[Tensor]]:
        """Batches of a local epoch, or in order where the client is tested."""
        if batch_size != self.training_batch:
            yield from super().iter(batch_size)
            return
        order = self.orders.pop(0) if self.orders else torch.randperm(len(self))
        for batch in torch.split(order, batch_size):
            yield [tensor[batch] for tensor in self.raw_data]


def users(problem: Problem, given: bool) -> list[Client]:
    """A dataset per client."""
    images, labels = problem.served if given else problem.normalised("train")
    datasets: list[Client] = []
    for client, own in enumerate(problem.partition["train"]):
        indices = torch.tensor(own)
        dataset = Client((images[indices], labels[indices]), user_id=str(client))
        dataset.training_batch = problem.federation.batch_size
        dataset.orders = positions(indices, problem.orders[client]) if given else []
        datasets.append(dataset)
    return datasets


def positions(indices: Tensor, orders: Tensor) -> list[Tensor]:
    """The orders in terms of the client's own list of images."""
    place = {index: position for position, index in enumerate(indices.tolist())}
    return [torch.tensor([place[index] for index in epoch.tolist()]) for epoch in orders]


def central_optimizer(module: nn.Module) -> torch.optim.Optimizer:
    """Takes the average of the clients as it is."""
    return torch.optim.SGD(module.parameters(), lr=1.0)
