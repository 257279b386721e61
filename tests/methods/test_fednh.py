"""FedNH by the properties that define it."""

from dataclasses import replace

import torch
from torch.nn import functional

from fedloge.federation.state import ClientUpdate
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
    expected = functional.normalize(0.9 * old + 0.1 * functional.normalize(sums))
    torch.testing.assert_close(new, expected)


def test_means_are_those_of_the_trained_model_in_eval_mode(data):
    method = prepared(FedNH, data)
    _, (result,) = run_round(method, data, initial(method, 3), cohort=[1])
    images, labels = (torch.cat(part) for part in zip(*data.client_batches(1), strict=True))
    method.eval()
    unit = functional.normalize(method.backbone(images)).detach()
    for c in labels.unique():
        mean = functional.normalize(unit[labels == c].mean(0), dim=0)
        torch.testing.assert_close(result.update.report["means"][c], mean)


def test_a_class_that_no_client_has_keeps_its_prototype(data):
    method = prepared(FedNH, data)
    state = initial(method, 3)
    _, results = run_round(method, data, state)
    results[0].update.report["means"].fill_(0.5)
    update = replace(results[0].update, class_counts=(3, 0, 1))
    changed = method.aggregate([update], state, torch.Generator())
    assert torch.equal(changed["prototypes.weight"][1], state.shared.fixed["prototypes.weight"][1])
    assert not torch.equal(changed["prototypes.weight"][0], state.shared.fixed["prototypes.weight"][0])


def test_prototypes_on_paper(data):
    """Two clients with one image of class 0 each, means (1, 0) and (0, 1), and W_0 = (1, 0), ρ = 0.5.

    The average is renormalised (strategies/FedNH.py of the authors): norm(½ (1, 0) + ½ (1, 1)/√2) = (0.9239, 0.3827),
    where the plain average (½, ½) would give (0.9487, 0.3162).
    """
    method = prepared(FedNH, data, rho=0.5)
    state = initial(method, 3)
    state.shared.fixed["prototypes.weight"][0] = torch.eye(6)[0]
    means = [torch.zeros(3, 6).index_fill_(0, torch.tensor([0]), 0.0) for _ in range(2)]
    for axis in range(2):
        means[axis][0, axis] = 1.0
    updates = [ClientUpdate(k, {"w": torch.ones(1)}, 1, (1, 0, 0), report={"means": means[k]}) for k in range(2)]
    changed = method.aggregate(updates, state, torch.Generator())["prototypes.weight"]
    torch.testing.assert_close(changed[0, :2], torch.tensor([0.92388, 0.38268]))


def test_the_gradient_of_a_step_has_at_most_norm_ten(data):
    method = prepared(FedNH, data, scale=1e4)
    images, labels = next(iter(data.client_batches(0)))
    method.begin_phase(method.phases(1)[0])
    method.local_gradients((images, labels), method.configure_optimizers())
    gradients = [parameter.grad.flatten() for parameter in method.parameters() if parameter.grad is not None]
    torch.testing.assert_close(torch.cat(gradients).norm(), torch.tensor(10.0), rtol=1e-4, atol=0)


def test_an_orthogonal_start(data):
    weight = prepared(FedNH, data, start="orthogonal").prototypes.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(3), atol=1e-5, rtol=0)
