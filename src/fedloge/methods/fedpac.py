"""FedPAC (Xu, Tong & Huang, Personalized Federated Learning with Feature Alignment and Classifier Collaboration,
ICLR 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_not_negative, check_positive
from fedloge.federation.state import ClientUpdate, FederatedState, Tensors
from fedloge.methods.base import Batch, Phase
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedPAC(FedAvg):
    """A shared body whose features are held to global class means, and a head for every client, combined by the server.

    A client trains its head, then the body with the squared distance of its features to the global class means. The
    server averages the body and the class means, and gives client i the head Σ_j a_ij W_j over the clients of the
    round, where a_i minimises an estimate of the error of that combination on client i: aᵀ(diag(v) + D_i) a over
    weights a ≥ 0 with Σ a = 1, D_i[j, l] = Σ_c ⟨p_{i,c} μ_{i,c} - p_{j,c} μ_{j,c}, p_{i,c} μ_{i,c} - p_{l,c} μ_{l,c}⟩.
    The server keeps a head for every client, and all heads of a round while it combines them.

    Args:
        backbone: θ.
        num_classes: C.
        lam: λ, the weight of the squared distance.
        head_epochs: Epochs of the head, before those of the body.
        head_lr: Learning rate of the head.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    renewed = ("prototypes", "known")
    server = ("heads",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        lam: float = 1.0,
        head_epochs: int = 1,
        head_lr: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, pm="local", **kwargs)
        check_not_negative("model.lam", lam, "The authors have 1.")
        check_not_negative("model.head_epochs", head_epochs, "The authors have 1.")
        check_positive("model.head_lr", head_lr, "The authors have 0.1.")
        self.lam, self.head_epochs, self.head_lr = lam, head_epochs, head_lr
        self.register_buffer("prototypes", torch.zeros(num_classes, backbone.out_features))
        self.register_buffer("known", torch.zeros(num_classes))
        self.register_buffer("targets", torch.zeros(num_classes, backbone.out_features), persistent=False)
        self.register_buffer("own_means", torch.zeros(num_classes, backbone.out_features), persistent=False)
        self.register_buffer("heads", torch.zeros(0))
        self.prototypes: Tensor
        self.known: Tensor
        self.targets: Tensor
        self.own_means: Tensor

    def initial_state(self, num_clients: int, generator: Callable[[int], torch.Generator]) -> FederatedState:
        """State before the first round: every client has the same head."""
        self.heads = self._joined(self.head.weight, self.head.bias).repeat(num_clients, 1, 1)
        return super().initial_state(num_clients, generator)

    @staticmethod
    def _joined(weight: Tensor, bias: Tensor) -> Tensor:
        """Weight and bias in one matrix [C, d + 1]."""
        return torch.cat([weight.detach(), bias.detach()[:, None]], 1)

    def downlink(self, state: FederatedState, client: int) -> Tensors:
        """The client's own head."""
        head = state.shared.fixed["heads"][client]
        return {"head.weight": head[:, :-1], "head.bias": head[:, -1]}

    def phases(self, local_epochs: int) -> Sequence[Phase]:
        """The head, then the body; the client keeps both."""
        keep = ("backbone", "head")
        return Phase("head", self.head_epochs, ("head",), keep), Phase("body", local_epochs, ("backbone",), keep)

    def learning_rates(self) -> Mapping[str, float]:
        """Learning rate of the head."""
        return {"head": self.head_lr}

    def report_received(self, batches: Iterable[Batch]) -> Tensors:
        """p_c μ_c [C, d] of the received body, and v = (Σ_c p_c E‖h‖² - ‖p_c μ_c‖²) / n, of the client's images."""
        sums, squares = torch.zeros_like(self.prototypes), self.prototypes.new_zeros(())
        for images, labels in batches:
            h = self.features(images)
            sums.index_add_(0, labels, h)
            squares += h.square().sum()
        size = self.own_counts.sum()
        self.own_means.copy_(sums / self.own_counts.clamp(min=1)[:, None])
        return {"means": sums / size, "variance": (squares / size - (sums / size).square().sum()) / size}

    def before_training(self, batches: Iterable[Batch]) -> None:
        """Features are held to the global means, or to the client's own where there is no global one yet."""
        self.targets.copy_(torch.where(self.known[:, None] > 0, self.prototypes, self.own_means))

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy, and for the body λ · mean squared distance to the class means, once there are global ones."""
        images, labels = batch
        h = self.features(images)
        losses = {"ce": functional.cross_entropy(self.head(h), labels)}
        if self.phase.name == "body":
            distance = functional.mse_loss(h, self.targets[labels])
            losses["alignment"] = self.lam * self.known.max() * distance
        return losses

    def report_trained(self, batches: Iterable[Batch]) -> Tensors:
        """Sum of the features of each class, [C, d]."""
        sums = torch.zeros_like(self.prototypes)
        for images, labels in batches:
            sums.index_add_(0, labels, self.features(images))
        return {"sums": sums}

    def aggregate(self, updates: Iterable[ClientUpdate], state: FederatedState, generator: torch.Generator) -> Tensors:
        """FedAvg's average, the class means of the round, and combined heads for its clients."""
        old = state.shared.fixed
        sums, counts = torch.zeros_like(old["prototypes"]), old["prototypes"].new_zeros(self.num_classes, 1)
        clients, heads, means, variances = [], [], [], []

        def reported() -> Iterator[ClientUpdate]:
            for update in updates:
                sums.add_(update.report["sums"])
                counts.add_(torch.tensor(update.class_counts).to(sums).unsqueeze(1))
                clients.append(update.client)
                heads.append(self._joined(update.tensors["head.weight"], update.tensors["head.bias"]))
                means.append(update.report["means"])
                variances.append(update.report["variance"])
                yield update

        averaged, kept = super().aggregate(reported(), state, generator), old["heads"].clone()
        weights = combination_weights(torch.stack(variances), torch.stack(means)).to(kept)
        kept[clients] = torch.einsum("ij,jcd->icd", weights, torch.stack(heads))
        prototypes = torch.where(counts > 0, sums / counts.clamp(min=1), old["prototypes"])
        known = torch.maximum(old["known"], (counts[:, 0] > 0).to(sums))
        return {**averaged, "heads": kept, "prototypes": prototypes, "known": known}


def combination_weights(variances: Tensor, means: Tensor) -> Tensor:
    """Weights [m, m] of the heads j for the clients i, by projected gradient descent; each row lies on the simplex.

    Args:
        variances: v [m].
        means: p_c μ_c [m, C, d].
    """
    flat, size = means.flatten(1).double(), len(means)
    gaps = flat[:, None] - flat  # [i, j, C·d]
    matrices = gaps @ gaps.transpose(1, 2) + torch.diag(variances.double().clamp(min=0))
    step = 1 / matrices.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-12)
    weights = torch.full((size, size), 1 / size, dtype=torch.float64)
    for _ in range(1000):
        weights = onto_simplex(weights - step[:, None] * torch.einsum("ijl,il->ij", matrices, weights))
    return weights


def onto_simplex(points: Tensor) -> Tensor:
    """The nearest points with entries ≥ 0 that sum to one, for every row of [m, n] (Held, Wolfe & Crowder, 1974)."""
    ordered = points.sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - 1) / torch.arange(1, points.shape[1] + 1, dtype=points.dtype)
    last = (ordered > excess).sum(1, keepdim=True) - 1
    return (points - excess.gather(1, last)).clamp(min=0)
