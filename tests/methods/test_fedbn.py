"""FedBN by the properties that define it."""

import pytest
import torch
from torch import nn

from fedloge.errors import ConfigError
from fedloge.methods import FedAvg, FedBN
from fedloge.models import Backbone, CifarResNet
from harness import build, run_round, same, train


def test_fedbn_keeps_every_batchnorm_shortcuts_included(data):
    torch.manual_seed(0)
    method = FedBN(CifarResNet(8, width=2, in_channels=1), 3)
    state, results = train(method, data)
    personal, shared = set(state.clients[0]), set(results[0].update.tensors)
    assert "backbone.stage2.0.downsample.1.running_mean" in personal
    assert len(personal) == 9 * 5
    assert not personal & shared
    assert "head.weight" in shared
    assert not same(state.clients[0], state.clients[1], ["backbone.stage2.0.downsample.1.running_mean"])


class Plain(Backbone):
    in_channels, out_features = 1, 16

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, images):
        return self.layer(images.flatten(1)).relu()


def test_fedbn_without_batchnorm_is_fedavg_and_a_run_refuses_it(data):
    torch.manual_seed(0)
    first, second = FedBN(Plain(), 3), FedAvg(Plain(), 3)
    second.load_state_dict(first.state_dict())
    assert same(train(first, data)[0].shared.tensors, train(second, data)[0].shared.tensors)
    with pytest.raises(ConfigError, match="Plain' has no BatchNorm"):
        first.check()


def test_fedbn_leaves_a_client_that_is_not_sampled_alone(data):
    method = build(FedBN)
    state, _ = train(method, data)
    before = dict(state.clients[1])
    state, _ = run_round(method, data, state, cohort=[0, 2])
    assert same(before, state.clients[1])
