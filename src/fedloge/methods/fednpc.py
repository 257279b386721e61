"""FedNPC (Gao et al., CVPR Findings 2026): calibration of the head on noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from fedloge.checks import check_least, check_positive
from fedloge.federation.state import FederatedState
from fedloge.methods.base import Client, TrainClients
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedNPC(FedAvg):
    """FedAvg whose head the server calibrates after the last round: a few steps on Gaussian noise with uniform labels.

    The head learns to answer noise with equal probabilities, which takes its bias away. No data is needed. The number
    of steps is fixed beforehand (the authors' code takes the step that is best on the test set).

    Args:
        backbone: θ.
        num_classes: C.
        steps: Steps of the calibration.
        noise: Number of features drawn for each step.
        noise_lr: Learning rate of the calibration, which has momentum 0.9.
        **kwargs: Options of :class:`FedAvg`.
    """

    finalized = "calibrated"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        steps: int = 28,
        noise: int = 10_000,
        noise_lr: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_least("model.steps", steps, 1)
        check_least("model.noise", noise, 1)
        check_positive("model.noise_lr", noise_lr, "The authors have 0.1.")
        self.steps, self.noise, self.noise_lr = steps, noise, noise_lr

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """Calibrate the head of the server's model."""
        generator = torch.Generator().manual_seed(state.round)
        head = {n: state.shared.tensors[n].clone().requires_grad_() for n in ("head.weight", "head.bias")}
        optimizer = torch.optim.SGD(head.values(), lr=self.noise_lr, momentum=0.9)
        with torch.enable_grad():
            for _ in range(self.steps):
                features = torch.randn(self.noise, head["head.weight"].shape[1], generator=generator)
                labels = torch.randint(self.num_classes, (self.noise,), generator=generator)
                scores = functional.linear(features.to(head["head.weight"]), *head.values())
                optimizer.zero_grad()
                torch.autograd.backward(functional.cross_entropy(scores, labels))
                optimizer.step()
        return state.with_shared({name: tensor.detach() for name, tensor in head.items()})
