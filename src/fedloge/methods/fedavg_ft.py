"""FedAvg with local fine-tuning: the plain control for every personalised method."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from fedloge.checks import check_not_negative
from fedloge.methods.base import Batch, Phase, TrainClients, View
from fedloge.methods.fedavg import FedAvg
from fedloge.models.base import Backbone
from fedloge.state import ClientStore, FederatedState, SharedState, Tensors


class FedAvgFT(FedAvg):
    """FedAvg whose final model every client copies and fine-tunes; the copy is its personal model.

    Until the last round is over, the personal model is the generic one.

    Args:
        backbone: θ.
        num_classes: C.
        finetune_epochs: Epochs of fine-tuning; 0 leaves the personal model the generic one.
        finetune_part: What is fine-tuned, the ``head`` on the frozen body, or ``full``.
        finetune_lr: Its learning rate; None takes ``lr``.
        **kwargs: Local SGD, see :class:`Method`.
    """

    personal = ("personal_backbone", "personal_head")
    fixed: ClassVar[tuple[str, ...]] = ("finetuned",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        finetune_epochs: int = 5,
        finetune_part: Literal["head", "full"] = "head",
        finetune_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_not_negative("model.finetune_epochs", finetune_epochs, "0 turns it off.")
        check_not_negative("model.finetune_lr", finetune_lr, "null takes model.lr.")
        self.finetune_epochs, self.finetune_part, self.finetune_lr = finetune_epochs, finetune_part, finetune_lr
        self.personal_backbone = copy.deepcopy(self.backbone)
        self.personal_head = copy.deepcopy(self.head)
        self.register_buffer("finetuned", torch.tensor(False))
        self.finetuned: Tensor

    def personal_entries(self) -> Tensors:
        """Clients keep nothing until they fine-tune."""
        return super().personal_entries() if self.finetuned else {}

    def is_trained(self, name: str) -> bool:
        """The copies are left alone until they are fine-tuned."""
        return super().is_trained(name) and (self.phase.name == "finetune" or not name.startswith("personal_"))

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy of the generic model, or of the copy that is fine-tuned."""
        if self.phase.name != "finetune":
            return super().local_losses(batch)
        images, labels = batch
        return {"finetune": functional.cross_entropy(self.personal_head(self.personal_backbone(images)), labels)}

    def learning_rates(self) -> Mapping[str, float]:
        """The copies may have their own."""
        return {} if self.finetune_lr is None else dict.fromkeys(self.personal, self.finetune_lr)

    def finalize(self, state: FederatedState, train: TrainClients | None = None) -> FederatedState:
        """Give every client a copy of the generic model, fine-tuned on its own data."""
        if train is None or self.finetune_epochs == 0:
            return state
        generic = {**state.shared.tensors, **state.shared.fixed}
        copies = {f"personal_{name}": t for name, t in generic.items() if f"personal_{name}" in self.state_dict()}
        shared = SharedState(state.shared.tensors, {**state.shared.fixed, "finetuned": torch.tensor(True)})
        start = FederatedState(state.round, shared, ClientStore(len(state.clients), lambda client: copies))
        parts = self.personal if self.finetune_part == "full" else ("personal_head",)
        tuned = train(start, (Phase("finetune", self.finetune_epochs, trainable=parts),))
        return FederatedState(state.round, shared, tuned)

    def features(self, images: Tensor, view: View = "global") -> Tensor:
        """Through the shared body, or through the client's own once it has one."""
        own = view == "personal" and bool(self.finetuned)
        features: Tensor = (self.personal_backbone if own else self.backbone)(images)
        return features

    def shares_features(self) -> bool:
        """Until the copies are fine-tuned."""
        return not bool(self.finetuned)

    def logits(self, features: Tensor, view: View) -> Tensor:
        """The generic head, or the client's own once it has one."""
        own = view == "personal" and bool(self.finetuned)
        logits: Tensor = (self.personal_head if own else self.head)(features)
        return logits
