"""FedLoGe (Xiao, Chen et al., Joint Local and Generic Federated Learning under Long-tailed Data, ICLR 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_choice, check_not_negative, check_positive
from fedloge.errors import ConfigError
from fedloge.etf import Frame, Solver, check_sse_c, sparse_mask, sse_c
from fedloge.federation.state import FederatedState, Tensors
from fedloge.losses import balanced_softmax, dot_regression
from fedloge.methods.base import Batch, Client, Method, Phase, TrainClients, View
from fedloge.models.base import Backbone
from fedloge.models.heads import FixedLinear, linear_init, random_head
from fedloge.realign import ga_fr, la_fr, la_fr_by_distribution

FixedClassifier = Literal["sse_c", "xavier", "gaussian", "uniform", "orthogonal", "kaiming"]
PMRule = Literal["la", "phi+la", "la+psi", "phi+psi"]

SSE_OPTIONS = {
    "dim": ("model.backbone.out_features", "Choose a wider backbone, or --model.sse_frame=closest."),
    "frame": ("model.sse_frame", None),
    "solver": ("model.sse_solver", None),
}
"""Option and, if it differs, remedy for each argument of :mod:`fedloge.etf` that is not named like its option."""


@contextmanager
def errors_name_options() -> Iterator[None]:
    """Let the errors of :mod:`fedloge.etf` name the method's options instead of function arguments."""
    try:
        yield
    except ConfigError as error:
        option, remedy = SSE_OPTIONS.get(error.argument, (f"model.{error.argument}", None))
        raise ConfigError(option, error.value, error.problem, remedy or error.remedy) from None


