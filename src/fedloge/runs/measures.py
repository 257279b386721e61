"""The numbers of a run: what each is called, where ``summary.json`` holds it, how it is shown, and what it means.

Prose and tables speak of the *generic* model and of *personal* models; files and keys say ``global`` and ``personal``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedloge.evaluation.shots import SHOTS
from fedloge.methods.base import View

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """A number of a run.

    Args:
        key: Name in comparisons, sweeps and studies, for example ``worst tenth``; unique.
        path: Keys that lead to it in ``summary.json``; of one evaluation's number also its column of ``metrics.csv``.
        label: Name in a table of one kind of model alone, for example ``many``.
        title: Name in figures and headings.
        explanation: What it is, as a sentence.
        higher_is_better: Direction.
        scale: Factor for display: shares are shown in percent.
        digits: Digits after the point where it is shown.
    """

    key: str
    path: str
    label: str
    title: str
    explanation: str
    higher_is_better: bool = True
    scale: float = 100.0
    digits: int = 1

    @property
    def name(self) -> str:
        """Last key of the path, ``acc`` for example."""
        return self.path.rpartition("/")[2]

    def read(self, summary: Summary | None) -> float | None:
        """The number in a summary, or in its part ``before_realignment``; None if the method has no such model."""
        value: Any = summary
        for key in self.path.split("/"):
            value = value.get(key) if value is not None else None
        return None if value is None or math.isnan(value) else float(value)

    def text(self, values: Sequence[float], digits: int | None = None) -> str:
        """Mean ± sample standard deviation of the values as they are shown; empty without any."""
        return mean_text([self.scale * value for value in values], self.digits if digits is None else digits)


@dataclass(frozen=True)
class CostPerRound(Measure):
    """A cost of the whole run divided by its rounds; ``path`` holds the keys that are summed, joined by ``+``."""

    higher_is_better: bool = False
    digits: int = 2

    def read(self, summary: Summary | None) -> float | None:
        """The cost of a round; None in ``before_realignment``."""
        if summary is None or "rounds" not in summary:
            return None
        return sum(float(summary[key]) for key in self.path.split("+")) / float(summary["rounds"])


GM = Measure(
    key="GM",
    path="global/acc",
    label="accuracy",
    title="generic model (GM)",
    explanation="Accuracy of the generic model on the global test set.",
)
PM = Measure(
    key="PM",
    path="personal/acc_mean",
    label="mean",
    title="personal models (PM)",
    explanation="Accuracy of each client's personal model on its own test set, averaged over the clients.",
)
PM_STD = Measure(
    key="PM std",
    path="personal/acc_std",
    label="std",
    title="standard deviation",
    explanation="Standard deviation of the personal models' accuracies between clients.",
    higher_is_better=False,
)
WORST_TENTH = Measure(
    key="worst tenth",
    path="personal/acc_worst_decile",
    label="worst tenth",
    title="worst tenth",
    explanation="Mean accuracy of the tenth of the clients whose personal models are worst.",
)
GENERIC_GROUPS, PERSONAL_GROUPS = (
    tuple(
        Measure(
            key=prefix + group,
            path=f"{model}/acc_{group}",
            label=group,
            title=f"{group}-shot",
            explanation=f"{headline} on the {group}-shot classes.",
        )
        for group in SHOTS
    )
    for headline, prefix, model in (("GM", "", "global"), ("PM", "PM ", "personal"))
)
GENERIC = (GM, *GENERIC_GROUPS)
"""Accuracies of the generic model."""

PERSONAL = (PM, PM_STD, WORST_TENTH, *PERSONAL_GROUPS)
"""Accuracies of the personal models, over the clients that have test images."""

F1 = tuple(
    Measure(
        key=f"{average} F1",
        path=f"personal/{average}_f1",
        label=f"{average} F1",
        title=f"{average} F1",
        explanation=f"Mean over clients of the {average} average of the personal models' F1 scores of classes.",
    )
    for average in ("macro", "weighted")
)


@dataclass(frozen=True)
class _Score:
    """A number of every test set: its last key, words and direction; shares are shown in percent."""

    key: str
    name: str
    title: str
    meaning: str
    higher_is_better: bool = True
    scale: float = 100.0
    digits: int = 1


_SCORES = (
    _Score("balanced", "balanced_acc", "balanced accuracy", "Mean recall of the classes that have test images"),
    _Score("macro F1", "macro_f1", "macro F1", "Mean F1 score of the classes that have test images"),
    _Score("AUROC", "auroc", "AUROC", "Mean area under the ROC curve of each class against the rest"),
    _Score("AUPRC", "auprc", "AUPRC", "Mean average precision of each class against the rest"),
    _Score("ECE", "ece", "calibration error", "Expected calibration error in 15 bins of confidence", False),
    _Score("Brier", "brier", "Brier score", "Mean squared error of the class probabilities, 0 to 2", False, 1.0, 3),
)


def _measure(score: _Score, key: str, path: str, title: str, explanation: str, better: bool) -> Measure:
    return Measure(key, path, score.key, title, explanation, better, score.scale, score.digits)


GENERIC_SCORES = tuple(
    _measure(
        score,
        f"GM {score.key}",
        f"global/{score.name}",
        f"{score.title}, generic model",
        f"{score.meaning}, of the generic model.",
        score.higher_is_better,
    )
    for score in _SCORES
)
"""Further numbers of the generic model; all but the first two after the last round only."""

PERSONAL_SCORES = tuple(
    _measure(
        score,
        f"PM {score.key}",
        f"personal/{score.name}",
        f"{score.title}, personal models",
        f"{score.meaning}, of each personal model on its client's test images, averaged over the clients.",
        score.higher_is_better,
    )
    for score in _SCORES
)
"""Further numbers of the personal models, means over the clients."""

_ACCURACY = _Score("accuracy", "acc", "accuracy", "Accuracy")
SPREADS = tuple(
    _measure(
        score,
        f"PM {score.key} {word}",
        f"personal/{score.name}_{word}",
        f"{score.title}, {word} client",
        f"{score.title[0].upper()}{score.title[1:]} of the personal models: {meaning}.",
        score.higher_is_better if word == "worst" else False,
    )
    for score in (_ACCURACY, *_SCORES)
    for word, meaning in (("worst", "the worst client's"), ("range", "difference between the best and worst client"))
)
"""The worst client and the range over the clients, after the last round only."""

INTERVALS = {
    measure.path: tuple(
        replace(
            measure,
            key=f"{measure.key} {end}",
            path=f"{measure.path}_{end}",
            explanation=f"The {end}er end of the 95 % interval over test images: {measure.explanation}",
        )
        for end in ("low", "high")
    )
    for measure in (GM, *GENERIC_SCORES[:2], PM)
}
"""Ends of the 95 % intervals of some numbers, after the last round only, by the path of the number."""

COLUMNS = {measure.path: measure for measure in (*GENERIC, *PERSONAL, *F1, *GENERIC_SCORES[:2], *PERSONAL_SCORES[:1])}
"""The numbers of an evaluation by their column of ``metrics.csv``."""

HEADLINES = (GM, PM)
"""The number of each kind of model that stands for it."""

LAST10 = tuple(
    Measure(
        key=f"{headline.key} last 10",
        path=f"last10/{headline.path.partition('/')[0]}/mean",
        label="last 10",
        title=f"{headline.title}, last 10 rounds",
        explanation=f"Mean {headline.key} over the evaluations of the last 10 rounds.",
    )
    for headline in HEADLINES
)
BEST = tuple(
    Measure(
        key=f"{headline.key} best",
        path=f"best/{headline.path.partition('/')[0]}/value",
        label="best",
        title=f"{headline.title}, best round",
        explanation=f"{headline.key} of the best round, chosen on the test set: optimistic.",
    )
    for headline in HEADLINES
)
MASKED = Measure(
    key="masked",
    path="personal_masked/acc_mean",
    label="masked",
    title="PM, absent classes masked",
    explanation="PM without the classes that a client has no training image of: privileged knowledge.",
)
SECONDS = CostPerRound(
    key="s/round",
    path="seconds",
    label="s/round",
    title="seconds per round",
    explanation="Wall time of a round, evaluation included.",
    scale=1.0,
)
MEGABYTES = CostPerRound(
    key="MB/round",
    path="bytes_up+bytes_down",
    label="MB/round",
    title="megabytes per round",
    explanation="What all clients of a round send and receive.",
    scale=1e-6,
)
COSTS = (SECONDS, MEGABYTES)
VALIDATION_PREFIX = "val/"
"""Prefix of the columns and keys of numbers that are measured on validation images."""

VALIDATION = tuple(
    replace(
        headline,
        key=f"val {headline.key}",
        path=VALIDATION_PREFIX + headline.path,
        title=f"{headline.title}, validation",
        explanation=f"{headline.key} on the clients' validation images, by which a setting or a round may be chosen.",
    )
    for headline in HEADLINES
)
SCORES = (*GENERIC_SCORES, *PERSONAL_SCORES, *SPREADS, *(end for ends in INTERVALS.values() for end in ends))
MEASURES = {m.key: m for m in (*GENERIC, *PERSONAL, *F1, *SCORES, *LAST10, *BEST, MASKED, *VALIDATION, *COSTS)}
"""Every number by its key."""

KINDS: Mapping[View, str] = {"global": "generic", "personal": "personal"}
"""What prose calls the views of a method."""

MODELS: Mapping[View, str] = {"global": "generic model", "personal": "personal models"}
"""What prose calls the models of files and keys."""


def higher_is_better(metric: str) -> bool:
    """Direction of a column of ``metrics.csv``, with or without the prefix of the validation."""
    measure = COLUMNS.get(metric.removeprefix(VALIDATION_PREFIX))
    return measure is None or measure.higher_is_better


def chosen_on(metric: str) -> str:
    """On what images a choice by this column of ``metrics.csv`` was made."""
    if metric.startswith(VALIDATION_PREFIX):
        return "chosen on validation images"
    return "chosen on the test set: optimistic"


def read_all(summaries: Iterable[Summary], measure: Measure) -> list[float]:
    """A measure of each summary that has it."""
    return [value for summary in summaries if (value := measure.read(summary)) is not None]


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; nan where there are too few values."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def mean_text(values: Sequence[float], digits: int = 1) -> str:
    """``43.5 ± 0.3``; the mean alone of a single value; empty without any."""
    if not values:
        return ""
    mean, std = mean_std(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")


def headline_text(scalars: Mapping[str, float], digits: int = 1) -> list[str]:
    """``GM 43.5`` and ``PM 70.1`` from a row of ``metrics.csv``, as far as the method has these models."""
    found = [(measure, scalars.get(measure.path)) for measure in HEADLINES]
    return [f"{measure.key} {measure.text([value], digits)}" for measure, value in found if value is not None]
