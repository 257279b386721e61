import pytest
import torch
from torch.nn import functional

from fedloge.realign import ga_fr, la_fr, la_fr_by_distribution

PSI, BIAS, PHI = torch.randn(5, 8), torch.randn(5), torch.randn(5, 8)


def test_ga_fr_gives_equal_norms_and_is_idempotent():
    weight, bias = ga_fr(PSI, BIAS, scale=1.7)
    torch.testing.assert_close(weight.norm(dim=1), torch.full((5,), 1.7))
    torch.testing.assert_close(ga_fr(weight, bias, scale=1.7)[0], weight)
    assert torch.equal(bias, BIAS)


def test_without_bias_predictions_do_not_depend_on_the_scale():
    features = torch.randn(50, 8)
    predictions = [
        functional.linear(features, *ga_fr(PSI, BIAS, scale=scale, keep_bias=False)).argmax(1) for scale in (0.01, 99.0)
    ]
    assert torch.equal(*predictions)


@pytest.mark.parametrize("keep_bias", [True, False])
def test_a_head_without_bias(keep_bias):
    weight, bias = ga_fr(PSI, None, scale=2.0, keep_bias=keep_bias)
    torch.testing.assert_close(weight.norm(dim=1), torch.full((5,), 2.0))
    assert bias is None


def test_a_zero_row_stays_zero():
    weight, _ = ga_fr(torch.zeros(2, 3), torch.zeros(2))
    assert torch.equal(weight, torch.zeros(2, 3))


def test_la_fr_has_the_directions_of_psi_and_the_norms_of_both():
    aligned = la_fr(PSI, PHI)
    torch.testing.assert_close(functional.cosine_similarity(aligned, PSI), torch.ones(5))
    torch.testing.assert_close(aligned.norm(dim=1), PSI.norm(dim=1) * PHI.norm(dim=1))
    torch.testing.assert_close(la_fr(functional.normalize(PSI), PHI).norm(dim=1), PHI.norm(dim=1))


def test_equal_norms_of_phi_leave_the_predictions_of_psi():
    features = torch.randn(50, 8)
    aligned = la_fr(PSI, functional.normalize(PHI) * 3)
    assert torch.equal((features @ aligned.T).argmax(1), (features @ PSI.T).argmax(1))


def test_la_fr_by_distribution_on_paper():
    aligned = la_fr_by_distribution(torch.ones(2, 3), torch.tensor([3, 1]))
    assert aligned[:, 0].tolist() == pytest.approx([0.75, 0.25])


def test_a_client_without_data_gets_a_zero_head():
    assert torch.equal(la_fr_by_distribution(torch.ones(2, 3), torch.zeros(2, dtype=torch.long)), torch.zeros(2, 3))
