"""FedYoYo by the properties that define it."""

import torch
from torch.nn import functional

from fedloge.methods import FedYoYo
from fedloge.methods.fedyoyo import distillation, strong_view
from harness import initial, prepared, run_round


def test_without_distillation_and_prior_it_is_fedavg_on_two_views(data):
    """Equal counts at the only client, so that its prior is uniform."""
    method = prepared(FedYoYo, data, lam=0.0)
    images, labels = torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    method.client = type("Client", (), {"class_counts": (5, 5, 5), "num_examples": 15, "round": 1})()
    torch.manual_seed(3)
    losses = method.local_losses((images, labels))
    torch.manual_seed(3)
    both = torch.cat([images, strong_view(images)])
    logits = method.head(method.backbone(both))
    expected = 2 * functional.cross_entropy(logits, labels.repeat(2))
    torch.testing.assert_close(losses["weak"] + losses["strong"], expected)


def test_the_prior_mixes_global_and_local(data):
    method = prepared(FedYoYo, data)
    method.prior.copy_(torch.tensor([0.5, 0.5, 0.0]))
    method.client = type("Client", (), {"class_counts": (0, 5, 5), "num_examples": 10, "round": 1})()
    torch.testing.assert_close(method.mixed_prior(), torch.tensor([0.45, 0.5, 0.05]))


def test_only_right_teachers_teach():
    """Two examples, T = 1: the second teacher is wrong. KL(p ‖ uniform) of p = softmax(ln 3, 0) = (¾, ¼), over 2."""
    teacher = torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log()
    expected = (0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()) / 2
    torch.testing.assert_close(distillation(teacher, torch.zeros(2, 2), torch.tensor([0, 1]), 1.0), expected)


def test_the_global_prior_follows_the_scatter(data):
    method = prepared(FedYoYo, data)
    state, results = run_round(method, data, initial(method, 3))
    scatter = sum(result.update.report["scatter"] for result in results)
    torch.testing.assert_close(state.shared.fixed["prior"], 0.9 / 3 + 0.1 * scatter / scatter.sum())
    images, labels = (torch.cat(part) for part in zip(*data.client_batches(2), strict=True))
    method.eval()
    method.load_state_dict({**method.state_dict(), **results[2].update.tensors})
    h = method.backbone(images).detach()
    for c in labels.unique():
        expected = (h[labels == c] - h[labels == c].mean(0)).square().sum()
        torch.testing.assert_close(results[2].update.report["scatter"][c], expected, rtol=1e-3, atol=1e-4)


def test_the_strong_view_changes_images_and_keeps_their_shape():
    images = torch.randn(3, 2, 8, 8)
    view = strong_view(images)
    assert view.shape == images.shape
    assert (view == 0).any()
    assert not torch.equal(view, images)
