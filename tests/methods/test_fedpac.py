"""FedPAC by the properties that define it."""

import torch

from fedloge.methods import FedPAC
from fedloge.methods.fedpac import combination_weights, onto_simplex
from harness import build, initial, run_round


def test_weights_on_paper():
    """Equal means: a minimises Σ a_j² v_j, so a ∝ 1/v = (¾, ¼) for v = (1, 3). Distant means: each its own head."""
    same_means = torch.ones(2, 1, 1)
    torch.testing.assert_close(
        combination_weights(torch.tensor([1.0, 3.0]), same_means), torch.tensor([[0.75, 0.25]] * 2).double()
    )
    apart = torch.tensor([[[0.0]], [[1e3]]])
    torch.testing.assert_close(combination_weights(torch.ones(2), apart), torch.eye(2).double(), atol=1e-3, rtol=0)


def test_bias_and_variance_on_paper():
    """For client 0 with v = (1, 1) and means 0 and 1: a_0² + a_1² + a_1², so a_1 = ⅓ by 2(1 - a_1) = 4 a_1."""
    weights = combination_weights(torch.ones(2), torch.tensor([[[0.0]], [[1.0]]]))
    torch.testing.assert_close(weights, torch.tensor([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]).double())


def test_the_simplex():
    """(1, 0.5): minus ¼ each; (3, 0): the corner; (0.2, 0.8): lies on it."""
    points = torch.tensor([[1.0, 0.5], [3.0, 0.0], [0.2, 0.8]])
    torch.testing.assert_close(onto_simplex(points), torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.2, 0.8]]))


def test_every_client_receives_its_own_combination(data):
    method = build(FedPAC)
    state, results = run_round(method, data, initial(method, 3), cohort=[0, 2])
    heads = state.shared.fixed["heads"]
    assert torch.equal(heads[1, :, :-1], initial(build(FedPAC), 3).shared.tensors["head.weight"])
    trained = torch.stack([result.update.tensors["head.weight"] for result in results])
    means = torch.stack([result.update.report["means"] for result in results])
    weights = combination_weights(torch.stack([r.update.report["variance"] for r in results]), means).float()
    torch.testing.assert_close(heads[[0, 2], :, :-1], torch.einsum("ij,jcd->icd", weights, trained))
    assert torch.equal(method.downlink(state, 2)["head.weight"], heads[2, :, :-1])
    assert "heads" not in method.broadcast(state.shared).fixed


def test_reported_statistics_are_of_the_received_body(data):
    """p_c μ_c summed over classes is the mean feature; the variance is (E‖h‖² - Σ_c ‖p_c μ_c‖²) / n."""
    method = build(FedPAC)
    state = initial(method, 3)
    _, (result,) = run_round(method, data, state, cohort=[0])
    twin = build(FedPAC).eval()
    h = torch.cat([twin.backbone(images) for images, _ in data.client_batches(0)]).detach()
    report = result.update.report
    torch.testing.assert_close(report["means"].sum(0), h.mean(0), rtol=1e-4, atol=1e-5)
    expected = (h.square().sum(1).mean() - report["means"].square().sum()) / len(h)
    torch.testing.assert_close(report["variance"], expected, rtol=1e-4, atol=1e-6)
