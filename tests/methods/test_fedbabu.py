"""FedBABU by the properties that define it."""

import pytest
import torch

from fedloge.errors import ConfigError
from fedloge.evaluation import Evaluator
from fedloge.methods import FedAvg, FedBABU, Phase
from harness import build, finalize, initial, population, same, train


def test_without_epochs_the_personal_model_is_the_generic_one(data):
    method = build(FedBABU, finetune_epochs=0)
    state, _ = train(method, data)
    assert finalize(method, data, state) is state
    evaluation = Evaluator(method, data, population(data)).evaluate(state)
    expected = Evaluator(build(FedAvg), data, population(data))
    expected.method.load_state_dict({k: v for k, v in method.state_dict().items() if k in expected.method.state_dict()})
    again = expected.evaluate(expected.method.initial_state(3, lambda client: torch.Generator()))
    assert [score.accuracy for score in evaluation.clients] == [score.accuracy for score in again.clients]


def test_fedbabus_head_never_moves(data):
    method = build(FedBABU)
    start = initial(method, 3)
    state, results = train(method, data)
    assert same(start.shared.fixed, state.shared.fixed)
    assert torch.equal(method.head.weight, start.shared.fixed["head.weight"])
    assert not any(name.startswith("head") for result in results for name in result.update.tensors)
    assert not same(start.shared.tensors, state.shared.tensors, ["backbone.stages.0.weight"])


def test_fedbabu_starts_where_fedavg_starts():
    assert torch.equal(build(FedBABU).head.weight, build(FedAvg).head.weight)


@pytest.mark.parametrize("option", ["finetune_epochs", "finetune_lr"])
def test_negative_values_name_the_option(option):
    with pytest.raises(ConfigError, match=rf"model\.{option}=-1"):
        build(FedBABU, **{option: -1})


@pytest.mark.parametrize(("lr", "given", "expected"), [(0.5, None, 0.05), (0.5, 0.2, 0.2)])
def test_the_rate_of_fine_tuning_is_a_tenth_of_the_trainings(lr, given, expected):
    method = build(FedBABU, lr=lr, finetune_lr=given)
    method.begin_phase(Phase("finetune", 1, ("backbone", "head")))
    assert {group["lr"] for group in method.configure_optimizers().param_groups} == {expected}
