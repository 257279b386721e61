"""FedALA (Zhang et al., FedALA: Adaptive Local Aggregation for Personalized Federated Learning, AAAI 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_least, check_positive, check_share
from fedloge.methods.base import Batch, within
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone


class FedALA(FedAvg):
    """FedAvg whose clients start the top of the network from a learnt mixture of their last model and the received one.

    The top tensors become own + W ⊙ (received - own), with weights W in [0, 1] that the client learns on a part of its
    data and keeps: in its second round until the loss settles, later for one pass. All others are as received. The
    personal model is the client's own just before the server averages.

    Args:
        backbone: θ.
        num_classes: C.
        layers: Number of tensors at the top that are mixed; 2 are weight and bias of the head.
        share: Share of the client's images that W is learnt on.
        rate: Learning rate of W.
        settled: Deviation of the last ten losses below which they have settled.
        max_passes: Most passes over these images.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        layers: int = 2,
        share: float = 0.8,
        rate: float = 1.0,
        settled: float = 0.1,
        max_passes: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, pm="local", **kwargs)
        check_least("model.layers", layers, 1)
        check_share("model.share", share)
        check_positive("model.rate", rate, "The authors have 1.")
        check_positive("model.settled", settled, "The authors have 0.1.")
        check_least("model.max_passes", max_passes, 1)
        self.layers, self.share, self.rate = layers, share, rate
        self.settled, self.max_passes = settled, max_passes

    def before_training(self, batches: Iterable[Batch]) -> None:
        """Mix the top of the network, if the client has trained before."""
        memory = self.client.memory
        top = dict(list(self.named_parameters())[-self.layers :])
        if not all(name in memory for name in top):
            return
        first = not all(f"note/{name}" in memory for name in top)
        weights = {name: torch.ones_like(tensor) if first else memory[f"note/{name}"] for name, tensor in top.items()}
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        chosen = torch.randperm(len(labels))[: max(1, round(self.share * len(labels)))].to(labels.device)
        losses: list[float] = []
        for _ in range(self.max_passes if first else 1):
            for part in torch.split(chosen, self.client.batch_size or len(chosen)):
                weights, loss = self._learn(images[part], labels[part], top, weights)
                losses.append(loss)
            if len(losses) > 10 and torch.tensor(losses[-10:]).std() < self.settled:
                break
        for name, tensor in top.items():
            tensor.copy_(torch.lerp(memory[name], tensor, weights[name]))
            memory[f"note/{name}"] = weights[name]

    def _learn(
        self, images: Tensor, labels: Tensor, received: Mapping[str, Tensor], weights: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], float]:
        """One step of W on a batch; returns W and the loss."""
        gaps = {name: tensor - self.client.memory[name] for name, tensor in received.items()}
        with torch.enable_grad():
            mixed = {
                name: (self.client.memory[name] + weights[name] * gap).requires_grad_() for name, gap in gaps.items()
            }
            loss = functional.cross_entropy(self._logits_with(mixed, images), labels)
            gradients = torch.autograd.grad(loss, list(mixed.values()))
        moved = {
            name: (weights[name] - self.rate * gradient * gap).clamp(0, 1)
            for (name, gap), gradient in zip(gaps.items(), gradients, strict=True)
        }
        return moved, float(loss)

    def _logits_with(self, replaced: dict[str, Tensor], images: Tensor) -> Tensor:
        """Scores of body and head with some of their tensors replaced."""
        outputs = images
        for part in ("backbone", "head"):
            own = {n.removeprefix(f"{part}."): t for n, t in replaced.items() if within(n, part)}
            outputs = torch.func.functional_call(getattr(self, part), own, (outputs,))
        return outputs
