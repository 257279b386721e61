"""What a run will cost, told before it starts."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fedloge.federation.state import FederatedState, num_bytes
from fedloge.methods.base import Client, Method, Phase

if TYPE_CHECKING:
    from fedloge.trainer import FederatedTrainer

TIMED_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """An estimate.

    Args:
        parameters: Of the module, the client's own included.
        bytes_round: What the clients of a round send and receive.
        seconds_round: Training of a round, without evaluation: a timed step times their number, by workers. None for
            a method that cannot be copied.
        memory_bytes: Tensors of states, gradients and momenta in all workers, and the clients' own states.
    """

    parameters: int
    bytes_round: int
    seconds_round: float | None
    memory_bytes: int

    def line(self, rounds: int) -> str:
        """For the user."""
        training = "" if self.seconds_round is None else f"about {_time(self.seconds_round * rounds)} of training, "
        tensors = max(self.memory_bytes / 1e6, 1)
        exchanged = self.bytes_round / 1e6
        return f"{training}{exchanged:,.1f} MB exchanged a round, {tensors:,.0f} MB of tensors"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def preflight(trainer: FederatedTrainer, state: FederatedState) -> Cost:
    """Estimate a run from a few steps of one client, on a copy: nothing of the run changes."""
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
        epochs = sum(_step_seconds(trainer, other, state, client, phase) * phase.epochs for other, phase in pairs)
        seconds = epochs * batches / workers
    own, shared = num_bytes(state.clients[client.id]), num_bytes(state.shared.tensors)
    trained = num_bytes(dict(method.named_parameters()))
    return Cost(
        parameters=sum(parameter.numel() for parameter in method.parameters()),
        bytes_round=2 * shared * clients,
        seconds_round=seconds,
        memory_bytes=(workers + 1) * (3 * trained + shared) + own * len(state.clients),
    )


def _step_seconds(
    trainer: FederatedTrainer, method: Method, state: FederatedState, client: Client, phase: Phase
) -> float:
    """The fastest of a few training steps of a method, which they change."""
    method.to(trainer.strategy.root_device)
    precision = trainer.strategy.precision_plugin
    fastest = float("inf")
    with torch.random.fork_rng(), torch.enable_grad():
        method.begin(Client(client.id, client.class_counts, 1), state.shared, state.clients[client.id])
        method.begin_phase(phase)
        method.on_fit_start()
        optimizer = method.configure_optimizers()
        loader = iter(trainer.data.client_loader(client.id, seed=0, round=0))
        for batch, _ in zip(loader, range(TIMED_STEPS), strict=False):
            began = time.perf_counter()
            images, labels = (precision.convert_input(tensor.to(method.device)) for tensor in batch)
            optimizer.zero_grad()
            with precision.forward_context():
                losses = method.local_losses((images, labels))
            torch.autograd.backward(torch.stack(tuple(losses.values())).sum())
            optimizer.step()
            if method.device.type == "cuda":
                torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - began)
    return fastest
