"""The losses of every method on a CUDA device without values: whatever needs a value on the host fails."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from cohorts import CAPTURED, five_clients, prepared
from fedloge.methods import FedAvg, FedAvgFT, FedYoYo
from fedloge.methods.base import Client

DEVICE = torch.device("cuda", 0)


def losses(method, options=()):
    """The losses of every phase for a batch of four images, and their devices."""
    data = five_clients()
    made = prepared(method, data, **dict(options))
    made.client = Client(0, tuple(map(int, data.client_counts(0))), 1)
    found = {}
    with FakeTensorMode():
        for module in made.modules():
            for name, entry in module._parameters.items():
                module._parameters[name] = None if entry is None else nn.Parameter(fake(entry))
            for name, entry in module._buffers.items():
                module._buffers[name] = None if entry is None else fake(entry)
        made.anchor = {name: fake(entry) for name, entry in made.state_dict().items()}
        batch = torch.empty(4, 1, 6, 6, device=DEVICE), torch.empty(4, dtype=torch.int64, device=DEVICE)
        for phase in made.phases(1):
            made.begin_phase(phase)
            for name, loss in made.local_losses(batch).items():
                found[phase.name, name] = loss.device
    return found


def fake(tensor):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)


@pytest.mark.parametrize(("method", "options"), [*CAPTURED, (FedYoYo, {}), (FedAvgFT, {})])
def test_no_loss_needs_a_value_on_the_host(method, options):
    devices = losses(method, options)
    assert devices
    assert set(devices.values()) == {DEVICE}


class Reads(FedAvg):
    def local_losses(self, batch):
        own = super().local_losses(batch)
        return own if own["ce"].item() < 1 else {}


class Masks(FedAvg):
    def local_losses(self, batch):
        images, labels = batch
        return super().local_losses((images[labels < 2], labels[labels < 2]))


class Selects(FedAvg):
    def local_losses(self, batch):
        images, labels = batch
        return super().local_losses((images[labels.nonzero().squeeze(1)], labels))


class Mixes(FedAvg):
    def local_losses(self, batch):
        return {"ce": (super().local_losses(batch)["ce"] * torch.ones(1)).sum()}


@pytest.mark.parametrize(
    ("method", "error"),
    [
        (Reads, DataDependentOutputException),
        (Masks, DynamicOutputShapeException),
        (Selects, DynamicOutputShapeException),
        (Mixes, RuntimeError),
    ],
)
def test_a_loss_that_does(method, error):
    with pytest.raises(error):
        losses(method)
