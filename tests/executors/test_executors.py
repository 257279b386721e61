"""The choice of an executor; all of them give the same, to the bit."""

import sys

import pytest
import torch

from broken import Locked
from fedloge.data import Arrays
from fedloge.executors import LocalSettings, Processes, Serial, make_executor
from fedloge.executors.cuda.executor import Cohort
from fedloge.methods import FedAvg, FedLoGe, FedProx
from fedloge.models import CifarResNet
from harness import build, rounds, same

CPU = LocalSettings(0)


@pytest.mark.parametrize("method", [FedProx, FedLoGe])
def test_all_give_the_same_on_images_in_colour(make_data, method):
    """There, unlike with one channel, the layout of the images in memory is not that of the weights."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.arange(3).repeat(20)
    data = make_data(Arrays(images, labels, images[:9], labels[:9]), num_clients=3, augment="crop_flip")
    data.setup()

    def trained(executor):
        torch.manual_seed(0)
        return rounds(executor, method(CifarResNet(8, width=8), 3), data)

    expected, serial = trained(Serial())
    for executor in (Processes(2), Cohort(graphs=False)):
        state, results = trained(executor)
        assert same(expected.shared.tensors, state.shared.tensors)
        assert all(same(one.personal, other.personal) for one, other in zip(serial, results, strict=True))


def test_auto_takes_serial_where_no_worker_can_start(data, monkeypatch, disk):
    monkeypatch.setattr("fedloge.executors.num_cores", lambda: 4)
    assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU, data), Processes)
    with pytest.warns(UserWarning, match="one at a time: .*cannot pickle"):
        assert isinstance(make_executor("auto", 1e12, build(Locked), CPU, data), Serial)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["__main__"], "__spec__", None)
        patch.setattr(sys.modules["__main__"], "__file__", "<stdin>", raising=False)
        with pytest.warns(UserWarning, match="one at a time: .*<stdin>"):
            assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU, data), Serial)
    disk(2**20)
    with pytest.warns(UserWarning, match="one at a time: .* in /dev/shm"):
        assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU, data), Serial)


def test_auto_starts_workers_where_that_pays(monkeypatch):
    monkeypatch.setattr("fedloge.executors.num_cores", lambda: 4)
    assert isinstance(make_executor("auto", 1e6, build(FedAvg), CPU), Serial)
    assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU), Processes)
    monkeypatch.setattr("fedloge.executors.num_cores", lambda: 1)
    assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU), Serial)
    ready = Serial()
    assert make_executor(ready, 0, build(FedAvg), CPU) is ready
