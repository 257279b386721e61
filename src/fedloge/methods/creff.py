"""CReFF (Shang et al., Federated Learning on Heterogeneous and Long-Tailed Data via Classifier Re-Training with
Federated Features, IJCAI 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_least, check_not_negative
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.losses import head_gradients
from fedloge.methods.base import Batch
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone
from fedloge.models.heads import FixedLinear, linear_init

DSA_DRAWS, DSA_IMAGES = 10, 32
"""Draws of augmented images, and images of a class in each, in the authors' code."""


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
        dsa: Measure the gradients on augmented images, as the authors' code does by default: the mean over 10 draws of
            32 images of a class, each draw under one random augmentation (:func:`siamese`). Without it, once on all.
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
        dsa: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_least("model.per_class", per_class, 1)
        check_least("model.head_epochs", head_epochs, 1)
        check_least("model.head_batch_size", head_batch_size, 1)
        check_not_negative("model.match_steps", match_steps, "The authors have 100.")
        check_not_negative("model.match_lr", match_lr, "The authors have 0.1.")
        check_not_negative("model.head_lr", head_lr, "The authors have 0.01.")
        self.match_steps, self.match_lr, self.dsa = match_steps, match_lr, dsa
        self.head_epochs, self.head_lr, self.head_batch_size = head_epochs, head_lr, head_batch_size
        self.retrained = FixedLinear(backbone.out_features, num_classes, bias=True)
        self.register_buffer("synthetic", torch.zeros(num_classes, per_class, backbone.out_features))
        self.synthetic: Tensor

    def prepare(self, generator: torch.Generator) -> None:
        """The server draws its features, N(0, 1), and the first second head."""
        self.synthetic.copy_(torch.randn(self.synthetic.shape, generator=generator))
        self._set_head(*linear_init(self.num_classes, self.backbone.out_features, generator))

    def report_received(self, batches: Iterable[Batch]) -> Tensors:
        """The classes that the client has [m], and their gradients of the second head, [m, C, d] and [m, C]."""
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        classes = torch.unique(labels)
        draws = [self._drawn(images, labels, classes) for _ in range(DSA_DRAWS)] if self.dsa else [(images, labels)]
        measured = [self._gradients(*draw) for draw in draws]
        weight, bias = (torch.stack(part).mean(0)[classes] for part in zip(*measured, strict=True))
        return {"classes": classes, "gradients": weight, "bias_gradients": bias}

    def _gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.cat([self.features(part) for part in torch.split(images, 500)])
        return head_gradients(self.retrained(h), h, labels)

    def _drawn(self, images: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """At most ``DSA_IMAGES`` random images of each class, and their labels; one augmentation for each class."""
        own = [torch.nonzero(labels == c)[:, 0] for c in classes]
        chosen = [rows[torch.randperm(len(rows)).to(rows.device)[:DSA_IMAGES]] for rows in own]
        return torch.cat([siamese(images[rows]) for rows in chosen]), labels[torch.cat(chosen)]

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average, the features after matching, and the head retrained on them."""
        received = state.shared.fixed
        weight, bias = received["retrained.weight"], received["retrained.bias"]
        sums, holders = weight.new_zeros(len(weight), *weight.shape), weight.new_zeros(len(weight))
        bias_sums = weight.new_zeros(len(weight), len(weight))

        def reported() -> Iterator[ClientUpdate]:
            for update in updates:
                sums.index_add_(0, update.report["classes"], update.report["gradients"])
                bias_sums.index_add_(0, update.report["classes"], update.report["bias_gradients"])
                holders[update.report["classes"]] += 1
                yield update

        averaged = super().aggregate(reported(), state, generator)
        real = sums / holders.clamp(min=1)[:, None, None], bias_sums / holders.clamp(min=1)[:, None]
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

    def generic_head(self) -> FixedLinear:
        """The retrained head; the personal models have FedAvg's."""
        return self.retrained

    def _set_head(self, weight: Tensor, bias: Tensor) -> None:
        assert self.retrained.bias is not None
        self.retrained.weight.copy_(weight)
        self.retrained.bias.copy_(bias)


def match_features(
    features: Tensor, weight: Tensor, bias: Tensor, real: tuple[Tensor, Tensor], known: Tensor, *, steps: int, lr: float
) -> Tensor:
    """Move synthetic features until they give a head the gradients that real ones do.

    Gradient descent on Σ_c [Σ_j (1 - cos(G^c_j, real^c_j)) + 1 - cos(g^c, real g^c)], where row j of G^c [C, d] is the
    gradient of the head's row j by the mean cross-entropy of class c's features, and g^c [C] that of its bias.

    Args:
        features: [C, M, d], M of each class; left as they are.
        weight: Weight of the head [C, d].
        bias: Bias of the head [C].
        real: Gradients of the weight [C, C, d] and of the bias [C, C] by the real features.
        known: Boolean [C], the classes with a real gradient; features of other classes stay.
        steps: Gradient steps.
        lr: Step size.
    """
    moving = features[known].clone()
    targets = torch.eye(len(weight)).to(weight)[known].unsqueeze(1)
    with torch.enable_grad():
        for _ in range(steps):
            moving.requires_grad_()
            errors = functional.linear(moving, weight, bias).softmax(2) - targets
            gradients = errors.transpose(1, 2) @ moving / moving.shape[1], errors.mean(1)
            pairs = zip(gradients, real, strict=True)
            cosines = [functional.cosine_similarity(own, other[known], dim=-1) for own, other in pairs]
            distance = torch.cat([(1 - cosine).flatten() for cosine in cosines]).sum()
            moving = moving.detach() - lr * torch.autograd.grad(distance, moving)[0]
    matched = features.clone()
    matched[known] = moving.detach()
    return matched


def siamese(images: Tensor) -> Tensor:
    """Augment normalised images [n, channels, H, W] alike, by one draw for all (Zhao & Bilen, DSA, ICML 2021).

    Brightness, contrast, scale, rotation up to 15°, shift, mirroring, and a square cut out, with DSA's strengths; drawn
    from torch's global generator, which local training seeds per client and round.
    """
    brightness, contrast, stretch_x, stretch_y, angle, right, down, mirror, x, y = (torch.rand(10) * 2 - 1).tolist()
    images = images + brightness / 2
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (1 + contrast / 2) + mean
    turn = math.radians(15 * angle)
    scale_x, scale_y = 1.2**stretch_x * math.copysign(1, mirror), 1.2**stretch_y
    rows = [
        [scale_x * math.cos(turn), -scale_y * math.sin(turn), right / 4],
        [scale_x * math.sin(turn), scale_y * math.cos(turn), down / 4],
    ]
    matrix = torch.tensor([rows], dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    cut = ((grid[0] - torch.tensor([x, y]).to(grid)).abs() < 0.5).all(-1)
    return functional.grid_sample(images, grid, align_corners=False).masked_fill(cut, 0.0)
