"""FedYoYo by the properties that define it (main_fedyoyo.py of the authors)."""

import math

import pytest
import torch
from torch.nn import functional

from fedloge.federation.state import ClientUpdate
from fedloge.methods import FedYoYo
from fedloge.methods.fedyoyo import distillation, effective_number, strong_view
from harness import initial, prepared, run_round


def test_without_distillation_and_prior_it_is_fedavg_on_two_views(data):
    """The mean over 2n images, not the sum of two means. Equal counts, so that the prior is uniform."""
    method = prepared(FedYoYo, data, lam=0.0)
    method.own_counts.fill_(5.0)
    images, labels = torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(3)
    losses = method.local_losses((images, labels))
    torch.manual_seed(3)
    logits = method.head(method.backbone(torch.cat([images, strong_view(images)])))
    torch.testing.assert_close(losses["ce"], functional.cross_entropy(logits, labels.repeat(2)))


@pytest.mark.parametrize(("mix", "expected"), [("round", (0.45, 0.5, 0.05)), ("batch", (0.405, 0.5, 0.095))])
def test_the_prior_is_mixed_once_or_in_every_batch(data, mix, expected):
    """Global (½, ½, 0), own (0, ½, ½), a tenth of it: (0.45, ½, 0.05); after a second batch 0.9 · 0.45 = 0.405."""
    method = prepared(FedYoYo, data, mix=mix, lam=0.0)
    method.prior.copy_(torch.tensor([0.5, 0.5, 0.0]))
    method.own_counts.copy_(torch.tensor([0.0, 5.0, 5.0]))
    method.before_training([])
    for _ in range(2):
        method.local_losses((torch.randn(2, 1, 4, 4), torch.tensor([1, 2])))
    torch.testing.assert_close(method.mixed_prior, torch.tensor(expected))


def test_only_right_teachers_teach():
    """Two examples, of which only the first has a right teacher: KL(p ‖ uniform) of p = softmax(ln 3, 0) = (¾, ¼).

    The mean is over the one that is right, and T² does not appear: at T = 2 with twice the logits it is the same.
    """
    teacher, labels = torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log(), torch.tensor([0, 1])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert distillation(teacher, torch.zeros(2, 2), labels, 1.0).item() == pytest.approx(expected)
    assert distillation(2 * teacher, torch.zeros(2, 2), labels, 2.0).item() == pytest.approx(expected)
    assert distillation(teacher, torch.zeros(2, 2), 1 - labels[:1].expand(2), 1.0).item() == 0


def test_effective_numbers_on_paper():
    """Class 0: (1, 0) and (0, 2) are perpendicular: aᵀRa = (1 + 1)/4 = ½, so two features. Class 1: (1, 0) and (3, 0)
    point alike: one. Class 2: a single feature counts as one. Class 3 does not occur.
    """
    centred = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [3.0, 0.0], [5.0, 5.0]])
    one_hot = functional.one_hot(torch.tensor([0, 0, 1, 1, 2]), 4).float()
    torch.testing.assert_close(effective_number(centred, one_hot), torch.tensor([2.0, 1.0, 1.0, 0.0]))


def test_the_prior_acts_in_its_own_round_undamped_in_the_first(data):
    """Round 1: 1 + Σ = (3, 1e6, 2), whose outlier becomes the mean of the others, 2.5. Round 2: a moving average."""
    method = prepared(FedYoYo, data)
    state = initial(method, 3)

    def answer(state, effective):
        update = ClientUpdate(0, {}, 1, (1, 0, 0), report={"effective": torch.tensor(effective)})
        return method.answer([update], state, torch.Generator())

    first = answer(state, [2.0, 1e6, 1.0])
    torch.testing.assert_close(first["prior"], torch.tensor([3.0, 2.5, 2.0]) / 7.5)
    later = answer(run_round(method, data, state)[0].with_shared(first), [12.0, 1.5, 1e6])
    expected = torch.tensor([0.9 * 3 + 0.1 * 13, 2.5, 2.0])  # the last would grow more than a hundredfold: it stays
    torch.testing.assert_close(later["effective"], expected)


def test_a_round_surveys_the_received_model_and_trains_with_its_answer(data):
    method = prepared(FedYoYo, data)
    state, _ = run_round(method, data, initial(method, 3))
    prior, counts = state.shared.fixed["prior"], torch.tensor(data.class_counts).float()
    assert prior.sum().item() == pytest.approx(1)
    assert not torch.equal(prior, torch.full((3,), 1 / 3))
    assert 0.5 * (prior - counts / counts.sum()).abs().sum() < 0.35
    assert "effective" not in method.broadcast(state.shared).fixed


def test_the_strong_view_changes_images_and_keeps_their_shape():
    images = torch.randn(3, 2, 8, 8)
    view = strong_view(images)
    assert view.shape == images.shape
    assert (view == 0).any()
    assert not torch.equal(view, images)
