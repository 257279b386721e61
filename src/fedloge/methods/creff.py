"""CReFF (Shang et al., Federated Learning on Heterogeneous and Long-Tailed Data via Classifier Re-Training with
Federated Features, IJCAI 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_least, check_not_negative
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.losses import head_gradients
from fedloge.methods.base import Batch, View
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone
from fedloge.models.heads import FixedLinear, linear_init
from fedloge.system.devices import upload


class CReFF(FedAvg):
    """FedAvg, beside which the server trains a second head on balanced synthetic features.

    Clients report the gradients that each of their classes gives the second head (on the body as received). The server
    moves its synthetic features until they give the same gradients, and trains a fresh second head on them. The generic
    model is the averaged body with that head, the personal one FedAvg's model; the course of FedAvg does not change.

    Args:
        backbone: θ.
        num_classes: C.
        per_class: Synthetic features of each class.
        match_steps: Gradient steps of the features in a round.
        match_lr: Learning rate of these steps.
        head_epochs: Epochs of training the fresh head on the synthetic features, in every round.
        head_lr: Learning rate of the fresh head.
        head_batch_size: Batch size of the fresh head.
        **kwargs: Options of :class:`FedAvg`.
    """

    renewed = ("retrained",)
    server = ("synthetic",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        per_class: int = 100,
        match_steps: int = 100,
        match_lr: float = 0.1,
        head_epochs: int = 300,
        head_lr: float = 0.01,
        head_batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_least("model.per_class", per_class, 1)
        check_least("model.head_epochs", head_epochs, 1)
        check_least("model.head_batch_size", head_batch_size, 1)
        check_not_negative("model.match_steps", match_steps, "The authors have 100.")
        check_not_negative("model.match_lr", match_lr, "The authors have 0.1.")
        check_not_negative("model.head_lr", head_lr, "The authors have 0.01.")
        self.match_steps, self.match_lr = match_steps, match_lr
        self.head_epochs, self.head_lr, self.head_batch_size = head_epochs, head_lr, head_batch_size
        self.retrained = FixedLinear(backbone.out_features, num_classes, bias=True)
        self.register_buffer("synthetic", torch.zeros(num_classes, per_class, backbone.out_features))
        self.synthetic: Tensor

    def prepare(self, generator: torch.Generator) -> None:
        """The server draws its features, N(0, 1), and the first second head."""
        self.synthetic.copy_(torch.randn(self.synthetic.shape, generator=generator))
        self._set_head(*linear_init(self.num_classes, self.backbone.out_features, generator))

    def report_received(self, batches: Iterable[Batch]) -> Tensors:
        """The classes that the client has [m], and their gradients of the second head's weight [m, C, d]."""
        pairs = [(self.features(images), labels) for images, labels in batches]
        h, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
        sizes = self.client.class_counts  # known to the host, which would have to wait for a count of the labels
        classes = upload(torch.tensor([c for c, size in enumerate(sizes) if size]), h.device)
        return {"classes": classes, "gradients": head_gradients(self.retrained(h), h, labels, sizes)[0][classes]}

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average, the features after matching, and the head retrained on them."""
        received = state.shared.fixed
        weight, bias = received["retrained.weight"], received["retrained.bias"]
        sums, holders = weight.new_zeros(len(weight), *weight.shape), weight.new_zeros(len(weight))

        def reported() -> Iterator[ClientUpdate]:
            for update in updates:
                sums.index_add_(0, update.report["classes"], update.report["gradients"])
                holders[update.report["classes"]] += 1
                yield update

        averaged = super().aggregate(reported(), state, generator)
        real = sums / holders.clamp(min=1)[:, None, None]
        synthetic = match_features(
            received["synthetic"], weight, bias, real, holders > 0, steps=self.match_steps, lr=self.match_lr
        )
        weight, bias = self._train_head(synthetic, generator)
        return {**averaged, "synthetic": synthetic, "retrained.weight": weight, "retrained.bias": bias}

    def _train_head(self, synthetic: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A fresh head trained on the features [C, M, d] by SGD; the gradient of softmax regression is written out."""
        num_classes, per_class, dim = synthetic.shape
        weight, bias = (tensor.to(synthetic) for tensor in linear_init(num_classes, dim, generator))
        features = synthetic.flatten(0, 1)
        targets = torch.eye(num_classes).to(synthetic).repeat_interleave(per_class, 0)
        for _ in range(self.head_epochs):
            for batch in torch.split(torch.randperm(len(features), generator=generator), self.head_batch_size):
                h = features[batch]
                errors = (torch.addmm(bias, h, weight.T).softmax(1) - targets[batch]) / len(batch)
                weight.addmm_(errors.T, h, alpha=-self.head_lr)
                bias.sub_(errors.sum(0), alpha=self.head_lr)
        return weight, bias

    def logits(self, features: Tensor, view: View) -> Tensor:
        """The retrained head for the generic model, FedAvg's for the personal ones."""
        if view == "personal":
            return super().logits(features, view)
        logits: Tensor = self.retrained(features)
        return logits

    def _set_head(self, weight: Tensor, bias: Tensor) -> None:
        assert self.retrained.bias is not None
        self.retrained.weight.copy_(weight)
        self.retrained.bias.copy_(bias)


def match_features(
    features: Tensor, weight: Tensor, bias: Tensor, real: Tensor, known: Tensor, *, steps: int, lr: float
) -> Tensor:
    """Move synthetic features until they give a head the gradients that real ones do.

    Gradient descent on Σ_c Σ_j (1 - cos(G^c_j, real^c_j)), where row j of G^c [C, d] is the gradient of the head's
    row j by the mean cross-entropy of class c's features.

    Args:
        features: [C, M, d], M of each class; left as they are.
        weight: Weight of the head [C, d].
        bias: Bias of the head [C].
        real: Gradients [C, C, d] of the real features.
        known: Boolean [C], the classes with a real gradient; features of other classes stay.
        steps: Gradient steps.
        lr: Step size.
    """
    moving = features[known].clone()
    own = torch.eye(len(weight)).to(weight)[known].unsqueeze(1)
    with torch.enable_grad():
        for _ in range(steps):
            moving.requires_grad_()
            errors = functional.linear(moving, weight, bias).softmax(2) - own
            gradients = errors.transpose(1, 2) @ moving / moving.shape[1]
            distance = (1 - functional.cosine_similarity(gradients, real[known], dim=2)).sum()
            moving = moving.detach() - lr * torch.autograd.grad(distance, moving)[0]
    matched = features.clone()
    matched[known] = moving.detach()
    return matched
