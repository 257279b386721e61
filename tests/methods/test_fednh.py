"""FedNH by the properties that define it."""

from dataclasses import replace

import torch
from torch.nn import functional

from fedloge.methods import FedNH
from harness import initial, prepared, run_round


def test_only_the_server_moves_the_prototypes(data):
    method = prepared(FedNH, data)
    start = initial(method, 3)
    old = start.shared.fixed["prototypes.weight"].clone()
    state, results = run_round(method, data, start)
    new = state.shared.fixed["prototypes.weight"]
    assert not any("prototypes" in name for result in results for name in result.update.tensors)
    assert all(torch.equal(state.clients[k]["prototypes.weight"], old) for k in range(3))
    torch.testing.assert_close(new.norm(dim=1), torch.ones(3))
    sums = sum(torch.tensor(r.update.class_counts)[:, None] * r.update.report["means"] for r in results)
    expected = functional.normalize(0.9 * old + 0.1 * sums / torch.tensor(data.class_counts)[:, None])
    torch.testing.assert_close(new, expected)


def test_means_are_those_of_the_trained_model_in_eval_mode(data):
    method = prepared(FedNH, data)
    _, (result,) = run_round(method, data, initial(method, 3), cohort=[1])
    images, labels = (torch.cat(part) for part in zip(*data.client_batches(1), strict=True))
    method.eval()
    unit = functional.normalize(method.backbone(images)).detach()
    for c in labels.unique():
        torch.testing.assert_close(result.update.report["means"][c], unit[labels == c].mean(0))


def test_a_class_that_no_client_has_keeps_its_prototype(data):
    method = prepared(FedNH, data)
    state = initial(method, 3)
    _, results = run_round(method, data, state)
    results[0].update.report["means"].fill_(0.5)
    update = replace(results[0].update, class_counts=(3, 0, 1))
    changed = method.aggregate([update], state, torch.Generator())
    assert torch.equal(changed["prototypes.weight"][1], state.shared.fixed["prototypes.weight"][1])
    assert not torch.equal(changed["prototypes.weight"][0], state.shared.fixed["prototypes.weight"][0])
