"""What of the released code can be checked without training: splits, test sets, groups, how PM is counted, SSE-C."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from benchmarks.released import COLUMNS, PARTITIONS, SETTINGS, TRACES, Setting, curves, read
from fedloge.data import Arrays, FederatedDataModule
from fedloge.etf import geometry, simplex_etf, solve_adam, sparse_mask
from fedloge.evaluation import Evaluator, shots
from fedloge.evaluation.shots import SHOTS
from fedloge.methods import FedAvg
from fedloge.methods.base import Client, View
from fedloge.models import SmallCNN

CONFIGS = Path(__file__).parents[1] / "configs" / "cifar10_lt"
PRINTED = 5e-5
"""Half of the last of the four decimals in the logs."""
SETTLED = 20
"""From this value of an SSE-C trace on (step 2000) the random start no longer shows."""


@dataclass(frozen=True)
class Fact:
    """Something that the released logs say and fedloge has to agree with."""

    name: str
    released: str
    ours: str
    agrees: bool
    demand: str = "equal"


def facts(reference: str | Path) -> Iterator[Fact]:
    """All facts, those of every setting first.

    Raises:
        FedlogeError: If the folder lacks a file.
    """
    partitions = read(reference, PARTITIONS)["partitions"]
    for letter, setting in SETTINGS.items():
        name = f"cifar10_IF{setting.imbalance_factor}_alpha{setting.alpha}_K40"
        data = labels_only(setting)
        for fact in (*split_facts(data, partitions[name]), *counting_facts(data, curves(reference, "fedavg", setting))):
            yield Fact(f"{letter}: {fact.name}", fact.released, fact.ours, fact.agrees, fact.demand)
    for name, trace in read(reference, TRACES)["traces"].items():
        yield from solver_facts(name, trace)


def labels_only(setting: Setting) -> FederatedDataModule:
    """CIFAR-10's labels, long-tailed and split as the parity configurations say; its images are single black pixels."""
    config = yaml.safe_load((CONFIGS / "fedloge_parity.yaml").read_text(encoding="utf-8"))["data"]
    train, test = (torch.arange(10).repeat_interleave(count) for count in (5000, 1000))
    pixels = [torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8) for labels in (train, test)]
    config |= {"source": Arrays(pixels[0], train, pixels[1], test), "eval_batch_size": len(test)}
    data = FederatedDataModule(**config | {"alpha": setting.alpha, "imbalance_factor": setting.imbalance_factor})
    data.setup()
    return data


def split_facts(data: FederatedDataModule, released: Mapping[str, Any]) -> Iterator[Fact]:
    """Who has how many images of what, and which classes the mask takes away."""
    train, test = data.partition.train_counts, data.partition.test_counts
    yield _equal("training images by class", released["class_counts"], train.sum(0).tolist())
    for name, counts in (("train", train), ("local_test", test)):
        matrix = np.array(released[f"{name}_matrix_client_x_class"])
        same = int((matrix == counts).sum()) if matrix.shape == counts.shape else 0
        about = f"{matrix.size} cells, {matrix.sum()} images"
        yield Fact(f"{name} images by client and class", about, f"{same} cells equal", same == matrix.size)
    masked = int(((train > 0) & (test == 0)).sum())
    yield _equal("cells that are trained and masked", released["train_cells_masked_because_local_test_is_0"], masked)
    totals = np.array(released["local_test_matrix_client_x_class"]).sum(0).tolist()
    theirs, ours = shots(totals), shots(data.class_counts)
    yield Fact("head/middle/tail classes", _sizes(theirs), _sizes(ours), theirs == ours)


def counting_facts(data: FederatedDataModule, fedavg: Mapping[str, Mapping[int, float]]) -> Iterator[Fact]:
    """GM, PM and groups of rounds whose generic model took all images for one class: known without training it.

    Such a round has GM 0.1. The logs do not say which class it was, so it is the one that explains them best.
    """
    tested = {c: one_class(data, c) for c in range(data.num_classes)}
    for number in (number for number, accuracy in fedavg["gm_acc"].items() if accuracy == 0.1):
        theirs = [fedavg[name][number] for name in COLUMNS]
        c, ours = min(tested.items(), key=lambda pair: _largest_difference(theirs, pair[1]))
        agrees = _largest_difference(theirs, ours) <= PRINTED
        name = f"GM, PM and groups where FedAvg takes all for class {c} (round {number})"
        yield Fact(name, _numbers(theirs), _numbers(ours), agrees, "to 4 decimals")


def one_class(data: FederatedDataModule, predicted: int) -> list[float]:
    """What the evaluator finds, in the order of :data:`COLUMNS`, for a model that takes everything for one class."""

    class OneClass(FedAvg):
        def features(self, images: Tensor, view: View = "global") -> Tensor:
            return images.flatten(1)

        def logits(self, features: Tensor, view: View) -> Tensor:
            return torch.eye(self.num_classes)[predicted].expand(len(features), -1)

    method = OneClass(SmallCNN((1,), in_channels=1), data.num_classes)
    population = [Client(k, tuple(data.client_counts(k))) for k in range(data.num_clients)]
    evaluator = Evaluator(method, data, population, personal_shots="own")
    state = method.initial_state(data.num_clients, lambda client: torch.Generator())
    scalars = evaluator.evaluate(state).scalars()
    return [scalars[column] for column in COLUMNS.values()]


def solver_facts(name: str, released: Mapping[str, Any], seed: int = 0) -> Iterator[Fact]:
    """The Adam recipe for SSE-C from another random start: its loss once settled, norms and angles at the end."""
    shape, draw = (released["classes"], released["dim"]), torch.Generator().manual_seed(seed)
    start, mask = simplex_etf(*shape, draw), sparse_mask(*shape, released["beta"], draw)
    every = released["steps"][1]
    weight, trace = solve_adam(
        start, mask, released["gamma_target"], steps=every * len(released["loss"]), trace_every=every
    )
    difference = _largest_difference(released["loss"][SETTLED:], trace[SETTLED:])
    ours, theirs = geometry(weight), released["final"]
    yield Fact(
        f"SSE-C {name}: loss from step {every * SETTLED} on",
        f"{released['loss'][SETTLED]:.4f} to {released['loss'][-1]:.4f}",
        f"{trace[SETTLED]:.4f} to {trace[-1]:.4f}",
        difference <= 2e-3,
        "within 0.002 at every step",
    )
    for key, value, tolerance in (("norm_mean", ours.norm_mean, 1e-3), ("angle_mean_deg", ours.angle_mean, 0.01)):
        close = abs(value - theirs[key]) <= tolerance
        yield Fact(f"SSE-C {name}: {key}", f"{theirs[key]:.5g}", f"{value:.5g}", close, f"within {tolerance:g}")


def table(found: Sequence[Fact]) -> str:
    """Markdown."""
    lines = ["| fact | released | ours | demanded | |", "|---|---|---|---|---|"]
    for fact in found:
        verdict = "agrees" if fact.agrees else "**differs**"
        lines.append(f"| {fact.name} | {fact.released} | {fact.ours} | {fact.demand} | {verdict} |")
    return "\n".join(lines)


def _equal(name: str, released: Any, ours: Any) -> Fact:
    return Fact(name, str(released), str(ours), released == ours)


def _sizes(groups: Sequence[str]) -> str:
    return "/".join(str(groups.count(name)) for name in SHOTS)


def _largest_difference(first: Sequence[float], second: Sequence[float]) -> float:
    return float(np.abs(np.subtract(first, second)).max())


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
