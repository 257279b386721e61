"""FedPer (Arivazhagan et al., Federated Learning with Personalization Layers, arXiv 1912.00818, 2019)."""

from __future__ import annotations

from fedloge.methods.fedavg import FedAvg


class FedPer(FedAvg):
    """A shared body and a private head, trained jointly; all heads start the same. There is no generic model.

    Args:
        backbone: θ.
        num_classes: C.
        **kwargs: Options of local SGD, see :class:`Method`.
    """

    personal = ("head",)
    views = ("personal",)
