"""Slabs, and the room for workers."""

import pytest
import torch

from fedloge.errors import ConfigError
from fedloge.executors import LocalSettings, Processes
from fedloge.executors.shared_memory import Slab
from fedloge.methods import FedAvg
from harness import build


def test_workers_need_shared_memory(data, disk):
    method, executor = build(FedAvg), Processes(2)
    disk(2 * 2**20)
    with pytest.warns(UserWarning, match=r"/dev/shm has room for 1 of 2 workers\. .* docker run --shm-size"):
        executor.start(method, data, LocalSettings(0))
    assert executor.workers == 1
    disk(2**20)
    with pytest.raises(ConfigError, match="needs 1 MB in /dev/shm for a worker, which has 1"):
        Processes(2).start(method, data, LocalSettings(0))


def test_a_slab_gives_back_what_was_packed():
    tensors = {
        "a": torch.randn(3, 5),
        "flag": torch.tensor(True),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "half": torch.randn(3).half(),
    }
    slab = Slab(sum(t.numel() * t.element_size() + 16 for t in tensors.values()))
    unpacked = slab.unpack(slab.pack(tensors))
    assert unpacked.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(unpacked[name], tensor)
        assert unpacked[name].dtype == tensor.dtype
    with pytest.raises(ValueError, match="do not fit"):
        slab.pack({"big": torch.zeros(1000)})
