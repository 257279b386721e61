"""Flower: records of arrays as its messages carry them, averaged as its FedAvg strategy does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from benchmarks.clock import Clock
from benchmarks.contenders.exchanging import drift
from benchmarks.problem import Arrays, Problem


def run(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """Server and clients in one process: nothing is sent over a network, but all is serialised as for one."""
    client_side = problem.network()
    server = ArrayRecord(client_side.state_dict())
    for _ in range(repetitions):
        replies = []
        for client, size in enumerate(problem.sizes):
            client_side.load_state_dict(server.to_torch_state_dict())
            with clock.paused():
                drift(client_side, client)
            arrays, metrics = ArrayRecord(client_side.state_dict()), MetricRecord({"num-examples": size})
            replies.append(RecordDict({"arrays": arrays, "metrics": metrics}))
        mean = aggregate_arrayrecords(replies, "num-examples")
        clock.tick()
    state = mean.to_torch_state_dict()
    return {name: tensor.numpy() for name, tensor in state.items() if tensor.dtype == torch.float32}
