"""FedYoYo (Yan et al., You Are Your Own Best Teacher: Achieving Centralized-level Performance in Federated Learning
under Heterogeneous and Long-tailed Data, ICCV 2025)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_choice, check_least, check_not_negative, check_positive, check_share
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.methods.base import Batch, View
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone
from fedloge.models.heads import linear_init

LARGEST_FIRST, LARGEST_CHANGE, SMALLEST_MEAN = 1e4, 100, 1e-6
"""Largest effective number in the first round, largest relative change later, and smallest mean correlation."""
Mix = Literal["batch", "round"]


class FedYoYo(FedAvg):
    """Self-distillation from a weakly to a strongly augmented view, with logits adjusted by an estimated class prior.

    Before the training of a round the clients report how many effective features each of their classes has; from these
    the server estimates the global class prior, without class counts. A client mixes it with its own distribution. The
    generic model is W h. The personal one is ours: a head φ_k that stays home, learnt on detached features.

    Args:
        backbone: θ.
        num_classes: C.
        lam: λ of the distillation.
        ramp: Rounds until λ has its full value.
        temperature: Temperature T of the distillation.
        strength: Factor of the log prior added to the logits.
        local_share: Share of the client's own distribution that is mixed into the prior.
        mix: The prior is mixed in every ``batch``, as in the authors' code, so that it drifts to the client's own; or
            once in a ``round``.
        rho: Weight ρ of the old estimate in the moving average.
        **kwargs: Options of :class:`FedAvg`.
    """

    personal = ("phi",)
    renewed = ("prior",)
    server = ("effective",)
    idle: ClassVar = {("lam", 0): ("ramp", "temperature"), ("strength", 0): ("local_share", "rho")}
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
        mix: Mix = "batch",
        rho: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.lam", lam, "The authors have 4; 0 turns distillation off.")
        check_least("model.ramp", ramp, 1)
        check_positive("model.temperature", temperature, "The authors have 1.5.")
        check_not_negative("model.strength", strength, "The authors have 1.5; 0 turns the adjustment off.")
        check_choice("model.mix", mix, get_args(Mix))
        for name, share in (("local_share", local_share), ("rho", rho)):
            check_share(f"model.{name}", share)
        self.lam, self.ramp, self.temperature = lam, ramp, temperature
        self.strength, self.local_share, self.mix, self.rho = strength, local_share, mix, rho
        self.phi = nn.Linear(backbone.out_features, num_classes)
        self.register_buffer("prior", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("effective", torch.zeros(num_classes))
        self.register_buffer("mixed_prior", torch.full((num_classes,), 1 / num_classes), persistent=False)
        self.prior: Tensor
        self.mixed_prior: Tensor

    def initial_personal(self, template: Tensors, generator: torch.Generator) -> Tensors:
        """φ_k, drawn independently for every client."""
        weight, bias = linear_init(self.num_classes, self.backbone.out_features, generator)
        return {"phi.weight": weight, "phi.bias": bias}

    def survey(self, batches: Iterable[Batch]) -> Tensors:
        """Effective number of features of each class [C], summed over random batches of the received model."""
        pairs = [(self.features(images), labels) for images, labels in batches]
        h, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
        one_hot = functional.one_hot(labels, self.num_classes).to(h)
        means = one_hot.T @ h / one_hot.sum(0).clamp(min=1)[:, None]
        order = torch.randperm(len(labels)).to(labels.device)
        parts = torch.split(order, self.client.batch_size or len(order))
        centred = h - means[labels]
        return {"effective": torch.stack([effective_number(centred[part], one_hot[part]) for part in parts]).sum(0)}

    def answer(self, surveys: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """The prior of the round: 1 + Σ_k effective numbers in the first, their moving average later; normalised."""
        old = state.shared.fixed["effective"]
        new = torch.ones_like(old)
        for update in surveys:
            new.add_(update.report["effective"])
        if state.round == 0:
            usual = new <= LARGEST_FIRST
            new = new.where(usual, new[usual].mean() if usual.any() else torch.ones_like(new))
        else:
            new = self.rho * old + (1 - self.rho) * new
            new = old.where((new - old).abs() > LARGEST_CHANGE * old, new)
        return {"effective": new, "prior": new / new.sum()}

    def before_training(self, batches: Iterable[Batch]) -> None:
        """The client starts from the received prior, mixed once if ``mix`` is ``round``."""
        self.mixed_prior.copy_(self.prior)
        if self.mix == "round":
            self._mix()

    @torch.no_grad()
    def _mix(self) -> None:
        self.mixed_prior.lerp_(self.own_counts / self.own_counts.sum(), self.local_share)

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Adjusted cross-entropy of both views, and λ·min(r/ramp, 1)·KL(weak ‖ strong) where the weak view is right."""
        images, labels = batch
        h = self.features(torch.cat([images, strong_view(images)]))
        if self.mix == "batch":
            self._mix()
        logits = self.head(h) + (self.mixed_prior**self.strength + 1e-9).log()
        losses = {
            "ce": functional.cross_entropy(logits, labels.repeat(2)),
            "phi": functional.cross_entropy(self.phi(h[: len(labels)].detach()), labels),
        }
        if self.lam:
            ramped, (weak, strong) = self.lam * min(self.client.round / self.ramp, 1), logits.chunk(2)
            losses["distillation"] = ramped * distillation(weak.detach(), strong, labels, self.temperature)
        return losses

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


def effective_number(centred: Tensor, one_hot: Tensor) -> Tensor:
    """Effective number of features of each class in a batch, 1 / (aᵀ R a), [C]; zero for a class that it does not have.

    R are the cosines between the centred features of the class, and a = 1/m: the more they point alike, the fewer of
    them count. A single feature counts as one.

    Args:
        centred: Features minus the mean of their class [n, d].
        one_hot: Classes [n, C].
    """
    counts = one_hot.sum(0)
    means = one_hot.T @ functional.normalize(centred) / counts.clamp(min=1)[:, None]
    several = 1 / means.square().sum(1).clamp(min=SMALLEST_MEAN)
    return several.where(counts > 1, counts)


def distillation(teacher: Tensor, student: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher/T) ‖ softmax(student/T)), mean over the examples on which the teacher is right.

    Args:
        teacher: Logits [n, C], detached.
        student: Logits [n, C].
        labels: int64 [n].
        temperature: T.
    """
    right = teacher.argmax(1) == labels
    target, scores = (torch.log_softmax(logits / temperature, 1) for logits in (teacher, student))
    divergence = functional.kl_div(scores, target, log_target=True, reduction="none").sum(1)
    return (right * divergence).sum() / right.sum().clamp(min=1)
