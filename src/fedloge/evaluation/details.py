"""The costlier numbers of an evaluation: scores of class probabilities, intervals, and the spread between clients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedloge.evaluation.bootstrap import SAMPLES, interval, resampled
from fedloge.evaluation.probabilities import probability_scores
from fedloge.methods.base import View

LOWER_IS_BETTER = ("ece", "brier")


@dataclass
class Details:
    """Collects the class probabilities of the models one after the other; they are not kept.

    Args:
        num_classes: C.
        generic: Numbers of the generic model.
        clients: Numbers of each client's personal model, by client.
        samples: Sum over the clients of the accuracies on samples of their test images, float64 [1000].
    """

    num_classes: int
    generic: dict[str, float] = field(default_factory=dict)
    clients: dict[int, dict[str, float]] = field(default_factory=dict)
    samples: Tensor = field(default_factory=lambda: torch.zeros(SAMPLES, dtype=torch.float64))

    def add_generic(self, logits: Tensor, labels: Tensor, groups: Tensor | None) -> None:
        """Add the generic model's logits [n, C] on the global test set."""
        probabilities, predictions = logits.float().softmax(1).cpu(), logits.argmax(1).cpu()
        self.generic = probability_scores(probabilities, labels)
        for name, samples in resampled(predictions, labels, self.num_classes, groups).items():
            self.generic[f"{name}_low"], self.generic[f"{name}_high"] = interval(samples)
        self.generic["classes_left_out"] = self._absent(labels)

    def add_client(self, client: int, logits: Tensor, labels: Tensor, groups: Tensor | None) -> None:
        """Add a personal model's logits [n, C] on its client's test images."""
        probabilities, predictions = logits.float().softmax(1).cpu(), logits.argmax(1).cpu()
        samples = resampled(predictions, labels, self.num_classes, groups)["acc"]
        self.samples += samples
        low, high = interval(samples)
        scores = probability_scores(probabilities, labels)
        bounds = {"acc_low": low, "acc_high": high}
        self.clients[client] = {**scores, **bounds, "classes_left_out": self._absent(labels)}

    def _absent(self, labels: Tensor) -> int:
        """Number of classes without test images."""
        return self.num_classes - int((labels.bincount() > 0).sum())

    def result(self, basic: Sequence[Mapping[str, float]]) -> dict[View, Mapping[str, float]]:
        """The numbers to add to those of the models.

        Args:
            basic: Numbers of each client that every evaluation has, in the order of the clients.
        """
        found: dict[View, Mapping[str, float]] = {"global": self.generic}
        if self.clients:
            low, high = interval(self.samples / len(self.clients))
            own = [{**one, **self.clients[client]} for one, client in zip(basic, self.clients, strict=True)]
            found["personal"] = {"acc_mean_low": low, "acc_mean_high": high, **spread(own)}
        return found


def spread(clients: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean, worst and range over the clients of every number that is not the bound of an interval."""
    result = {}
    for name in clients[0]:
        values = [own[name] for own in clients if not math.isnan(own[name])]
        if name in ("acc_low", "acc_high") or not values:
            continue
        worst = max(values) if name in LOWER_IS_BETTER else min(values)
        if name != "acc":
            result[name] = sum(values) / len(values)
        if name != "classes_left_out":
            result |= {f"{name}_worst": worst, f"{name}_range": max(values) - min(values)}
    return result
