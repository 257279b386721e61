"""What is measured, as data: every workload with its federation, its comparisons and their targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["round", "step", "eval", "exchange", "ssec"]

ALONE = "none"
"""What ``--against`` says where fedloge is measured alone."""

TOLERANCE: dict[str, float] = {"round": 1e-5, "step": 1e-3, "eval": 1.0, "exchange": 1e-5, "ssec": 0.0}
"""How far a contender may be from the reference: entries of a state, test images counted, zeros of a frame."""


@dataclass(frozen=True)
class Federation:
    """Data, network and local training.

    Args:
        per_class: Training images of the largest class; the others have fewer, down to a share of 1/IF.
        test_per_class: Test images of every class; 80 to 1000 training images, IF 100 and E = 2 make testing as large a
            part of a round as in the paper's setting (1000 to 5000, E = 5).
        imbalance_factor: Imbalance factor IF, max/min.
        num_classes: Number of classes C.
        num_clients: Number of clients K, split by Dirichlet(α).
        alpha: Concentration α of the Dirichlet distribution.
        image_size: Height and width of the images.
        backbone: A class of ``fedloge.models``.
        depth: Depth of that backbone; ``SmallCNN`` has none.
        method: ``FedAvg`` or ``FedLoGe``.
        epochs: E, local epochs.
        batch_size: Of local training.
        eval_batch_size: Of testing, by everybody; a CPU core tests ResNet-20 faster 100 at a time than 500.
        augment: Of training images.
        lr: Of local SGD.
        momentum: Of local SGD.
        gamma: Row norm of SSE-C.
        seed: Of data, split, weights and training.
        mean: Subtracted from images in [0, 1].
        std: What they are divided by then.
        double: Train in float64.
    """

    per_class: int = 1000
    test_per_class: int = 80
    imbalance_factor: float = 100.0
    num_classes: int = 10
    num_clients: int = 40
    alpha: float = 0.5
    image_size: int = 32
    backbone: str = "CifarResNet"
    depth: int = 20
    method: Literal["FedAvg", "FedLoGe"] = "FedLoGe"
    epochs: int = 2
    batch_size: int = 8
    eval_batch_size: int = 100
    augment: Literal["none", "crop_flip"] = "crop_flip"
    lr: float = 0.03
    momentum: float = 0.5
    gamma: float = 1.0
    seed: int = 3407
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, ...] = (0.2470, 0.2435, 0.2616)
    double: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two contenders, each written ``name@cores``, and what is asked of their ratio.

    Args:
        ours: Contender that should be faster.
        other: Contender it is compared with; None if the target is a time.
        at_least: Target of time(other) / time(ours).
        at_most: Target of time(ours) in seconds.
        better: Details of the outcome that must be lower for ours than for the other.
    """

    ours: str
    other: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    better: tuple[str, ...] = ()

    def met_by(self, entry: Mapping[str, Any]) -> bool | None:
        """Whether the ``ours_s``, ``ratio`` and ``worse`` details of a result meet the target; None without one."""
        met = []
        if self.at_most is not None:
            met.append(entry["ours_s"] <= self.at_most)
        if self.at_least is not None:
            met.append(entry["ratio"] >= self.at_least)
        if self.better:
            met.append(not {*self.better} & {*entry["worse"]})
        return all(met) if met else None


@dataclass(frozen=True)
class Workload:
    """Something to be done, and who is compared in doing it.

    Args:
        name: Name on the command line.
        kind: What one repetition is: a round with its evaluation, the local steps of all clients, an evaluation, an
            exchange, a solve.
        about: Description for tables, one line.
        federation: Data, network and training.
        comparisons: Comparisons in the order of the tables.
        repetitions: Number of timed repetitions in a process, after one that is not timed; after the rounds of a run
            comes another that is not timed either, since the last round also saves and tests the final models.
        device: ``cpu`` or ``cuda``.
    """

    name: str
    kind: Kind
    about: str
    federation: Federation
    comparisons: tuple[Comparison, ...]
    repetitions: int = 1
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def tolerance(self) -> float:
        """How far a contender may be from the reference."""
        return TOLERANCE[self.kind]

    @property
    def all_repetitions(self) -> int:
        """Number of repetitions in a process, timed or not."""
        return self.repetitions + (2 if self.kind == "round" else 1)

    @property
    def contenders(self) -> tuple[str, ...]:
        """Everyone who takes part, once."""
        names = [name for pair in self.comparisons for name in (pair.ours, pair.other) if name]
        return tuple(dict.fromkeys(names))


