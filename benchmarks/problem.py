"""A workload's inputs as files: to read them, a contender needs neither fedloge's trainer nor its dependencies."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fedloge.models
from benchmarks.workloads import Federation, Kind
from fedloge.models import FixedLinear
from fedloge.models.base import Backbone

Arrays = dict[str, NDArray[Any]]
DIM = 512
"""d of the ``ssec`` workload."""


class Problem:
    """Images, split, initial state and first round's order of the examples, read when asked for.

    Args:
        folder: Folder that :func:`benchmarks.prepare.prepare` wrote.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        about = json.loads((self.folder / "problem.json").read_text())
        self.kind: Kind = about["kind"]
        self.device = torch.device(about["device"])
        self.dataset: str = about["dataset"]
        options = about["federation"]
        self.federation = Federation(**{**options, "mean": tuple(options["mean"]), "std": tuple(options["std"])})

    @property
    def dtype(self) -> torch.dtype:
        """Data type of weights and images."""
        return torch.float64 if self.federation.double else torch.float32

    @cached_property
    def data(self) -> dict[str, Tensor]:
        """``train_images`` uint8 [n, 3, 32, 32], ``train_labels`` int64 [n], and the same of the test set."""
        return {name: torch.from_numpy(array) for name, array in self._load("data").items()}

    @cached_property
    def partition(self) -> dict[str, list[list[int]]]:
        """Indices of every client's ``train`` and ``test`` images."""
        content: dict[str, list[list[int]]] = json.loads((self.folder / "partition.json").read_text())
        return content

    @property
    def sizes(self) -> list[int]:
        """n_k."""
        return [len(own) for own in self.partition["train"]]

    @cached_property
    def initial(self) -> dict[str, Tensor]:
        """The state that everyone starts from: the entries of :meth:`network`, and ``personal/k/…``."""
        return {name: torch.from_numpy(array) for name, array in self._load("initial").items()}

    @cached_property
    def orders(self) -> list[Tensor]:
        """Per client int64 [E, n_k]: which image comes when in the local epochs of round 1."""
        orders = self._load("orders")
        return [torch.from_numpy(orders[str(client)]) for client in range(self.federation.num_clients)]

    def network(self) -> nn.Module:
        """The network with its initial weights, on the device; its entries have the names of fedloge's methods."""
        federation = self.federation
        network = (FedAvgNet if federation.method == "FedAvg" else FedLoGeNet)(
            build_backbone(federation), federation.num_classes
        )
        entries = network.state_dict()
        network.load_state_dict({name: self.initial.get(name, old) for name, old in entries.items()})
        return network.to(self.device, self.dtype)

    def personal(self, client: int) -> dict[str, Tensor]:
        """The personal entries of a client before its first round."""
        prefix = f"personal/{client}/"
        return {name.removeprefix(prefix): t for name, t in self.initial.items() if name.startswith(prefix)}

    @cached_property
    def served(self) -> tuple[Tensor, Tensor]:
        """The training images as fedloge serves them, and their labels.

        Training amplifies a difference in the last bit of an image, so where results are compared, all train on these
        very numbers.
        """
        return torch.from_numpy(self._load("served")["images"]).to(self.dtype), self.data["train_labels"]

    def normalised(self, part: str) -> tuple[Tensor, Tensor]:
        """All ``train`` or ``test`` images, (x/255 - mean) / std, and their labels."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.federation.mean, self.federation.std))
        return ((self.data[f"{part}_images"] / 255 - mean) / std).to(self.dtype), self.data[f"{part}_labels"]

    def _load(self, name: str) -> Arrays:
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)


def build_backbone(federation: Federation) -> Backbone:
    """The federation's backbone, with weights from torch's generator."""
    options = {} if federation.backbone == "SmallCNN" else {"depth": federation.depth}
    backbone: Backbone = getattr(fedloge.models, federation.backbone)(**options)
    return backbone


class FedAvgNet(nn.Module):
    """Backbone and head."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.out_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


class FedLoGeNet(nn.Module):
    """Backbone, global head ψ, personal head φ and the fixed sparse ETF."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.psi = nn.Linear(backbone.out_features, num_classes)
        self.phi = nn.Linear(backbone.out_features, num_classes)
        self.sse = FixedLinear(backbone.out_features, num_classes)


def to_arrays(tensors: dict[str, Tensor]) -> Arrays:
    """The floating-point entries of a state as arrays; counters such as ``num_batches_tracked`` are left out."""
    return {name: t.detach().cpu().numpy().copy() for name, t in tensors.items() if t.is_floating_point()}


def describe(kind: Kind, device: str, dataset: str, federation: Federation) -> str:
    """The content of ``problem.json``."""
    return json.dumps({"kind": kind, "device": device, "dataset": dataset, "federation": asdict(federation)}, indent=1)
