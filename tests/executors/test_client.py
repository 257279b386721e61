"""The training of one client: failures, Lightning's hooks and the local step."""

import pytest
import torch

from broken import DivergesAtTwo, FailsAtTwo
from fedloge.executors import ClientFailure, ClientResult, LocalSettings, Processes, Serial
from fedloge.executors.client import all_finite, local_trainer, not_finite
from fedloge.federation.flat import FlatTensors
from fedloge.federation.state import ClientUpdate
from fedloge.methods import FedAvg, FedLoGe
from harness import build, one_round, rounds, same


@pytest.mark.parametrize("executor", [Serial, lambda: Processes(2)])
def test_a_client_that_fails_is_told_and_the_others_go_on(data, executor):
    outcomes = one_round(executor(), build(FailsAtTwo), data)
    failures = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
    assert [(failure.client, failure.reason) for failure in failures] == [(2, "ValueError: no loss today")]
    assert "in local_losses" in failures[0].details
    assert [outcome.update.client for outcome in outcomes if outcome not in failures] == [0, 1, 3, 4]


@pytest.mark.parametrize("executor", [Serial, lambda: Processes(2)])
def test_what_is_not_finite_is_a_failure(data, executor):
    outcomes = one_round(executor(), build(DivergesAtTwo), data)
    assert isinstance(outcomes[2], ClientFailure)
    assert outcomes[2].reason == "backbone.stages.0.weight in its update is not finite"
    assert sum(isinstance(outcome, ClientFailure) for outcome in outcomes) == 1


def test_trainers_look_for_plugins_once(monkeypatch):
    local_trainer(LocalSettings(0), 1)
    monkeypatch.setattr("importlib.metadata.Distribution.entry_points", property(lambda self: pytest.fail("read anew")))
    local_trainer(LocalSettings(0), 1)


class Hooked(FedAvg):
    """Overrides a hook around batches, so that Lightning serves it batch by batch."""

    def on_train_batch_start(self, batch, batch_idx):
        self.seen = (*getattr(self, "seen", ()), len(batch[1]))


def test_a_hook_around_batches_is_called_for_each_and_changes_no_bit(data):
    hooked = build(Hooked)
    expected, _ = rounds(Serial(), hooked, data, count=1)
    state, _ = rounds(Serial(), build(FedAvg), data, count=1)
    assert len(hooked.seen) > 2 * data.num_clients
    assert same(expected.shared.tensors, state.shared.tensors)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.0}, {"weight_decay": 0.1}])
def test_the_fused_update_gives_what_the_plain_one_gives(data, monkeypatch, options):
    expected, _ = rounds(Serial(), build(FedLoGe, **options), data)
    monkeypatch.setattr("fedloge.methods.base._can_be_fused", lambda parameter: False)
    state, _ = rounds(Serial(), build(FedLoGe, **options), data)
    assert same(expected.shared.tensors, state.shared.tensors)


def test_momentum_starts_at_zero_where_a_gradient_comes_late():
    method = build(FedAvg, lr=1.0, momentum=0.5)
    method.begin_phase(method.phases(1)[0])
    optimizer, (first, *others) = method.configure_optimizers(), method.parameters()
    before = [parameter.detach().clone() for parameter in (first, others[0])]
    assert optimizer.param_groups[0]["fused"]
    first.grad = torch.ones_like(first)
    optimizer.step()
    others[0].grad = torch.ones_like(others[0])
    optimizer.step()
    torch.testing.assert_close(first, before[0] - 2.5)
    torch.testing.assert_close(others[0], before[1] - 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 16, 36])
def test_every_place_is_checked_to_be_finite(value, place):
    tensors = {"count": torch.tensor(3), "none": torch.empty(0), "body": torch.randn(37), "head": torch.ones(2)}
    assert all_finite(tensors.values())
    assert not_finite(ClientResult(ClientUpdate(0, FlatTensors.of(tensors), 1, ()), tensors)) == ""
    tensors["body"][place] = value
    assert not all_finite(tensors.values())
    expected = "body in its update is not finite"
    for update in (tensors, FlatTensors.of(tensors)):
        assert not_finite(ClientResult(ClientUpdate(0, update, 1, ()), {})) == expected
