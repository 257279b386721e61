"""Neural collapse of small causal language models over widths and training steps (after Wu & Papyan 2024).

A class is the next token, a feature the input of the head. There are far more classes than dimensions and they are
long-tailed: no geometry of the closed forms can be reached, the generalised metrics can still fall.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional import spearman_corrcoef

from fedloge.checks import check_least, check_positive, check_threads
from fedloge.collapse.lab.corpus import Corpus, corpus
from fedloge.collapse.lab.output import Output, Row
from fedloge.collapse.measurement import measure_batches
from fedloge.errors import ConfigError
from fedloge.system.cpu import configure_cpu
from fedloge.system.live import track
from fedloge.tables import print_table

MEASURED = ("cdnv_log", "gnc2_var", "gnc2_cv", "equinorm", "nc3_cosine", "unc3_var", "nc4", "etf_error", "nc1")
"""Metrics that are shown and correlated with the validation loss."""

BATCH = 32
"""Windows of a batch."""


@dataclass(frozen=True)
class Language:
    """An experiment: a transformer for every width, depth and number of steps, on text that comes with Python.

    Args:
        widths: d, the number of features; attention has d/16 heads, at least one.
        depths: Numbers of transformer layers.
        steps: Lengths of training, each with its own cosine schedule; 0 measures the untrained model. Below 150 steps
            GNC2 is not monotone: random directions are already uniform, and early training breaks that.
        seeds: Seeds; each is a run of its own.
        vocabulary: V, the most frequent tokens; all others are one class.
        context: T, tokens in a window.
        lr: Peak learning rate of AdamW.
        min_count: Tokens seen fewer times as a target in training are left out of the metrics.
        threads: Threads of the computation.
        output: Folder for results.csv, correlations.csv, summary.json and language.png.
        overwrite: Replace an older experiment in that folder.
        figure: Draw language.png.

    Raises:
        ConfigError: For what cannot be trained.
    """

    widths: list[int] = field(default_factory=lambda: [16, 32, 64])
    depths: list[int] = field(default_factory=lambda: [1])
    steps: list[int] = field(default_factory=lambda: [150, 400, 1200])
    seeds: list[int] = field(default_factory=lambda: [0])
    vocabulary: int = 1000
    context: int = 64
    lr: float = 3e-3
    min_count: int = 5
    threads: int = 1
    output: str = "runs/collapse/language"
    overwrite: bool = False
    figure: bool = True

    def __post_init__(self) -> None:
        for name, least in (("widths", 1), ("depths", 1), ("steps", 0), ("seeds", 0)):
            values = getattr(self, name)
            if not values:
                raise ConfigError(name, values, "is empty", "Give at least one.")
            check_least(name, min(values), least)
        check_threads("threads", self.threads)
        for name, least in (("vocabulary", 2), ("context", 2), ("min_count", 1)):
            check_least(name, getattr(self, name), least)
        for width in self.widths:
            if width > 16 and width % (width // 16):
                problem = f"do not divide into {width // 16} attention heads"
                raise ConfigError("widths", width, problem, "Take multiples of 16.")
        if self.context > 512:
            raise ConfigError("context", self.context, "is more than a chunk of 512 tokens", "Choose a smaller one.")
        check_positive("lr", self.lr, "3e-3 suits these models.")


class LanguageModel(Protocol):
    """What can be measured: a model that shows the input of its linear head."""

    def hidden(self, tokens: Tensor) -> Tensor:
        """The input of the head [n, T, d] for tokens int64 [n, T]."""

    def logits(self, tokens: Tensor) -> Tensor:
        """Scores of the next token [n, T, V]."""

    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """W [V, d] and b [V] of the head."""


class Transformer(nn.Module):
    """A pre-norm causal transformer with learned positions and an untied head without a bias.

    Args:
        tokens: Number of classes.
        width: d.
        depth: Layers.
        context: Most tokens of a window.
        seed: Seed of the initial weights, normal with standard deviation 0.02; biases begin at zero.
    """

    def __init__(self, tokens: int, width: int, depth: int, context: int, seed: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 16), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.embed, self.place = nn.Embedding(tokens, width), nn.Embedding(context, width)
        self.body = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def hidden(self, tokens: Tensor) -> Tensor:
        """The input of the head [n, T, d] for tokens int64 [n, T]."""
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        features: Tensor = self.body(self.embed(tokens) + self.place.weight[:length], mask=mask, is_causal=True)
        return features

    def logits(self, tokens: Tensor) -> Tensor:
        """Scores of the next token [n, T, classes]."""
        scores: Tensor = self.head(self.hidden(tokens))
        return scores

    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """W [classes, d]; there is no bias."""
        return self.head.weight, None


def train(settings: Language, data: Corpus, width: int, depth: int, steps: int, seed: int) -> Transformer:
    """Train a transformer with AdamW, a cosine schedule and gradients clipped to norm 1."""
    model = Transformer(len(data.vocabulary), width, depth, settings.context, seed)
    if not steps:
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    span = torch.arange(settings.context + 1)
    for _ in track(range(steps), f"width {width}, depth {depth}, training step"):
        rows = torch.randint(len(data.train), (BATCH, 1), generator=generator)
        starts = torch.randint(data.train.shape[1] - settings.context, (BATCH, 1), generator=generator)
        window = data.train[rows, starts + span]
        optimizer.zero_grad()
        loss = next_token_loss(model, window)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def next_token_loss(model: LanguageModel, windows: Tensor) -> Tensor:
    """Mean cross entropy of the next token over windows [n, T]; the last position has none and is dropped."""
    return functional.cross_entropy(model.logits(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def measure_model(model: LanguageModel, train_windows: Tensor, heldout: Tensor, min_count: int) -> dict[str, float]:
    """Collapse of a language model.

    Args:
        model: In eval mode.
        train_windows: int64 [n, T], where means and variances are measured.
        heldout: int64 [m, T], where NC4 and the validation loss are measured.
        min_count: Tokens seen fewer times as a target in ``train_windows`` are left out, from NC4 too.

    Returns:
        ``val_loss``, ``train_loss``, and the metrics of :func:`fedloge.collapse.measurement` with p = 2 in CDNV.
    """

    def batches(windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for part in track(torch.split(windows, BATCH), "measuring, batch"):
            yield model.hidden(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten()

    def loss(windows: Tensor) -> float:
        parts = track(torch.split(windows, BATCH), "loss, batch")
        return sum(float(next_token_loss(model, part)) * len(part) for part in parts) / len(windows)

    weight, bias = model.classifier()
    values = measure_batches(
        lambda: batches(train_windows),
        (weight, bias),
        num_classes=len(weight),
        heldout=lambda: batches(heldout),
        min_count=min_count,
        cdnv_power=2,
    )
    return {"val_loss": loss(heldout), "train_loss": loss(train_windows), **values}


def windows(chunks: Tensor, context: int) -> Tensor:
    """Chunks [n, 512] cut into windows [·, T]; what is left over at the end of a chunk is dropped."""
    whole = chunks.shape[1] // context
    return chunks[:, : whole * context].reshape(-1, context)


def run(settings: Language) -> list[dict[str, Any]]:
    """Train and measure every model; write the output folder and print the tables.

    Returns:
        A row per model, as in ``results.csv``.
    """
    configure_cpu(settings.threads)
    output = Output(settings.output, overwrite=settings.overwrite, settings=asdict(settings))
    data = corpus(settings.vocabulary)
    models = list(product(settings.widths, settings.depths, settings.steps, settings.seeds))
    rows = [
        output.part("-".join(map(str, model)), partial(train_and_measure, settings, data, *model))
        for model in track(models, "models")
    ]
    correlations = correlate(rows)
    about = {"source": data.source, "sha256": data.sha256, "train": data.train.numel(), "heldout": data.heldout.numel()}
    output.csv("results.csv", rows)
    output.json("summary.json", {"settings": asdict(settings), "corpus": about, "correlations": correlations})
    if settings.figure:
        from fedloge.collapse.lab.figures import language_figure

        output.figure("language.png", language_figure(rows, correlations))
    shown = ("width", "depth", "steps", "seed", "val_loss", *MEASURED, "etf_floor")
    seen = f"{rows[0]['classes']} of {len(data.vocabulary)} tokens, seen {settings.min_count} times or more"
    title = f"{data.source}: {seen}"
    print_table(title, [{name: row[name] for name in shown} for row in rows])
    if correlations:
        output.csv("correlations.csv", [correlations])
        title = f"Spearman correlation with the validation loss over {len(rows)} models"
        print_table(title, [correlations], caption=f"everything is in {settings.output}")
    output.finish()
    return rows


def train_and_measure(
    settings: Language, data: Corpus, width: int, depth: int, steps: int, seed: int
) -> dict[str, Any]:
    """Train a transformer and measure it: a row of ``results.csv``."""
    start = time.perf_counter()
    model = train(settings, data, width, depth, steps, seed)
    parts = windows(data.train, settings.context), windows(data.heldout, settings.context)
    values = measure_model(model, *parts, settings.min_count)
    key = {"width": width, "depth": depth, "steps": steps, "seed": seed}
    return {**key, **values, "seconds": time.perf_counter() - start}


def correlate(rows: Sequence[Row]) -> dict[str, float]:
    """Spearman's correlation of each metric with the validation loss; empty for fewer than three models."""
    if len(rows) < 3:
        return {}
    loss = torch.tensor([row["val_loss"] for row in rows])
    return {name: float(spearman_corrcoef(torch.tensor([row[name] for row in rows]), loss)) for name in MEASURED}
