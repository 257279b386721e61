"""FedAvg with fine-tuning by the properties that define it."""

import pytest
import torch

from fedloge.evaluation import Evaluator
from fedloge.methods import FedAvg, FedAvgFT
from harness import build, finalize, population, same, train


def test_fine_tuning_does_not_change_the_course_of_fedavg(data):
    assert same(train(build(FedAvg), data)[0].shared.tensors, train(build(FedAvgFT), data)[0].shared.tensors)


@pytest.mark.parametrize("part", ["head", "full"])
def test_every_client_gets_a_copy_of_which_the_asked_part_moves(data, part):
    method = build(FedAvgFT, finetune_part=part)
    state, _ = train(method, data)
    assert state.clients[0] == {}
    generic = {name: tensor.clone() for name, tensor in state.shared.tensors.items()}
    final = finalize(method, data, state)
    assert same(generic, state.shared.tensors)
    assert same(generic, final.shared.tensors)
    for own in final.clients:
        assert not torch.equal(own["head.weight"], generic["head.weight"])
        assert ("backbone.stages.0.weight" in own) == (part == "full")
        assert part == "head" or not torch.equal(own["backbone.stages.0.weight"], generic["backbone.stages.0.weight"])


def test_evaluation_uses_the_tuned_models_and_leaves_them_alone(data):
    method = build(FedAvgFT, finetune_part="full", finetune_epochs=20)
    state, _ = train(method, data, rounds=1)
    final = finalize(method, data, state)
    before = [{name: tensor.clone() for name, tensor in own.items()} for own in final.clients]
    evaluator = Evaluator(method, data, population(data))
    first, second = evaluator.evaluate(state), evaluator.evaluate(final)
    assert torch.equal(first.global_confusion, second.global_confusion)
    assert second.personal()["acc_mean"] > first.personal()["acc_mean"]
    assert all(same(old, new) for old, new in zip(before, final.clients, strict=True))
