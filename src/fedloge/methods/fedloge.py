"""FedLoGe (Xiao, Chen et al., Joint Local and Generic Federated Learning under Long-tailed Data, ICLR 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_choice, check_not_negative
from fedloge.errors import ConfigError
from fedloge.etf import Frame, check_sse_c, sparse_mask, sse_c
from fedloge.federation.state import FederatedState, Tensors
from fedloge.losses import dot_regression
from fedloge.methods.base import Batch, Client, Method, Phase, TrainClients, View
from fedloge.models.base import Backbone
from fedloge.models.heads import FixedLinear, linear_init, random_head
from fedloge.realign import ga_fr, la_fr, la_fr_by_distribution

FixedClassifier = Literal["sse_c", "xavier", "gaussian", "uniform", "orthogonal", "kaiming"]
PMRule = Literal["la", "phi+la", "la+psi", "phi+psi"]


class FedLoGe(Method):
    """Train the body against a frozen sparse ETF, learn heads on detached features, then realign their norms.

    Stage 1: per mini-batch the body θ is trained through the frozen SSE-C, and an auxiliary global head ψ and the
    client's own head φ_k on detached features (Algorithm 1). Stage 2, GA-FR: the rows of ψ get equal norm, which gives
    the generic model. Stage 3, LA-FR: client k gets φ'_k, ψ with the row norms of φ_k, optionally fine-tuned.

    Args:
        backbone: θ.
        num_classes: C, at most d + 1 for an exact frame.
        beta: Sparsity of SSE-C, the fraction β of its entries that are zero.
        gamma: Row norm γ of SSE-C. Features are not normalised, so γ is also the temperature of θ's loss and its
            effective step size: 0.1 suits the paper's 500 rounds, short runs want a value near 1.
        classifier: ``sse_c``, or a head drawn by a usual initialisation, frozen all the same (Table 9), of which a
            fraction β of the entries is zeroed and nothing else is done.
        classifier_rescale: Scale the rows of such a head to norm γ; SSE-C has that norm anyway.
        loss: What trains θ: cross-entropy, or ``dr``, the dot regression loss (Table 8).
        projection: Put a trainable d x d layer between body and heads (Table 8).
        sse_solver: ``alternating`` projection, or ``adam``, the paper's 10,000 steps.
        sse_bias: Give SSE-C the random frozen bias U(±1/√d) that the released code leaves in.
        sse_frame: ``closest`` allows d < C-1, where no exact frame exists, and takes the most equiangular one.
        head_lr: Learning rate of ψ and φ_k; None takes ``lr``.
        ga: GA-FR; without it the fixed classifier makes the generic model (Table 3).
        ga_scale: Norm of the realigned rows of ψ; it matters only against a kept bias.
        ga_tau: 1 gives all rows that norm, less only partly.
        ga_bias: Whether GA-FR keeps ψ's bias.
        la: LA-FR; without it the fixed classifier makes the personal models too (Table 3).
        la_norms: LA-FR by the row norms of ``phi``, or by the client's class ``distribution`` (Table 7).
        la_source: LA-FR from ψ as it is (``raw``, eq. 7) or after GA-FR (``unit``, Algorithm 1).
        pm_rule: Which heads make the personal model: ``la`` is φ'_k (the paper), the others are the sums that the
            released code uses in different places. Before realignment φ_k stands where φ'_k will.
        finetune_epochs: Epochs that φ'_k is trained on the client's data after LA-FR, the body being frozen.
        finetune_lr: Learning rate of that; None takes ``lr``.
        **kwargs: Local SGD, see :class:`Method`.

    Raises:
        ConfigError: If β, γ or the feature dimension admit no such frame, or another argument is out of range.
    """

    personal = ("phi",)
    fixed = ("sse", "realigned")
    bodies = ("backbone", "projection")
    finalized = "realigned"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        beta: float = 0.6,
        gamma: float = 0.1,
        classifier: FixedClassifier = "sse_c",
        classifier_rescale: bool = False,
        loss: Literal["ce", "dr"] = "ce",
        projection: bool = False,
        sse_solver: Literal["alternating", "adam"] = "alternating",
        sse_bias: bool = False,
        sse_frame: Literal["etf", "closest"] = "etf",
        head_lr: float | None = None,
        ga: bool = True,
        ga_scale: float = 1.7,
        ga_tau: float = 1.0,
        ga_bias: Literal["keep", "drop"] = "keep",
        la: bool = True,
        la_norms: Literal["phi", "distribution"] = "phi",
        la_source: Literal["raw", "unit"] = "raw",
        pm_rule: PMRule = "la",
        finetune_epochs: int = 0,
        finetune_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        dim = backbone.out_features
        check_choice("model.classifier", classifier, get_args(FixedClassifier))
        frame: Frame = sse_frame if classifier == "sse_c" else "closest"  # a random head fits any dimension
        check_sse_c(num_classes, dim, beta=beta, gamma=gamma, frame=frame)
        if ga_scale <= 0:
            raise ConfigError("model.ga_scale", ga_scale, "must be positive", "The released code has 1.7.")
        check_not_negative("model.ga_tau", ga_tau, "1 is GA-FR.")
        check_not_negative("model.finetune_epochs", finetune_epochs, "0 turns it off.")
        for name, rate in (("head_lr", head_lr), ("finetune_lr", finetune_lr)):
            check_not_negative(f"model.{name}", rate, "null takes model.lr.")
        self.beta, self.gamma = beta, gamma
        self.classifier, self.classifier_rescale = classifier, classifier_rescale
        self.sse_solver, self.sse_frame, self.loss = sse_solver, sse_frame, loss
        self.head_lr, self.finetune_lr = head_lr, finetune_lr
        self.ga, self.ga_scale, self.ga_tau, self.ga_bias = ga, ga_scale, ga_tau, ga_bias
        self.la, self.la_norms, self.la_source = la, la_norms, la_source
        self.pm_rule, self.finetune_epochs = pm_rule, finetune_epochs
        self.projection = nn.Linear(dim, dim) if projection else nn.Identity()
        self.psi = nn.Linear(dim, num_classes)
        self.phi = nn.Linear(dim, num_classes)
        self.sse = FixedLinear(dim, num_classes, bias=sse_bias)
        self.register_buffer("realigned", torch.tensor(False))
        self.realigned: Tensor

    # Stage 1: representation learning with SSE-C -----------------------------------------------------------

    def prepare(self, generator: torch.Generator) -> None:
        """The server makes SSE-C (eq. 2-5), or what an ablation puts in its place."""
        num_classes, dim = shape = self.num_classes, self.backbone.out_features
        if self.classifier == "sse_c":
            weight = sse_c(
                *shape,
                beta=self.beta,
                gamma=self.gamma,
                solver=self.sse_solver,
                frame=self.sse_frame,
                generator=generator,
            ).weight
        else:
            weight = random_head(*shape, self.classifier, generator) * sparse_mask(*shape, self.beta, generator)
            weight = self.gamma * functional.normalize(weight) if self.classifier_rescale else weight
        self.sse.weight.copy_(weight)
        if self.sse.bias is not None:
            self.sse.bias.copy_(linear_init(num_classes, dim, generator)[1])

    def initial_personal(self, template: Tensors, generator: torch.Generator) -> Tensors:
        """φ_k, independent for every client (row norm about 0.58; never zero: LA-FR reads these norms)."""
        weight, bias = linear_init(self.num_classes, self.backbone.out_features, generator)
        return {"phi.weight": weight, "phi.bias": bias}

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """h, projected where that was asked for."""
        features: Tensor = self.projection(self.backbone(images))
        return features

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """θ through the frozen SSE-C; ψ and φ_k on the features from before θ's step (Algorithm 1, ClientUpdate)."""
        images, labels = batch
        h = self.features(images)
        if self.phase.name == "finetune":
            return {"phi": functional.cross_entropy(self.phi(h), labels)}
        detached = h.detach()
        if self.loss == "dr":
            theta = dot_regression(h, self.sse.weight, labels)
        else:
            theta = functional.cross_entropy(self.sse(h), labels)
        return {
            "theta": theta,
            "psi": functional.cross_entropy(self.psi(detached), labels),
            "phi": functional.cross_entropy(self.phi(detached), labels),
        }

    def learning_rates(self) -> Mapping[str, float]:
        """ψ and φ_k may have their own."""
        rate = self.finetune_lr if self.phase.name == "finetune" else self.head_lr
        return {} if rate is None else {"psi": rate, "phi": rate}

    # Stages 2 and 3: realignment ---------------------------------------------------------------------------

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """GA-FR, LA-FR and, where ``train`` is given, fine-tuning; ψ and φ_k become the heads of the 1 + K models."""
        psi = {name: state.shared.tensors[f"psi.{name}"] for name in ("weight", "bias")}
        generic = {f"psi.{name}": tensor for name, tensor in self._ga_fr(psi, state.shared.fixed).items()}
        state = state.with_shared({**generic, "realigned": torch.tensor(True)})
        aligned = state.clients.map(lambda client, phi: self._la_fr(psi, phi, population[client], state.shared.fixed))
        if train is not None and self.finetune_epochs:
            phase = Phase("finetune", self.finetune_epochs, trainable=("phi",))
            aligned = train(replace(state, clients=aligned), (phase,))
        heads = state.clients.map(lambda client, phi: self._personal_head(phi, aligned[client], psi))
        return replace(state, clients=heads)

    def _ga_fr(self, psi: Tensors, fixed: Tensors) -> Tensors:
        if not self.ga:
            return _fixed_head(fixed)
        keep = self.ga_bias == "keep"
        weight, bias = ga_fr(psi["weight"], psi["bias"], scale=self.ga_scale, keep_bias=keep, tau=self.ga_tau)
        return {"weight": weight, "bias": bias}

    def _la_fr(self, psi: Tensors, phi: Tensors, client: Client, fixed: Tensors) -> Tensors:
        if not self.la:
            return {f"phi.{name}": tensor for name, tensor in _fixed_head(fixed).items()}
        source = functional.normalize(psi["weight"]) if self.la_source == "unit" else psi["weight"]
        if self.la_norms == "distribution":
            weight = la_fr_by_distribution(source, torch.tensor(client.class_counts))
        else:
            weight = la_fr(source, phi["phi.weight"])
        return {"phi.weight": weight, "phi.bias": psi["bias"]}

    def _personal_head(self, phi: Tensors, aligned: Tensors, psi: Tensors) -> Tensors:
        """The one linear head that the rule's sum of heads amounts to."""
        first = aligned if "la" in self.pm_rule else phi
        match self.pm_rule:
            case "la":
                return first
            case "phi+la":
                return {name: tensor + phi[name] for name, tensor in first.items()}
            case _:
                return {f"phi.{name}": first[f"phi.{name}"] + tensor for name, tensor in psi.items()}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """Before realignment SSE-C and φ_k (plus ψ where the rule has it), afterwards the realigned heads."""
        if view == "global":
            head = self.psi if self.realigned else self.sse
            scores: Tensor = head(features)
            return scores
        scores = self.phi(features)
        return scores + self.psi(features) if "psi" in self.pm_rule and not self.realigned else scores

    def figures(self) -> Mapping[str, tuple[Tensor, str]]:
        """Cosines between the class vectors of the fixed classifier."""
        unit = functional.normalize(self.sse.weight.detach().cpu())
        cosines = unit @ unit.T
        apart = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
        caption = f"cosines of the {len(cosines)} class vectors; between classes {apart.min():.4f} to {apart.max():.4f}"
        return {"SSE-C": (cosines, caption)}


def _fixed_head(fixed: Tensors) -> Tensors:
    weight = fixed["sse.weight"]
    return {"weight": weight, "bias": fixed.get("sse.bias", weight.new_zeros(len(weight)))}
