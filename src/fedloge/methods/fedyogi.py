"""FedYogi (Reddi et al., Adaptive Federated Optimization, ICLR 2021)."""

from __future__ import annotations

from torch import Tensor

from fedloge.methods.fedadam import FedAdam


class FedYogi(FedAdam):
    """:class:`FedAdam` with Yogi's second moment, v ← v - (1-β2) Δ² sign(v - Δ²), which falls more slowly.

    Args:
        backbone: θ.
        num_classes: C.
        **kwargs: Options of :class:`FedAdam`.
    """

    def second_moments(self, old: Tensor, squares: Tensor) -> Tensor:
        """v of this round from the last one's and Δ²."""
        return old - (1 - self.beta2) * squares * (old - squares).sign()
