import pytest
import torch
from torch.nn import functional

from fedloge.losses import balanced_softmax, dot_regression, head_gradients, proximal, update_ratios


def test_proximal_on_paper():
    """½ ((3-1)² + (0-4)²) = 10, with gradient w - w^t = (2, -4)."""
    w = torch.tensor([3.0, 0.0], requires_grad=True)
    loss = proximal([("w", w)], {"w": torch.tensor([1.0, 4.0])})
    loss.backward()
    assert loss.item() == 10
    assert w.grad.tolist() == [2, -4]


def test_the_gradient_at_the_anchor_is_zero_not_undefined():
    w = torch.ones(3, requires_grad=True)
    proximal([("w", w)], {"w": torch.ones(3)}).backward()
    assert w.grad.tolist() == [0, 0, 0]


LOGITS, LABELS = torch.randn(8, 3), torch.tensor([0, 1, 0, 1, 0, 0, 1, 1])


def test_equal_counts_give_the_cross_entropy():
    balanced = balanced_softmax(LOGITS, LABELS, [7, 7, 7])
    assert balanced.item() == pytest.approx(functional.cross_entropy(LOGITS, LABELS).item(), abs=1e-6)


def test_an_absent_class_gets_no_gradient_unless_floored():
    for floor, moved in ((0, False), (1, True)):
        logits = LOGITS.clone().requires_grad_()
        loss = balanced_softmax(logits, LABELS, [9, 3, 0], floor=floor)
        loss.backward()
        assert torch.isfinite(loss)
        assert bool(logits.grad[:, 2].any()) == moved


def test_dot_regression_on_paper():
    """h = (3, 4), w_y = (2, 0): cos = 0.6, so ½ (0.6 - 1)² = 0.08; along w_y it is 0."""
    weight = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert dot_regression(torch.tensor([[3.0, 4.0]]), weight, torch.tensor([0])).item() == pytest.approx(0.08)
    assert dot_regression(torch.tensor([[5.0, 0.0]]), weight, torch.tensor([0])).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_dot_regression_turns_features_and_leaves_their_length(gamma):
    """∂L/∂h = (cos - 1) (w/‖w‖ - cos · h/‖h‖) / ‖h‖ = -0.4 · ((1, 0) - 0.6 · (0.6, 0.8)) / 5, whatever γ = ‖w‖ is."""
    h = torch.tensor([[3.0, 4.0]], requires_grad=True)
    dot_regression(h, torch.tensor([[gamma, 0.0]]), torch.tensor([0])).backward()
    torch.testing.assert_close(h.grad, torch.tensor([[-0.0512, 0.0384]]))
    assert (h.grad * h).sum().item() == pytest.approx(0, abs=1e-7)


def test_ratios_do_not_depend_on_the_size_of_the_steps():
    steps = torch.randn(4, 4, 6)
    torch.testing.assert_close(update_ratios(steps), update_ratios(steps / 1024))


def test_ratios_on_paper():
    """C = 3, d = 2; only the first row of the head moves (the rule goes entry by entry).

    Column 0: steps 4, 1, -2: the largest is class 0's, and no other is above 0.8 · 4 in size, so it is class 0's alone:
    R_0 = 4 / |mean(1, -2)| = 8. Column 1: steps 0, 5, -4.5: 4.5 > 0.8 · 5, so it belongs to nobody: R_1 = 10 (0/0).
    """
    steps = torch.zeros(3, 3, 2)
    steps[:, 0] = torch.tensor([[4.0, 0.0], [1.0, 5.0], [-2.0, -4.5]])
    assert update_ratios(steps).tolist() == [8, 10, 10]
    assert update_ratios(torch.tensor([[[4.0]], [[1e-9]], [[0.0]]])).tolist() == [5000, 10, 10]


def test_class_gradients_are_autograds():
    head, h, labels = torch.nn.Linear(5, 3), torch.randn(20, 5), torch.randint(0, 2, (20,))
    weight, bias = head_gradients(head(h), h, labels)
    for c in range(2):
        loss = functional.cross_entropy(head(h[labels == c]), labels[labels == c])
        expected = torch.autograd.grad(loss, [head.weight, head.bias])
        torch.testing.assert_close(weight[c], expected[0])
        torch.testing.assert_close(bias[c], expected[1])
    assert not weight[2].any()
