"""CCVR (Luo et al., No Fear of Heterogeneity: Classifier Calibration for Federated Learning with Non-IID Data,
NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_least, check_positive
from fedloge.federation.state import FederatedState, Tensors
from fedloge.methods.base import Batch, Client, TrainClients
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class CCVR(FedAvg):
    """FedAvg whose head the server trains again after the last round, on features drawn from a Gaussian for each class.

    After the last round every client reports the number of its features, their sum and their products, for each of its
    classes. From these the server has the exact mean and covariance of each class over all clients, draws the same
    number of virtual features for every class, and continues to train the head on them.

    Args:
        backbone: θ.
        num_classes: C.
        per_class: Virtual features of each class.
        calibration_epochs: Epochs of training the head on them.
        calibration_lr: Learning rate of this training, which has momentum 0.9.
        calibration_batch_size: Batch size of this training.
        **kwargs: Options of :class:`FedAvg`.
    """

    finalized = "calibrated"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        per_class: int = 500,
        calibration_epochs: int = 10,
        calibration_lr: float = 0.01,
        calibration_batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_least("model.per_class", per_class, 1)
        check_least("model.calibration_epochs", calibration_epochs, 1)
        check_positive("model.calibration_lr", calibration_lr, "Usual values are 0.001 to 0.1.")
        check_least("model.calibration_batch_size", calibration_batch_size, 1)
        self.per_class, self.calibration_epochs = per_class, calibration_epochs
        self.calibration_lr, self.calibration_batch_size = calibration_lr, calibration_batch_size

    def survey(self, batches: Iterable[Batch]) -> Tensors:
        """The client's classes [m], and of each the number [m], sum [m, d] and products [m, d, d] of its features."""
        pairs = [(self.features(images), labels) for images, labels in batches]
        h, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
        classes, counts = torch.unique(labels, return_counts=True)
        own = [h[labels == c].double() for c in classes]
        products = torch.stack([part.T @ part for part in own])
        sums = torch.stack([part.sum(0) for part in own])
        return {"classes": classes, "counts": counts, "sums": sums, "products": products}

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """Train the head on virtual features."""
        if train is None:
            return state
        counts, sums, products = self._merged(train.survey(state))
        known = (counts > 1).nonzero()[:, 0]
        if len(known) == 0:
            return state
        generator = torch.Generator().manual_seed(state.round)
        drawn = [draw(counts[c], sums[c], products[c], self.per_class, generator) for c in known]
        features = torch.cat(drawn).to(state.shared.tensors["head.weight"])
        return state.with_shared(self._trained(state, features, known.repeat_interleave(self.per_class), generator))

    def _merged(self, surveys: Iterable[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Counts [C], sums [C, d] and products [C, d, d] of all clients together, float64."""
        dim = self.backbone.out_features
        shapes = (self.num_classes,), (self.num_classes, dim), (self.num_classes, dim, dim)
        totals = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
        for update in surveys:
            for total, name in zip(totals, ("counts", "sums", "products"), strict=True):
                total.index_add_(0, update.report["classes"], update.report[name].double())
        return totals[0], totals[1], totals[2]

    def _trained(self, state: FederatedState, features: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        head = {n: state.shared.tensors[n].clone().requires_grad_() for n in ("head.weight", "head.bias")}
        optimizer = torch.optim.SGD(head.values(), lr=self.calibration_lr, momentum=0.9)
        with torch.enable_grad():
            for _ in range(self.calibration_epochs):
                order = torch.randperm(len(labels), generator=generator)
                for rows in torch.split(order, self.calibration_batch_size):
                    optimizer.zero_grad()
                    scores = functional.linear(features[rows], *head.values())
                    torch.autograd.backward(functional.cross_entropy(scores, labels[rows]))
                    optimizer.step()
        return {name: tensor.detach() for name, tensor in head.items()}


def draw(count: Tensor, total: Tensor, products: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw features [size, d] from the Gaussian of a class with a number, sum [d] and products [d, d] of features."""
    mean = total / count
    covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
    values, vectors = torch.linalg.eigh(covariance)
    noise = torch.randn(size, len(mean), generator=generator, dtype=torch.float64)
    drawn: Tensor = mean + (noise * values.clamp(min=0).sqrt()) @ vectors.T
    return drawn