def for_gate(workload: Workload) -> Federation:
    """The small federation on which results are compared, without augmentation: all have the same batches then.

    Rounds are compared in float64 and after few steps. Training amplifies rounding (in 8 steps of ResNet-20, batches of
    8, a difference of 3e-7 to one of 1e-2), and a convolution rounds otherwise for every layout in memory.
    """
    federation = workload.federation
    per_class = min(federation.per_class, 30, 600 // federation.num_classes)
    return replace(
        federation,
        double=workload.kind == "round",
        per_class=per_class,
        test_per_class=min(federation.test_per_class, 20),
        imbalance_factor=min(federation.imbalance_factor, 10.0, per_class),
        num_clients=min(federation.num_clients, 8),
        epochs=min(federation.epochs, 2),
        augment="none",
    )


def quick(workload: Workload, device: Literal["cpu", "cuda"] | None = None) -> Workload:
    """The workload at the smallest size, for a quick check, on another device if one is given."""
    small = replace(for_gate(workload), augment=workload.federation.augment, num_clients=4, depth=8, double=False)
    if workload.federation.backbone == "ResNet":
        small = replace(small, backbone="CifarResNet", num_classes=min(small.num_classes, 10))  # of 64 dimensions
    return replace(workload, federation=small, repetitions=1, device=device or workload.device)


MINI = Federation(
    per_class=500,
    test_per_class=100,
    imbalance_factor=20,
    num_clients=10,
    depth=8,
    method="FedAvg",
    epochs=2,
    batch_size=16,
    augment="none",
)
STEP = Federation(
    per_class=200,
    test_per_class=10,
    imbalance_factor=1,
    num_clients=2,
    alpha=100.0,
    image_size=8,
    backbone="SmallCNN",
    augment="none",
)
FRAME = ("norm_var", "angle_var", "max_cos_error")

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            "cpu-mini",
            "round",
            "round of FedAvg: ResNet-8, 10 clients, batch 16, 2 epochs",
            MINI,
            (
                Comparison("fedloge-serial@1", "naive@1"),
                Comparison("fedloge-serial@1", "pfl@1"),
                Comparison("fedloge-processes@4", "naive@1"),
                Comparison("fedloge-processes@4", "naive@4"),
                Comparison("fedloge-processes@4", "pfl@1", at_least=1.2),
                Comparison("fedloge-processes@4", "pfl@4", at_least=1.2),
                Comparison("fedloge-processes@4", "pfl-processes@4", at_least=1.2),
            ),
            repetitions=2,
        ),
        Workload(
            "cpu-r20",
            "round",
            "round of FedLoGe: ResNet-20, 40 clients, batch 8, 2 epochs",
            Federation(),
            (
                Comparison("fedloge-serial@1", "naive@1"),
                Comparison("fedloge-processes@4", "naive@1", at_least=2.0),
                Comparison("fedloge-processes@4", "naive@4", at_least=2.0),
                Comparison("fedloge-processes@4", "fedloge-serial@4", at_least=2.0),
                Comparison("fedloge-processes@4", "fedloge-serial@1", at_least=3.5),
            ),
        ),
        Workload(
            "cpu-r18",
            "round",
            "round of FedLoGe: ResNet-18, 8 clients, batch 8, 1 epoch",
            Federation(
                per_class=100,
                test_per_class=10,
                imbalance_factor=10,
                num_clients=8,
                backbone="ResNet",
                depth=18,
                epochs=1,
            ),
            (
                Comparison("fedloge-processes@4", "naive@4"),
                Comparison("fedloge-processes@4", "fedloge-serial@4"),
            ),
        ),
        Workload(
            "step",
            "step",
            "500 local steps of FedLoGe: the quickstart's network, 2 clients, batch 8, 2 epochs",
            STEP,
            (
                Comparison("local-step@1", "plain@1"),
                Comparison("fedloge-serial@1", "local-step@1"),
                Comparison("fedloge-serial@1", "plain@1", at_least=0.83),
            ),
            repetitions=2,
        ),
        Workload(
            "eval",
            "eval",
            "evaluation of FedLoGe: generic and 40 personal models, ResNet-20",
            Federation(test_per_class=500),
            (
                Comparison("fedloge-serial@1", "per-client@1", at_least=1.8),
                Comparison("fedloge-serial@1", "naive@1", at_least=1.8),
                Comparison("fedloge-serial@4", "naive@4"),
            ),
        ),
        Workload(
            "exchange",
            "exchange",
            "exchange and average of 40 ResNet-18s",
            Federation(per_class=100, test_per_class=10, backbone="ResNet", depth=18, method="FedAvg"),
            (
                Comparison("fedloge-serial@1", "flwr@1", at_least=20.0),
                Comparison("fedloge-serial@1", "naive@1"),
                Comparison("fedloge-processes@4", "flwr-simulation@4", at_least=20.0),
            ),
            repetitions=2,
        ),
        Workload(
            "ssec",
            "ssec",
            "SSE-C for C = 100, d = 512, β = 0.6",
            Federation(num_classes=100, gamma=0.1),
            (Comparison("fedloge-serial@1", "adam@1", at_least=100.0, better=FRAME),),
        ),
        Workload(
            "gpu-c10",
            "round",
            "round of FedLoGe on CIFAR-10-LT's sizes: ResNet-18, 40 clients, batch 8, 5 epochs",
            Federation(per_class=5000, test_per_class=1000, backbone="ResNet", depth=18, epochs=5, eval_batch_size=500),
            (Comparison("fedloge@4", at_most=4.0), Comparison("fedloge@4", "naive@4")),
            repetitions=3,
            device="cuda",
        ),
        Workload(
            "gpu-c100",
            "round",
            "round of FedLoGe on CIFAR-100-LT's sizes: ResNet-34, 20 clients, batch 8, 5 epochs",
            Federation(
                per_class=500,
                test_per_class=100,
                num_classes=100,
                num_clients=20,
                backbone="ResNet",
                depth=34,
                epochs=5,
                eval_batch_size=500,
            ),
            (Comparison("fedloge@4", at_most=7.0), Comparison("fedloge@4", "naive@4")),
            repetitions=3,
            device="cuda",
        ),
    )
}
