"""Flower's simulation engine: its FedAvg strategy, and clients that train nothing on Ray actors of one core each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from benchmarks.clock import Clock
from benchmarks.contenders.exchanging import drift
from benchmarks.problem import Arrays, Problem


def run(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """Rounds of all clients, none of which trains; the moment of the average ends a round."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
    folder, clients, cores = str(problem.folder), problem.federation.num_clients, int(os.environ["BENCHMARK_CORES"])
    server, final = ServerApp(), {}

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        strategy = Ticking(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients
        )
        strategy.clock = clock
        arrays = ArrayRecord(problem.network().state_dict())
        result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=repetitions)
        final.update(result.arrays.to_torch_state_dict())

    run_simulation(
        server,
        client_app(folder),
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": cores}},
    )
    return {name: tensor.numpy() for name, tensor in final.items() if tensor.dtype == torch.float32}


class Ticking(FedAvg):  # type: ignore[misc]
    """Ticks the clock when the clients of a round are averaged."""

    clock: Clock

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """FedAvg's average."""
        average = super().aggregate_train(server_round, replies)
        self.clock.tick()
        return average


def client_app(folder: str) -> ClientApp:
    """A client that loads what it receives, moves it a little and sends it back."""
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        network, sizes = inputs(folder)
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        drift(network, client)
        content = {
            "arrays": ArrayRecord(network.state_dict()),
            "metrics": MetricRecord({"num-examples": sizes[client]}),
        }
        return Message(content=RecordDict(content), reply_to=message)

    return app


@cache
def inputs(folder: str) -> tuple[nn.Module, list[int]]:
    """The network and n_k, read once by every actor."""
    torch.set_num_threads(1)
    problem = Problem(folder)
    return problem.network(), problem.sizes