class FedLoGe(Method):
    """Train the body against a frozen sparse ETF, learn heads on detached features, then realign their norms.

    Stage 1: per mini-batch the body θ is trained through the frozen SSE-C, and an auxiliary global head ψ and the
    client's own head φ_k on detached features (Algorithm 1). Stage 2, GA-FR: the rows of ψ are scaled to equal norm,
    which gives the generic model. Stage 3, LA-FR: client k gets φ'_k, ψ with the row norms of φ_k; it may fine-tune it.

    Args:
        backbone: θ.
        num_classes: C, at most d + 1 for an exact frame.
        beta: Sparsity β of SSE-C, the fraction of its entries that are zero.
        gamma: Row norm γ of SSE-C. Features are not normalised, so γ is also the temperature of θ's loss and its
            effective step size: 0.1 suits the paper's 500 rounds, a value near 1 suits short runs.
        classifier: ``sse_c``, or a frozen head drawn by a usual initialisation, with a fraction β of its entries
            zeroed (Table 9).
        classifier_rescale: Scale the rows of such a drawn head to norm γ, which SSE-C already has.
        loss: Loss of θ: cross-entropy, or ``dr``, the dot regression loss (Table 8).
        prior: ``local`` adds the log of the client's class counts to the logits of θ's and ψ's cross-entropy (balanced
            softmax), and not to those of φ_k. This is ours, not the paper's.
        projection: Insert a trainable d x d layer between body and heads (Table 8).
        sse_solver: Solver of SSE-C: ``alternating`` projection, or ``adam``, the paper's 10,000 steps.
        sse_bias: Give SSE-C a random frozen bias U(±1/√d), as the released code does.
        sse_frame: ``etf``, or ``closest``, which allows d < C-1 and takes the most equiangular frame found.
        head_lr: Learning rate of ψ and φ_k; None takes ``lr``.
        ga: Apply GA-FR; without it the fixed classifier is the head of the generic model (Table 3).
        ga_scale: Norm of the realigned rows of ψ; it matters only relative to a kept bias.
        ga_tau: Exponent τ of the normalisation: 1 gives all rows the same norm, smaller values equalise them partly.
        ga_bias: Whether GA-FR keeps the bias of ψ or drops it.
        la: Apply LA-FR; without it the fixed classifier is the head of the personal models too (Table 3).
        la_norms: Scale ψ by the row norms of ``phi``, or by the client's class ``distribution`` (Table 7).
        la_source: Start LA-FR from ψ as trained (``raw``, eq. 7) or with unit rows (``unit``, Algorithm 1).
        pm_rule: Heads whose sum is the personal model: ``la`` is φ'_k (the paper); the released code uses the other
            sums in different places. Before realignment φ_k takes the place of φ'_k.
        finetune_epochs: Epochs of training φ'_k on the client's data after LA-FR, with the body frozen.
        finetune_lr: Learning rate of this fine-tuning; None takes ``lr``.
        **kwargs: Options of local SGD, see :class:`Method`.

    Raises:
        ConfigError: If β, γ or the feature dimension admit no such frame, or another argument is out of range.
    """

    personal = ("phi",)
    fixed = ("sse", "realigned")
    bodies = ("backbone", "projection")
    finalized = "realigned"
    advice = "the row norms of psi do not follow the class counts yet; more rounds or a larger gamma help."
    idle: ClassVar = {
        ("classifier", "sse_c"): ("classifier_rescale",),
        **{("classifier", drawn): ("sse_solver", "sse_frame") for drawn in get_args(FixedClassifier)[1:]},
        ("ga", False): ("ga_scale", "ga_tau", "ga_bias"),
        ("la", False): ("la_norms", "la_source"),
        ("finetune_epochs", 0): ("finetune_lr",),
        ("pm_rule", "phi+psi"): ("la_norms", "la_source", "finetune_epochs"),  # it does not have LA-FR's head
    }

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        beta: float = 0.6,
        gamma: float = 0.1,
        classifier: FixedClassifier = "sse_c",
        classifier_rescale: bool = False,
        loss: Literal["ce", "dr"] = "ce",
        prior: Literal["off", "local"] = "off",
        projection: bool = False,
        sse_solver: Solver = "alternating",
        sse_bias: bool = False,
        sse_frame: Frame = "etf",
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
        self.classifier, self.beta, self.gamma = classifier, beta, gamma
        self.sse_solver, self.sse_frame, self.classifier_rescale = sse_solver, sse_frame, classifier_rescale
        self.loss, self.prior, self.head_lr = loss, prior, head_lr
        self.ga, self.ga_scale, self.ga_tau, self.ga_bias = ga, ga_scale, ga_tau, ga_bias
        self.la, self.la_norms, self.la_source, self.pm_rule = la, la_norms, la_source, pm_rule
        self.finetune_epochs, self.finetune_lr = finetune_epochs, finetune_lr
        self.check_options()
        self.configure_heads(projection, sse_bias)

    def check_options(self) -> None:
        """Raise a ConfigError for an option that is out of range."""
        check_choice("model.classifier", self.classifier, get_args(FixedClassifier))
        frame = self.sse_frame if self.classifier == "sse_c" else "closest"  # a random head fits any dimension
        with errors_name_options():
            check_sse_c(*self.head_shape, beta=self.beta, gamma=self.gamma, frame=frame, solver=self.sse_solver)
        check_positive("model.ga_scale", self.ga_scale, "The released code has 1.7.")
        check_not_negative("model.ga_tau", self.ga_tau, "1 is GA-FR.")
        check_choice("model.prior", self.prior, ("off", "local"))
        check_choice("model.pm_rule", self.pm_rule, get_args(PMRule))
        check_choice("model.loss", self.loss, ("ce", "dr"))
        check_choice("model.ga_bias", self.ga_bias, ("keep", "drop"))
        check_choice("model.la_norms", self.la_norms, ("phi", "distribution"))
        check_choice("model.la_source", self.la_source, ("raw", "unit"))
        check_not_negative("model.finetune_epochs", self.finetune_epochs, "0 turns it off.")
        for name, rate in (("head_lr", self.head_lr), ("finetune_lr", self.finetune_lr)):
            check_not_negative(f"model.{name}", rate, "null takes model.lr.")

    def configure_heads(self, projection: bool, sse_bias: bool) -> None:
        """Make ψ, φ_k, the fixed classifier and the projection; :meth:`prepare` fills the fixed classifier."""
        num_classes, dim = self.head_shape
        self.projection = nn.Linear(dim, dim) if projection else nn.Identity()
        self.psi = nn.Linear(dim, num_classes)
        self.phi = nn.Linear(dim, num_classes)
        self.sse = FixedLinear(dim, num_classes, bias=sse_bias)
        self.register_buffer("realigned", torch.tensor(False))
        self.realigned: Tensor

    @property
    def head_shape(self) -> tuple[int, int]:
        """C and d."""
        return self.num_classes, self.backbone.out_features

    @property
    def pm_heads(self) -> tuple[str, ...]:
        """The heads that ``pm_rule`` adds: ``la``, ``phi``, ``psi``."""
        return tuple(self.pm_rule.split("+"))

    # Stage 1: representation learning with SSE-C -----------------------------------------------------------

    def prepare(self, generator: torch.Generator) -> None:
        """Make the fixed classifier on the server."""
        with errors_name_options():
            self.sse.weight.copy_(self.fixed_classifier(generator))
        if self.sse.bias is not None:
            self.sse.bias.copy_(linear_init(*self.head_shape, generator)[1])

    def fixed_classifier(self, generator: torch.Generator) -> Tensor:
        """Weight [C, d] of SSE-C (eq. 2-5), or of the sparse random head of an ablation."""
        if self.classifier == "sse_c":
            return sse_c(
                *self.head_shape,
                beta=self.beta,
                gamma=self.gamma,
                solver=self.sse_solver,
                frame=self.sse_frame,
                generator=generator,
            ).weight
        weight = random_head(*self.head_shape, self.classifier, generator)
        weight = weight * sparse_mask(*self.head_shape, self.beta, generator)
        return self.gamma * functional.normalize(weight) if self.classifier_rescale else weight

    def initial_personal(self, template: Tensors, generator: torch.Generator) -> Tensors:
        """φ_k, drawn independently for every client (row norm about 0.58; never zero, since LA-FR reads the norms)."""
        weight, bias = linear_init(*self.head_shape, generator)
        return {"phi.weight": weight, "phi.bias": bias}

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """Features h, projected if ``projection`` is set."""
        features: Tensor = self.projection(self.backbone(images))
        return features

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Losses of θ through the frozen SSE-C, and of ψ and φ_k on detached features (Algorithm 1, ClientUpdate)."""
        images, labels = batch
        h = self.features(images)
        if self.phase.name == "finetune":
            return {"phi": functional.cross_entropy(self.phi(h), labels)}
        detached = h.detach()
        if self.loss == "dr":
            theta = dot_regression(h, self.sse.weight, labels)
        else:
            theta = self.generic_loss(self.sse(h), labels)
        return {
            "theta": theta,
            "psi": self.generic_loss(self.psi(detached), labels),
            "phi": functional.cross_entropy(self.phi(detached), labels),
        }

    def generic_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, with the client's own class prior taken out if ``prior`` is set."""
        if self.prior == "local":
            return balanced_softmax(logits, labels, self.own_counts)
        return functional.cross_entropy(logits, labels)

    def learning_rates(self) -> Mapping[str, float]:
        """Learning rates of ψ and φ_k, if given."""
        rate = self.finetune_lr if self.phase.name == "finetune" else self.head_lr
        return {} if rate is None else {"psi": rate, "phi": rate}

    def sgd_options(self) -> Mapping[str, Mapping[str, float]]:
        """No weight decay of ψ and φ_k: it would shrink the rows of absent classes, whose norms LA-FR reads."""
        rates = self.learning_rates()
        return {head: {"lr": rates.get(head, self.lr), "weight_decay": 0.0} for head in ("psi", "phi")}

    # Stages 2 and 3: realignment ---------------------------------------------------------------------------

    def finalize(
        self, state: FederatedState, population: Sequence[Client], train: TrainClients | None = None
    ) -> FederatedState:
        """GA-FR, LA-FR and, if ``train`` is given, fine-tuning; ψ and φ_k become the heads of the 1 + K models."""
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
        """The linear head that equals the sum of heads in ``pm_rule``."""
        heads = {"la": aligned, "phi": phi, "psi": {f"phi.{name}": tensor for name, tensor in psi.items()}}
        first, *others = (heads[head] for head in self.pm_heads)
        return {name: sum((head[name] for head in others), start=tensor) for name, tensor in first.items()}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """Scores of the realigned heads; before realignment, of SSE-C and φ_k (plus ψ if ``pm_rule`` has it)."""
        if view == "global":
            head = self.psi if self.realigned else self.sse
            scores: Tensor = head(features)
            return scores
        scores = self.phi(features)
        return scores + self.psi(features) if "psi" in self.pm_heads and not self.realigned else scores

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
