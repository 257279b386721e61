"""Deep linear networks trained to collapse, on free features or those of an MLP, beside the closed form."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise, product
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_choice, check_least, check_not_negative, check_positive, check_threads, check_unused
from fedloge.collapse.lab import theory
from fedloge.collapse.lab.output import Output
from fedloge.collapse.measurement import measure
from fedloge.errors import ConfigError
from fedloge.system.cpu import configure_cpu
from fedloge.system.live import track
from fedloge.tables import print_table

Loss = Literal["mse", "ce"]
Optimizer = Literal["gd", "lbfgs", "adam"]
Features = Literal["free", "mlp"]

MLP_DEPTH = 6
"""ReLU layers below the linear ones, as in Dang et al. 2023."""

ENOUGH = 8.0
"""λ_H·lr·T/(1-momentum) from which the residuals, which only the ridge on H shrinks, have fallen by e^-16."""


@dataclass(frozen=True)
class DeepLinear:
    """An experiment: M linear layers on top of features, full batch, in float64.

    Args:
        counts: n_k, samples of each class.
        layers: Depths M to train.
        loss: ``mse``, (1/2N)‖WH - Y‖², or ``ce``.
        bias: Give the last layer a bias, which no penalty touches; only balanced data have a closed form then.
        features: ``free``, unconstrained, or those of an ``mlp`` of six ReLU layers on handwritten digits.
        width: d, of features and of every layer.
        lambda_w: λ of every linear layer.
        lambda_h: λ_H.
        optimizer: ``gd`` with momentum, ``lbfgs``, or ``adam``.
        steps: Steps, or iterations of L-BFGS.
        lr: Learning rate of gd and adam.
        momentum: Momentum of gd.
        std: Standard deviation of the initial entries. With two layers or more zero is a local minimum of its own,
            where every class may end if this is below about 1.2/√d; with many layers training diverges far above it.
        seeds: Seeds; each is a run of its own.
        points: Measurements on each curve.
        nc1_below: Largest NC1 of a collapsed run.
        nc2_below: Largest distance of WWᵀ and HᵀH from the closed form for a collapsed run.
        nc3_below: Largest distance of WH from the closed form for a collapsed run.
        threads: Threads of the computation; matrices as small as these gain nothing from more.
        output: Folder for curves.csv, final.csv, summary.json and curves.png.
        overwrite: Replace an older experiment in that folder.
        figure: Draw curves.png.

    Raises:
        ConfigError: For what cannot be trained or has no closed form to compare with.
    """

    counts: list[int]
    layers: list[int] = field(default_factory=lambda: [1])
    loss: Loss = "mse"
    bias: bool = False
    features: Features = "free"
    width: int = 64
    lambda_w: float = 5e-4
    lambda_h: float = 5e-4
    optimizer: Optimizer = "gd"
    steps: int = 8000
    lr: float = 0.1
    momentum: float = 0.9
    std: float = 0.3
    seeds: list[int] = field(default_factory=lambda: [0])
    points: int = 80
    nc1_below: float = 1e-12
    nc2_below: float = 1e-5
    nc3_below: float = 1e-6
    threads: int = 1
    output: str = "runs/collapse/deep_linear"
    overwrite: bool = False
    figure: bool = True

    def __post_init__(self) -> None:
        for name, kinds in (("loss", Loss), ("optimizer", Optimizer), ("features", Features)):
            check_choice(name, getattr(self, name), get_args(kinds))
        check_threads("threads", self.threads)
        for name in ("width", "steps", "points"):
            check_least(name, getattr(self, name), 1)
        for name in ("lr", "std", "nc1_below", "nc2_below", "nc3_below"):
            check_positive(name, getattr(self, name), "See `fedloge collapse deep-linear --help`.")
        check_not_negative("momentum", self.momentum, "0.9 is usual.")
        if self.momentum >= 1:
            raise ConfigError("momentum", self.momentum, "must be below 1", "0.9 is usual.")
        for name, default in (("momentum", 0.9), ("lr", 0.1)):
            if self.optimizer == "lbfgs" or (self.optimizer, name) == ("adam", "momentum"):
                check_unused(name, getattr(self, name), default, f"optimizer={self.optimizer}")
        for name in ("layers", "seeds"):
            if not getattr(self, name):
                raise ConfigError(name, [], "is empty", "Give at least one.")
        for layers in self.layers:
            expect(self, layers)

    @property
    def balanced(self) -> bool:
        """Whether all classes have the same number of samples."""
        return len(set(self.counts)) == 1


@dataclass(frozen=True)
class Expectation:
    """Prediction of the theory for an experiment.

    Args:
        name: Name of the geometry.
        weight_gram: WWᵀ [K, K].
        feature_gram: HᵀH of the class means, [K, K].
        logits: WH of the class means, [K, K]. SELI gives the three up to a factor.
        loss: The loss of that geometry; nan where there is no formula (SELI).
        centred: Whether it is about features with the global mean taken off.
        caveat: Why collapse to it is not promised; empty where it is.
    """

    name: str
    weight_gram: Tensor
    feature_gram: Tensor
    logits: Tensor
    loss: float
    centred: bool
    caveat: str = ""


def expect(settings: DeepLinear, layers: int) -> Expectation:
    """The closed form for one depth, and whether training must reach it.

    Raises:
        ConfigError: Where there is none.
    """
    K, balanced, ridges = len(settings.counts), settings.balanced, (settings.lambda_w, settings.lambda_h)
    caveat = "features of a network are not free" if settings.features == "mlp" else ""
    frame = theory.orthogonal_frame(settings.counts, layers, *ridges, width=settings.width)
    if not balanced and (settings.bias or (settings.loss == "ce" and layers > 1)):
        what = "bias=True" if settings.bias else f"cross entropy with layers={layers}"
        problem = f"with {what} has no closed form"
        raise ConfigError("counts", settings.counts, problem, "Balance them, or take the squared error without a bias.")
    if settings.loss == "mse" and not settings.bias:
        cut = sorted(settings.counts, reverse=True)[settings.width - 1 : settings.width + 1]
        tied = len(cut) == 2 and cut[0] == cut[1]
        caveat = caveat or ("classes tie for the last direction" if tied else "")
        grams = frame.weight_gram, frame.feature_gram, frame.logits
        return Expectation("orthogonal frame", *grams, frame.loss, centred=False, caveat=caveat)
    caveat = caveat or ("an ETF needs d ≥ K-1" if settings.width < K - 1 else "")
    if settings.loss == "mse":
        simplex = theory.simplex_frame(K, settings.counts[0], layers, *ridges)
        grams = simplex.weight_gram, simplex.feature_gram, simplex.logits
        return Expectation("simplex ETF", *grams, simplex.loss, centred=True, caveat=caveat)
    if not balanced:
        centring = torch.eye(K, dtype=torch.float64) - 1 / K
        grams = (*theory.seli(settings.counts), centring)
        return Expectation("SELI", *grams, math.nan, centred=False, caveat=caveat or "only as λ → 0")
    if layers > 1 and K > 3:
        proven = K >= 6 or layers >= 3
        caveat = caveat or ("the ETF is not the optimum of deep CE" if proven else "no guarantee for deep CE")
    etf = theory.cross_entropy_etf(K, settings.counts[0], layers, *ridges)
    grams = etf.weight_gram, etf.feature_gram, etf.logits
    return Expectation("simplex ETF", *grams, etf.loss, centred=True, caveat=caveat)


class Network(nn.Module):
    """W_M…W_1 on features h_i, with or without a bias; everything float64.

    Args:
        settings: The experiment.
        layers: M.
        seed: Seed of the initial weights.
    """

    def __init__(self, settings: DeepLinear, layers: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        K, d, N = len(settings.counts), settings.width, sum(settings.counts)

        def draw(*shape: int, std: float = settings.std) -> nn.Parameter:
            return nn.Parameter(std * torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.weights = nn.ParameterList(draw(K if m == layers - 1 else d, d) for m in range(layers))
        self.bias = nn.Parameter(torch.zeros(K, dtype=torch.float64)) if settings.bias else None
        self.labels = torch.arange(K).repeat_interleave(torch.tensor(settings.counts))
        self.free = draw(N, d) if settings.features == "free" else None
        if self.free is None:
            self.images = digits(settings.counts)
            sizes = [self.images.shape[1]] + [d] * MLP_DEPTH
            self.hidden = nn.ParameterList(draw(b, a, std=math.sqrt(2 / a)) for a, b in pairwise(sizes))
            self.shifts = nn.ParameterList(draw(d, std=0.0) for _ in range(MLP_DEPTH))

    def features(self) -> Tensor:
        """H [N, d]."""
        if self.free is not None:
            return self.free
        h = self.images
        for weight, shift in zip(self.hidden, self.shifts, strict=True):
            h = functional.linear(h, weight, shift).relu()
        return h

    def product(self) -> Tensor:
        """W_M…W_1 [K, d], from the top, where the matrices are small."""
        product: Tensor = self.weights[-1]
        for weight in list(self.weights)[-2::-1]:
            product = product @ weight
        return product

    def objective(self, settings: DeepLinear) -> Tensor:
        """Loss and ridges."""
        features = self.features()
        outputs = functional.linear(features, self.product(), self.bias)
        if settings.loss == "mse":
            error = (outputs - functional.one_hot(self.labels)).square().sum() / (2 * len(self.labels))
        else:
            error = functional.cross_entropy(outputs, self.labels)
        ridge = settings.lambda_w / 2 * torch.stack([weight.square().sum() for weight in self.weights]).sum()
        return error + ridge + settings.lambda_h / 2 * features.square().sum()


def digits(counts: list[int]) -> Tensor:
    """The first n_k handwritten digits of each class k, float64 [N, 64] in [0, 1], from scikit-learn.

    Raises:
        ConfigError: If there are not as many, or more than ten classes.
    """
    from sklearn.datasets import load_digits

    data, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    available = labels.bincount()[: len(counts)]
    if len(counts) > 10 or bool((available < torch.tensor(counts)).any()):
        problem = "asks for more digits than there are"
        raise ConfigError("counts", counts, problem, f"At most ten classes, with {labels.bincount().tolist()}.")
    return torch.cat([data[labels == k][:n] for k, n in enumerate(counts)]).double() / 16


@torch.no_grad()
def observe(network: Network, target: Expectation, objective: float) -> dict[str, float]:
    """Distance from collapse and from the closed form.

    Returns:
        ``nc1``, ``cdnv``; ``nc2_w``, ``nc2_h``, ``nc3``: ‖X/‖X‖ - T/‖T‖‖ of WWᵀ, HᵀH, WH and their closed forms;
        ``w_error``, ``h_error``: largest relative error of the lengths, nan where the closed form has none; ``rank`` of
        W; ``loss`` and ``excess``, the loss above that of the closed form.
    """
    weight, features, labels = network.product(), network.features(), network.labels
    values = measure(features, labels)
    means = torch.stack([features[labels == k].mean(0) for k in range(len(weight))])
    means = means - means.mean(0) if target.centred else means
    grams = {"nc2_w": weight @ weight.T, "nc2_h": means @ means.T, "nc3": weight @ means.T}
    targets = (target.weight_gram, target.feature_gram, target.logits)
    singular = torch.linalg.svdvals(weight)
    lengths = not math.isnan(target.loss)
    return {
        "nc1": values["nc1"],
        "cdnv": values["cdnv"],
        **{name: _apart(gram, aim) for (name, gram), aim in zip(grams.items(), targets, strict=True)},
        "w_error": _length_error(grams["nc2_w"], target.weight_gram) if lengths else math.nan,
        "h_error": _length_error(grams["nc2_h"], target.feature_gram) if lengths else math.nan,
        "rank": int((singular > 1e-4 * singular[0]).sum()),
        "loss": objective,
        "excess": objective - target.loss,
    }


def train(settings: DeepLinear, layers: int, seed: int) -> tuple[Network, list[dict[str, float]]]:
    """Train one network.

    Returns:
        It, and its curve: ``step`` and what :func:`observe` returns, before the first step and after the last included.
    """
    network, target, curve = Network(settings, layers, seed), expect(settings, layers), []
    for step in track(_trajectory(network, settings), f"{layers} layers, points of the curve", settings.points + 1):
        objective = float(network.objective(settings).detach())
        if not math.isfinite(objective):
            name, value = ("lr", settings.lr) if settings.optimizer != "lbfgs" else ("std", settings.std)
            raise ConfigError(name, value, f"made layers={layers} diverge by step {step}", "Lower it, or std.")
        values = observe(network, target, objective)
        curve.append({"step": step, **values})
    return network, curve


def run(settings: DeepLinear) -> list[dict[str, Any]]:
    """Train every depth and seed; write the output folder and print the final table.

    Returns:
        A row per run, as in ``final.csv``.
    """
    configure_cpu(settings.threads)
    output = Output(settings.output, overwrite=settings.overwrite, settings=asdict(settings))
    curves, final = [], []
    for layers, seed in track(list(product(settings.layers, settings.seeds)), "networks"):
        part = output.part(f"{layers}-{seed}", partial(train_and_judge, settings, layers, seed))
        curves += part["curve"]
        final.append(part["final"])
    output.csv("curves.csv", curves)
    output.csv("final.csv", final)
    output.json("summary.json", {"settings": asdict(settings), "runs": final})
    if settings.figure:
        from fedloge.collapse.lab.figures import deep_linear_figure

        unit = "iteration" if settings.optimizer == "lbfgs" else "step"
        rate = decay(settings) if settings.optimizer == "gd" else None
        output.figure("curves.png", deep_linear_figure(curves, unit, rate))
    target = expect(settings, settings.layers[0]).name
    limits = f"NC1 < {settings.nc1_below:g}, NC2 < {settings.nc2_below:g}, NC3 < {settings.nc3_below:g}"
    title = f"{settings.loss.upper()}, n = {settings.counts}, {settings.features} features, against the {target}"
    print_table(title, [_shown(row) for row in final], f"collapsed: {limits}; everything is in {settings.output}")
    output.finish()
    return final


def train_and_judge(settings: DeepLinear, layers: int, seed: int) -> dict[str, Any]:
    """Train one network: its rows of ``curves.csv`` as ``curve``, and its row of ``final.csv`` as ``final``."""
    start, key = time.perf_counter(), {"layers": layers, "seed": seed}
    curve = train(settings, layers, seed)[1]
    verdict = judge(settings, expect(settings, layers), curve[-1])
    final = {**key, **curve[-1], "seconds": time.perf_counter() - start, "verdict": verdict}
    return {"curve": [{**key, **point} for point in curve], "final": final}


def judge(settings: DeepLinear, target: Expectation, last: dict[str, float]) -> str:
    """In words: whether a run collapsed to the closed form, and if not, why it did not or was not bound to."""
    if not target.weight_gram.any():
        return "every class vanished, as it must" if abs(last["excess"]) < 1e-6 else "not there yet"
    gram = max(last["nc2_w"], last["nc2_h"])
    reached = last["nc1"] < settings.nc1_below and gram < settings.nc2_below and last["nc3"] < settings.nc3_below
    if target.caveat:
        found = "reached it" if reached else "lower loss" if last["excess"] < -1e-6 else "did not reach it"
        return f"not promised ({target.caveat}): {found}"
    if reached:
        return "collapsed"
    if settings.optimizer == "gd" and (progress := decay(settings) / 2 * settings.steps) < ENOUGH:
        return f"needs {math.ceil(settings.steps * ENOUGH / progress):,} steps"
    return "in a local minimum" if last["excess"] > 1e-6 else "not there yet"


def decay(settings: DeepLinear) -> float:
    """Rate of CDNV under gradient descent: it falls by exp(-2λ_H·lr/(1-momentum)) a step once the residuals are
    orthogonal to W, where only the ridge on H moves them."""
    return 2 * settings.lambda_h * settings.lr / (1 - settings.momentum)


def _trajectory(network: Network, settings: DeepLinear) -> Iterator[int]:
    """Trains, stopping at every point of the curve."""
    advance = _stepper(network, settings)
    done = 0
    yield done
    for point in range(1, settings.points + 1):
        until = round(settings.steps * point / settings.points)
        if until > done:
            advance(until - done)
            done = until
            yield done


def _stepper(network: Network, settings: DeepLinear) -> Callable[[int], None]:
    """A function that takes a number of steps."""
    parameters = list(network.parameters())

    def closure() -> float:
        for parameter in parameters:
            parameter.grad = None
        loss = network.objective(settings)
        torch.autograd.backward(loss)
        return float(loss.detach())

    if settings.optimizer == "lbfgs":
        lbfgs = torch.optim.LBFGS(
            parameters, tolerance_grad=1e-14, tolerance_change=0, history_size=50, line_search_fn="strong_wolfe"
        )

        def iterate(steps: int) -> None:
            lbfgs.param_groups[0].update(max_iter=steps, max_eval=2 * steps)
            lbfgs.step(closure)  # type: ignore[no-untyped-call]

        return iterate

    if settings.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=settings.lr)
    else:
        optimizer = torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum)

    def advance(steps: int) -> None:
        for _ in range(steps):
            closure()
            optimizer.step()

    return advance


def _apart(gram: Tensor, target: Tensor) -> float:
    """‖X/‖X‖ - T/‖T‖‖; ‖X‖ itself where T is zero."""
    if not target.any():
        return float(gram.norm())
    return float((gram / gram.norm() - target / target.norm()).norm())


def _length_error(gram: Tensor, target: Tensor) -> float:
    """Largest relative error of the lengths of the classes that do not collapse."""
    length, aim = gram.diagonal().sqrt(), target.diagonal().sqrt()
    alive = aim > 0
    return float(((length - aim)[alive] / aim[alive]).abs().max()) if bool(alive.any()) else math.nan


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table on the screen, from one of ``final.csv``."""
    names = {
        "M": "layers",
        "seed": "seed",
        "NC1": "nc1",
        "NC2 W": "nc2_w",
        "NC2 H": "nc2_h",
        "NC3": "nc3",
        "‖w‖ err": "w_error",
        "‖h‖ err": "h_error",
        "rank": "rank",
        "loss": "loss",
        "- theory": "excess",
        "s": "seconds",
        "verdict": "verdict",
    }
    row = row | {"seconds": f"{row['seconds']:.1f}", "loss": f"{row['loss']:.6f}"}
    return {shown: row[name] for shown, name in names.items()}
