"""Estimated cost of a run, before it starts."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedloge.executors.base import ClientTask
from fedloge.executors.client import LocalTraining
from fedloge.federation.state import FederatedState, num_bytes
from fedloge.methods.base import Method, Phase

if TYPE_CHECKING:
    from fedloge.trainer import FederatedTrainer

TIMED_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a run.

    Args:
        parameters: Number of parameters of the module, personal ones included.
        bytes_round: Bytes that the clients of a round send and receive.
        seconds_round: Seconds of training in a round, without evaluation: the time of a step, times the number of
            steps, divided by the workers. None for a method that cannot be copied.
        memory_bytes: Bytes of states, gradients and momenta in all workers, and of the personal states.
    """

    parameters: int
    bytes_round: int
    seconds_round: float | None
    memory_bytes: int

    def line(self, rounds: int) -> str:
        """One line for the user."""
        training = "" if self.seconds_round is None else f"about {duration(self.seconds_round * rounds)} of training, "
        tensors = max(self.memory_bytes / 1e6, 1)
        exchanged = self.bytes_round / 1e6
        return f"{training}{exchanged:,.1f} MB exchanged a round, {tensors:,.0f} MB of tensors"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def preflight(trainer: FederatedTrainer, state: FederatedState) -> Cost:
    """Estimate the cost of a run from a few steps of one client, on a copy: the run itself does not change."""
    method, data = trainer.method, trainer.data
    phases = [phase for phase in method.phases(trainer.local_epochs) if phase.epochs]
    clients = max(1, round(trainer.participation * len(trainer.population)))
    batches = sum(-(-client.num_examples // data.batch_size) for client in trainer.population) * trainer.participation
    workers = min(trainer.executor.workers, clients)
    client = max(trainer.population, key=lambda other: other.num_examples)
    try:
        copies = [copy.deepcopy(method) for _ in phases]
    except Exception:  # it holds a lock, an open file or the like
        seconds = None
    else:
        pairs = zip(copies, phases, strict=True)
        epochs = sum(_step_seconds(trainer, other, state, client.id, phase) * phase.epochs for other, phase in pairs)
        seconds = epochs * batches / workers
    own, shared = num_bytes(state.clients[client.id]), num_bytes(state.shared.tensors)
    trained = num_bytes(dict(method.named_parameters()))
    return Cost(
        parameters=sum(parameter.numel() for parameter in method.parameters()),
        bytes_round=2 * shared * clients,
        seconds_round=seconds,
        memory_bytes=(workers + 1) * (3 * trained + shared) + own * len(state.clients),
    )


def _step_seconds(trainer: FederatedTrainer, method: Method, state: FederatedState, client: int, phase: Phase) -> float:
    """Seconds of the fastest of a few training steps, which change the method."""
    device, precision = trainer.strategy.root_device, trainer.strategy.precision_plugin
    method.to(device)
    training = LocalTraining(method, trainer.data, 0, ClientTask(client, 1, (phase,)), device)
    fastest = float("inf")
    with torch.random.fork_rng(), torch.enable_grad():
        method.begin(training.client, state.shared, state.clients[client])
        method.begin_phase(phase)
        method.on_fit_start()
        optimizer = method.configure_optimizers()
        for batch, _ in zip(training.loader(), range(TIMED_STEPS), strict=False):
            began = time.perf_counter()
            images, labels = (precision.convert_input(tensor.to(device)) for tensor in batch)
            with precision.train_step_context():
                method.local_step((images, labels), optimizer)
            if device.type == "cuda":
                torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - began)
    return fastest
