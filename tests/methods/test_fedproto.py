"""FedProto by the properties that define it."""

import pytest
import torch

from fedloge.federation.state import ClientUpdate
from fedloge.methods import FedProto, LocalOnly
from harness import build, initial, run_round, same


def test_prototypes_on_paper():
    """Client 0 has one example of class 0 at 4, client 1 three at 8: (4 + 24)/4 = 7. Class 1 stays unknown."""
    method = build(FedProto)
    state = initial(method, 2)
    sums = torch.zeros(2, 3, 6)
    sums[0, 0, 0], sums[1, 0, 0] = 4.0, 24.0
    updates = [ClientUpdate(k, {}, n, (n, 0, 0), report={"sums": sums[k]}) for k, n in enumerate((1, 3))]
    changed = method.aggregate(updates, state, torch.Generator())
    assert changed["prototypes"][0, 0] == 7
    assert changed["known"].tolist() == [1, 0, 0]


def test_only_known_classes_pull():
    """h = 0; the prototype of class 1 is 2 in all six features, that of class 0 unknown: λ · mean(4, 0) = 2."""
    method = build(FedProto, lam=1.0)
    method.prototypes[1] = 2.0
    method.known[1] = 1.0
    method.features = lambda images: torch.zeros(len(images), 6)
    assert method.local_losses((torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])))["prototypes"].item() == pytest.approx(2)


def test_models_stay_home_and_without_pull_it_is_local_training(data):
    ends = []
    for method in (build(FedProto, lam=0.0), build(LocalOnly)):
        state = initial(method, 3)
        for _ in range(2):
            state, results = run_round(method, data, state)
        assert all(result.update.tensors == {} for result in results)
        ends.append(state)
    assert all(same(one, other) for one, other in zip(ends[0].clients, ends[1].clients, strict=True))
    assert torch.equal(ends[0].shared.fixed["known"], torch.ones(3))


def test_the_nearest_known_prototype_decides():
    method = build(FedProto, inference="nearest")
    method.prototypes.copy_(torch.tensor([[0.0], [1.0], [9.0]]).expand(3, 6))
    method.known.copy_(torch.tensor([1.0, 0.0, 1.0]))
    assert method.logits(torch.full((1, 6), 1.0), "personal").argmax(1).item() == 0
