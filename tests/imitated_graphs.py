"""CUDA graphs on the CPU, made by recording."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fedloge.executors import Cohort


class Graph:
    """Does again what was recorded, on the same tensors, and nothing of what Python did: as a CUDA graph does."""

    def __init__(self):
        self.calls = []

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, made in self.calls:
                result = function(*args, **kwargs)
                for old, new in zip(tensors_in(made), tensors_in(result), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Record(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.graph.calls.append((function, args, kwargs or {}, result))
        return result


def tensors_in(result):
    parts = result if isinstance(result, (tuple, list)) else [result]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def imitate(monkeypatch, **parts):
    """Give the CPU parts of torch.cuda."""
    for name, part in parts.items():
        monkeypatch.setattr(torch.cpu, name, part, raising=False)


class OnCPU(Cohort):
    def start(self, method, data, settings):
        self.graphs = False
        super().start(method, data, settings)
        self.graphs = True
