"""Stage 3: milliseconds per client-step by the number of lanes, for one kind of BatchNorm.

Clients of equal size train for one epoch and for five; the difference is that of their steps alone, and what is left
of the first is the cost of beginning and ending a client.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.first_gpu.record import Record, parser
from benchmarks.prepare import build_method, synthetic
from benchmarks.workloads import Federation
from fedloge.data import Arrays, FederatedDataModule
from fedloge.errors import FedlogeError
from fedloge.executors import ClientResult, ClientTask, Cohort, LocalSettings
from fedloge.methods.base import Method

LANES = (8, 1, 16, 4, 12)
EPOCHS = (1, 5)
OPTION = "batchnorm"
"""Argument of the executor that chooses between torch's own kernels of BatchNorm and cuDNN's."""
ARITHMETIC = (("32-true", False), ("bf16-mixed", False), ("32-true", True), ("bf16-mixed", True))
"""Precision (float32 with TF32) and cuDNN's benchmark."""
FULL = Federation(per_class=320, test_per_class=1, num_clients=16, backbone="ResNet", depth=18)
QUICK = Federation(per_class=8, test_per_class=1, num_clients=2, backbone="SmallCNN", image_size=8)


def equal_clients(federation: Federation) -> FederatedDataModule:
    """Clients with the same number of images, a multiple of the batch size."""
    images = {name: torch.from_numpy(array) for name, array in synthetic(federation).items()}
    data = FederatedDataModule(
        Arrays(**images, mean=federation.mean, std=federation.std),  # type: ignore[arg-type]
        num_clients=federation.num_clients,
        imbalance_factor=1,
        scheme="iid",
        batch_size=federation.batch_size,
        augment=federation.augment,
    )
    data.setup()
    return data


class Session:
    """An executor with as many lanes as there are clients, which trains as many of them as are asked for.

    Args:
        data: The clients.
        method: Method that is trained.
        settings: Device and precision.
        options: Further arguments of the executor.
    """

    def __init__(
        self, data: FederatedDataModule, method: Method, settings: LocalSettings, options: Mapping[str, Any]
    ) -> None:
        self.device, self.method, self.round = settings.device, method, 0
        graphs = self.device.type == "cuda"
        self.executor = Cohort(lanes=data.num_clients, graphs=graphs, **options)
        self.executor.start(method, data, settings)
        self.state = method.initial_state(data.num_clients, lambda _: torch.Generator().manual_seed(0))
        self.steps = sum(data.client_counts(0)) // data.batch_size

    @property
    def captured(self) -> bool:
        """Whether the steps were graphs."""
        return all(lane.graphs for lane in self.executor.lanes)

    def seconds(self, clients: int, epochs: int) -> float:
        """Wall time of a round of some clients.

        Raises:
            RuntimeError: If a client failed.
        """
        self.round += 1
        tasks = [ClientTask(client, self.round, self.method.phases(epochs)) for client in range(clients)]
        began = time.perf_counter()
        outcomes = list(self.executor.run(self.state.shared, self.state.clients, tasks))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        spent = time.perf_counter() - began
        failed = [outcome.reason for outcome in outcomes if not isinstance(outcome, ClientResult)]
        if failed:
            raise RuntimeError(f"{len(failed)} of {clients} clients failed: {failed[0]}")
        return spent

    def per_step(self, lanes: int) -> dict[str, float]:
        """Milliseconds of a client's step and of the rest of a client, after a round that captures what is needed."""
        first = self.seconds(lanes, 1)
        few, many = (self.seconds(lanes, epochs) for epochs in EPOCHS)
        step = (many - few) / (EPOCHS[1] - EPOCHS[0]) / (lanes * self.steps)
        rest = few / lanes - step * self.steps * EPOCHS[0]
        return {"ms_per_client_step": 1000 * step, "ms_per_client_besides": 1000 * rest, "first_round_s": first}


def batchnorm(kind: str) -> dict[str, str] | None:
    """Argument of the executor for a kind of BatchNorm; None where this version cannot choose."""
    return {OPTION: kind} if OPTION in inspect.signature(Cohort).parameters else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, the most telling settings first."""
    made = parser("lanes", __doc__)
    made.add_argument("--batchnorm", choices=["native", "cudnn"], required=True)
    options = made.parse_args(arguments)
    record = Record.of(options)
    chosen = batchnorm(options.batchnorm)
    if chosen is None and options.batchnorm == "native":
        record.add("native BatchNorm", skipped="this version of the cuda executor has no option for it")
        return 0
    federation = QUICK if record.quick else FULL
    data, method = equal_clients(federation), build_method(federation)
    method.prepare(torch.Generator().manual_seed(0))
    accelerator = record.device.type
    for precision, benchmark in ARITHMETIC[:1] if record.quick else ARITHMETIC:
        about = {"batchnorm": options.batchnorm, "precision": precision, "benchmark": benchmark}
        settings = LocalSettings(7, accelerator=accelerator, precision=precision, device=record.device)
        session = Session(data, method, settings, {**(chosen or {}), "benchmark": benchmark})
        try:
            for lanes in (1, 2) if record.quick else LANES:
                if record.time_is_up:
                    return 0
                record.add(f"{lanes} lanes", **about, **session.per_step(lanes), graphs=session.captured)
        except FedlogeError as error:
            record.add("refused", **about, reason=str(error))
        finally:
            session.executor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
