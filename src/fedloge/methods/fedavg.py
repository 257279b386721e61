"""FedAvg (McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from fedloge.checks import check_choice, check_not_negative
from fedloge.errors import ConfigError
from fedloge.methods.base import Batch, Method, Phase, View
from fedloge.models.base import Backbone
from fedloge.models.heads import FixedLinear
from fedloge.realign import tau_normalise


class FedAvg(Method):
    """Average locally trained models.

    Everything is shared; a client minimises the cross-entropy over all parameters. The generic model is the server's,
    and so is every personal one: the same weights, tested on the client's own distribution.

    Args:
        backbone: θ.
        num_classes: C.
        pm: The personal model: the server's (``global``, as in the papers), or the client's own as it was just before
            the server averaged (``local``).
        tau_norm: τ of τ-normalisation (Kang et al., Decoupling Representation and Classifier, ICLR 2020): the generic
            model has the rows w_c / ‖w_c‖^τ and no bias; 0 leaves its head as it was trained.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        pm: Literal["global", "local"] = "global",
        tau_norm: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        check_choice("model.pm", pm, ("global", "local"))
        check_not_negative("model.tau_norm", tau_norm, "0 turns it off, 1 gives rows of equal norm.")
        name = type(self).__name__
        if pm == "local" and self.personal:
            raise ConfigError("model.pm", pm, f"but {name} has personal models of its own", "Leave it out.")
        if tau_norm and "global" not in self.views:
            raise ConfigError("model.tau_norm", tau_norm, f"but {name} has no generic model", "Leave it out.")
        self.pm, self.tau_norm = pm, tau_norm
        self.head = nn.Linear(backbone.out_features, num_classes)

    def phases(self, local_epochs: int) -> Sequence[Phase]:
        """One phase that trains everything; with ``pm=local`` the client keeps a copy of its trained model."""
        return (Phase("train", local_epochs, keep=("backbone", "head") if self.pm == "local" else ()),)

    def local_losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy of body and head."""
        images, labels = batch
        return {"ce": functional.cross_entropy(self.head(self.features(images)), labels)}

    def logits(self, features: Tensor, view: View) -> Tensor:
        """Scores of the head, τ-normalised for the generic model if ``tau_norm`` is set."""
        head = self.generic_head() if view == "global" else self.head
        if view == "global" and self.tau_norm:
            return functional.linear(features, tau_normalise(head.weight, self.tau_norm))
        logits: Tensor = head(features)
        return logits

    def generic_head(self) -> nn.Linear | FixedLinear:
        """Head of the generic model."""
        return self.head
