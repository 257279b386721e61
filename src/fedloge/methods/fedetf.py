"""FedETF (Li et al., No Fear of Classifier Biases: Neural Collapse Inspired Federated Learning, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_choice, check_least, check_not_negative
from fedloge.errors import ConfigError
from fedloge.etf import simplex_etf
from fedloge.federation.state import FederatedState
from fedloge.losses import balanced_softmax, dot_regression
from fedloge.methods.base import Batch, Client, Method, Phase, TrainClients, View
from fedloge.models.base import Backbone

ALTERNATION = {
    "etf": {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
    "projection": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
}
"""What fine-tuning trains in turn, three epochs each, with the authors' optimisers."""


class FedETF(Method):
    """Unit-norm projected features u against a fixed simplex ETF V, a learnt temperature s, and a balanced loss.

    The generic model is argmax Vᵀu, and so is the personal one unless it is fine-tuned.

    Args:
        backbone: θ.
        num_classes: C.
        loss: ``balanced`` softmax by the client's counts, or ``dr``, the dot regression loss.
        projection: ``linear``, P to C dimensions; or ``batchnorm``, a BatchNorm of h in its place, V having d
            dimensions. With ``loss=dr`` the latter is what FedLoGe's released code trains under the name FedETF.
        pm: ``finetune`` has every client fine-tune the final model: ``finetune_epochs`` epochs of everything with the
            training's loss, then ``finetune_cycles`` times V and P in turn by cross-entropy.
        finetune_epochs: Epochs of fine-tuning everything, for ``pm=finetune``.
        finetune_cycles: Cycles of training V and P in turn, for ``pm=finetune``.
        count_floor: Smallest class count assumed by the balanced loss (the authors have 1).
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    fixed = ("etf",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        loss: Literal["balanced", "dr"] = "balanced",
        projection: Literal["linear", "batchnorm"] = "linear",
        pm: Literal["none", "finetune"] = "none",
        finetune_epochs: int = 5,
        finetune_cycles: int = 20,
        count_floor: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_choice("model.loss", loss, ("balanced", "dr"))
        check_choice("model.projection", projection, ("linear", "batchnorm"))
        check_choice("model.pm", pm, ("none", "finetune"))
        check_least("model.finetune_epochs", finetune_epochs, 1)
        check_not_negative("model.finetune_cycles", finetune_cycles, "The authors have 20.")
        check_not_negative("model.count_floor", count_floor, "Choose 0 or 1.")
        self.loss, self.pm, self.count_floor = loss, pm, count_floor
        self.finetune_epochs, self.finetune_cycles = finetune_epochs, finetune_cycles
        dim = backbone.out_features
        if projection == "batchnorm" and dim < num_classes - 1:
            problem = f"but {num_classes} classes need {num_classes - 1} dimensions and the backbone has {dim}"
            raise ConfigError("model.projection", projection, problem, "Take a wider backbone, or linear.")
        self.projection = nn.Linear(dim, num_classes) if projection == "linear" else nn.BatchNorm1d(dim)
        self.scale = nn.Parameter(torch.ones(()))
        self.etf = nn.Linear(num_classes if projection == "linear" else dim, num_classes, bias=False)

    @torch.no_grad()
    def prepare(self, generator: torch.Generator) -> None:
        """The server draws V."""
        self.etf.weight.copy_(simplex_etf(self.num_classes, self.etf.in_features, generator))

    def project(self, h: Tensor) -> Tensor:
        """u = (P h + p0) / ‖P h + p0‖, [n, C] of h [n, d]. A batch of one image skips BatchNorm, having no variance."""
        alone = len(h) == 1 and isinstance(self.projection, nn.BatchNorm1d) and self.projection.training
        return functional.normalize(h if alone else self.projection(h))

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """CE(s·Vᵀu + log max(n_{k,·}, floor), y); plain where V and P are fine-tuned in turn."""
        images, labels = batch
        u = self.project(self.features(images))
        logits = self.scale * self.etf(u)
        if self.phase.name in ALTERNATION:
            return {"ce": functional.cross_entropy(logits, labels)}
        if self.loss == "dr":
            return {"dr": dot_regression(u, self.etf.weight, labels)}
        return {"balanced": balanced_softmax(logits, labels, self.own_counts, floor=self.count_floor)}

    def sgd_options(self) -> Mapping[str, Mapping[str, float]]:
        """The optimisers of V and P while they are fine-tuned in turn."""
        return ALTERNATION if self.phase.name in ALTERNATION else {}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """Vᵀu."""
        logits: Tensor = self.etf(self.project(features))
        return logits

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """With ``pm=finetune`` every client fine-tunes the generic model and keeps the result."""
        if train is None or self.pm == "none":
            return state
        everything = ("backbone", "projection", "scale", "etf")
        first = Phase("finetune", self.finetune_epochs, everything[:3], keep=everything)
        turns = [Phase(part, 3, (part,), keep=everything) for part in ALTERNATION]
        return replace(state, clients=train(state, [first, *turns * self.finetune_cycles]))
