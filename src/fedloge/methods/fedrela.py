"""FedReLa (ICML 2026): one-shot relabelling from head to tail, here on top of FedLoGe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fedloge.checks import check_least, check_positive, check_share
from fedloge.methods.base import Batch
from fedloge.methods.fedloge import FedLoGe
from fedloge.models.base import Backbone


class FedReLa(FedLoGe):
    """FedLoGe whose clients once give some examples of classes frequent with them a label of a rarer one.

    From round ``start`` on, a client that trains for the first time asks the received model, through the fixed
    classifier, how unusually probable every class is for each of its examples (:func:`relabel`). It keeps the new
    labels for good, and trains with a smaller learning rate.

    Args:
        backbone: θ.
        num_classes: C.
        start: Round of the relabelling; the authors take about nine tenths of all rounds.
        share: Share of the client's examples above the threshold of a class.
        slower: Factor of the learning rates from then on.
        **kwargs: Options of :class:`FedLoGe`.
    """

    indexed = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        start: int = 450,
        share: float = 0.05,
        slower: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_least("model.start", start, 1)
        check_share("model.share", share)
        check_positive("model.slower", slower, "The authors have 0.1.")
        self.start, self.share, self.slower = start, share, slower

    def before_training(self, batches: Iterable[Batch]) -> None:
        """Relabel, if it is time and has not been done."""
        if self.client.round < self.start or "note/labels" in self.client.memory:
            return
        pairs = [(self.sse(self.features(images)).softmax(1), labels) for images, labels in batches]
        probabilities, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
        draws = torch.rand(probabilities.shape).to(probabilities)
        self.client.memory["note/labels"] = relabel(probabilities, labels, self.own_counts, self.share, draws)

    def local_losses(self, batch: Any) -> Mapping[str, Tensor]:
        """FedLoGe's, with the client's own labels."""
        images, labels, positions = batch
        own = self.client.memory.get("note/labels")
        return super().local_losses((images, labels if own is None else own[positions]))

    def sgd_options(self) -> Mapping[str, Mapping[str, float]]:
        """FedLoGe's, with smaller learning rates after the relabelling."""
        options, usual = super().sgd_options(), {"lr": self.lr}
        if self.client.round < self.start:
            return options
        parts = {name: usual for name, _ in self.named_children()} | dict(options)
        return {part: {**own, "lr": self.slower * own["lr"]} for part, own in parts.items()}


def relabel(probabilities: Tensor, labels: Tensor, counts: Tensor, share: float, draws: Tensor) -> Tensor:
    """New labels int64 [n], which differ from the old ones only towards classes that are rarer.

    z is the probability of a class, standardised over the examples of the same label. An example passes to class c with
    probability tanh(z_c - τ_c) · max(p_c - p_y, 0), where τ_c cuts off the top ``share`` of z_c over all examples, and
    p is 1 - (n - min n) / (max n - min n). Among several hits the most probable one counts.

    Args:
        probabilities: [n, C].
        labels: int64 [n].
        counts: n_{k,c} [C].
        share: Share of the examples above τ_c.
        draws: Uniform draws from [0, 1), [n, C].
    """
    z = torch.zeros_like(probabilities)
    for c in torch.unique(labels):
        own = probabilities[labels == c]
        z[labels == c] = (own - own.mean(0)) / own.std(0, correction=0).clamp(min=1e-6)
    above = min(int(share * len(z)), len(z) - 1)
    thresholds = z.sort(0, descending=True).values[above]
    spread = (counts.max() - counts.min()).clamp(min=1)
    rarity = 1 - (counts - counts.min()) / spread
    chances = torch.tanh(z - thresholds) * (rarity - rarity[labels][:, None]).clamp(min=0)
    hits = chances.where(chances > draws, torch.zeros_like(chances))
    best, target = hits.max(1)
    return torch.where(best > 0, target, labels)
