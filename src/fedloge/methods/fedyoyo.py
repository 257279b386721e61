"""FedYoYo (Yan et al., You Are Your Own Best Teacher: Achieving Centralized-level Performance in Federated Learning
under Heterogeneous and Long-tailed Data, ICCV 2025)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_least, check_not_negative, check_positive, check_share
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.methods.base import Batch, View
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone
from fedloge.models.heads import linear_init

SMALLEST_PRIOR = 1e-8


class FedYoYo(FedAvg):
    """Self-distillation from a weakly to a strongly augmented view, with logits adjusted by an estimated class prior.

    The prior of a client is a mix of its own and a global one, which the server estimates from how far the features of
    each class scatter, without class counts of clients. The prior is mixed once a round (the authors' code mixes it
    again at every batch, and so drifts to the local one). The generic model is W h. The personal one is ours: a head
    φ_k that stays home, learnt on detached features.

    Args:
        backbone: θ.
        num_classes: C.
        lam: λ of the distillation.
        ramp: Rounds until λ has its full value.
        temperature: Temperature T of the distillation.
        strength: Factor of the log prior added to the logits.
        local_share: Share of the client's own distribution in its prior.
        rho: Weight ρ of the old global prior in the moving average.
        **kwargs: Options of :class:`FedAvg`.
    """

    personal = ("phi",)
    renewed = ("prior",)
    needs_images = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        lam: float = 4.0,
        ramp: int = 50,
        temperature: float = 1.5,
        strength: float = 1.5,
        local_share: float = 0.1,
        rho: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.lam", lam, "The authors have 4; 0 turns distillation off.")
        check_least("model.ramp", ramp, 1)
        check_positive("model.temperature", temperature, "The authors have 1.5.")
        check_not_negative("model.strength", strength, "The authors have 1.5; 0 turns the adjustment off.")
        for name, share in (("local_share", local_share), ("rho", rho)):
            check_share(f"model.{name}", share)
        self.lam, self.ramp, self.temperature = lam, ramp, temperature
        self.strength, self.local_share, self.rho = strength, local_share, rho
        self.phi = nn.Linear(backbone.out_features, num_classes)
        self.register_buffer("prior", torch.full((num_classes,), 1 / num_classes))
        self.prior: Tensor

    def initial_personal(self, template: Tensors, generator: torch.Generator) -> Tensors:
        """φ_k, drawn independently for every client."""
        weight, bias = linear_init(self.num_classes, self.backbone.out_features, generator)
        return {"phi.weight": weight, "phi.bias": bias}

    def mixed_prior(self) -> Tensor:
        """(1 - local_share) · global + local_share · local prior, [C]."""
        own = torch.tensor(self.client.class_counts).to(self.prior) / self.client.num_examples
        return ((1 - self.local_share) * self.prior + self.local_share * own).clamp(min=SMALLEST_PRIOR)

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Adjusted cross-entropy of both views, and λ·min(r/ramp, 1)·KL(weak ‖ strong) where the weak view is right."""
        images, labels = batch
        h = self.features(torch.cat([images, strong_view(images)]))
        prior = self.mixed_prior()
        weak, strong = (self.head(h) + self.strength * prior.log()).chunk(2)
        losses = {
            "weak": functional.cross_entropy(weak, labels),
            "strong": functional.cross_entropy(strong, labels),
            "phi": functional.cross_entropy(self.phi(h[: len(labels)].detach()), labels),
        }
        if self.lam:
            ramped = self.lam * min(self.client.round / self.ramp, 1)
            losses["distillation"] = ramped * distillation(weak.detach(), strong, labels, self.temperature)
        return losses

    def report_trained(self, batches: Iterable[Batch]) -> Tensors:
        """Scatter of each class's features about their mean, Σ_i ‖h_i - μ_c‖², [C]."""
        counts, squares = self.prior.new_zeros(self.num_classes), self.prior.new_zeros(self.num_classes)
        sums = self.prior.new_zeros(self.num_classes, self.backbone.out_features)
        for images, labels in batches:
            h = self.features(images)
            counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
            squares.index_add_(0, labels, h.square().sum(1))
            sums.index_add_(0, labels, h)
        return {"scatter": (squares - sums.square().sum(1) / counts.clamp(min=1)).clamp(min=0)}

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average, and the global prior moved towards the normalised scatter of the round."""
        old = state.shared.fixed["prior"]
        scatter = torch.zeros_like(old)

        def reported() -> Iterator[ClientUpdate]:
            for update in updates:
                scatter.add_(update.report["scatter"])
                yield update

        averaged = super().aggregate(reported(), state, generator)
        total = scatter.sum()
        moved = self.rho * old + (1 - self.rho) * scatter / total if total > 0 else old
        return {**averaged, "prior": moved / moved.sum()}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """W h for the generic model, φ_k h for the personal one."""
        if view == "global":
            return super().logits(features, view)
        logits: Tensor = self.phi(features)
        return logits


def strong_view(images: Tensor) -> Tensor:
    """A stronger augmentation of normalised images [n, channels, H, W]: contrast, brightness, and a square cut out.

    Draws from torch's global generator, which local training seeds per client and round.
    """
    n, _, height, width = images.shape
    draws = torch.rand(4, n, 1, 1, 1).to(images.device)
    contrast, brightness = 0.5 + draws[0], draws[1] - 0.5
    side = max(height, width) // 2
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    top, left = draws[2] * height - side / 2, draws[3] * width - side / 2
    cut = (rows[:, None] >= top) & (rows[:, None] < top + side) & (columns >= left) & (columns < left + side)
    return (contrast * images + brightness).masked_fill(cut, 0.0)


def distillation(teacher: Tensor, student: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)), summed where the teacher is right and divided by the batch.

    Args:
        teacher: Logits [n, C], detached.
        student: Logits [n, C].
        labels: int64 [n].
        temperature: T.
    """
    right = teacher.argmax(1) == labels
    target, scores = (torch.log_softmax(logits / temperature, 1) for logits in (teacher, student))
    divergence = functional.kl_div(scores, target, log_target=True, reduction="none").sum(1)
    return temperature**2 * (right * divergence).mean()
