"""fedloge's test data and metrics, but a pass over the images for every model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import numpy as np
import torch

from benchmarks.clock import Clock
from benchmarks.contenders.fedloge import build, make_trainer, started
from benchmarks.problem import Arrays, Problem
from fedloge.evaluation.metrics import confusion
from fedloge.federation.state import FederatedState, Tensors
from fedloge.methods.base import Method, View


def run(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """Test the generic model on all test images, then each personal model on its client's own."""
    method, data = build(problem)
    with tempfile.TemporaryDirectory() as folder:
        state = started(problem, make_trainer(problem, folder), method, data)
    method.to(problem.device).eval()

    def score(state: FederatedState, personal: Tensors, view: View, indices: torch.Tensor | None) -> torch.Tensor:
        method_: Method = method
        method_.load(state.shared, personal)
        total = torch.zeros(problem.federation.num_classes, problem.federation.num_classes, dtype=torch.int64)
        for images, labels in data.test_batches(indices, problem.device):
            answers = method_.logits(method_.features(images, view), view).argmax(1)
            total += confusion(answers, labels, problem.federation.num_classes).cpu()
        return total

    with torch.no_grad():
        for _ in range(repetitions):
            generic = score(state, {}, "global", None)
            own = [data.client_test_indices(client) for client in range(len(state.clients))]
            matrices = [score(state, state.clients[k], "personal", mine) for k, mine in enumerate(own) if len(mine)]
            clock.tick()
    correct = [float(matrix.diagonal().sum()) for matrix in matrices]
    return {"confusion": generic.numpy().astype(float), "correct": np.array(correct)}
