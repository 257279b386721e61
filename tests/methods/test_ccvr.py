"""CCVR by the properties that define it."""

import torch

from fedloge.methods import CCVR, FedAvg
from fedloge.methods.ccvr import draw
from harness import build, finalize, initial, same, train


def test_the_training_is_fedavgs(data):
    assert same(*(train(build(method), data)[0].shared.tensors for method in (FedAvg, CCVR)))


def test_the_server_has_the_statistics_of_all_features(data):
    """As if the features of all clients lay in one place."""
    method = build(CCVR)
    state, asked = initial(method, 3), []
    method._trained = lambda state, features, labels, generator: asked.append((features, labels)) or {}
    merged, merge = [], method._merged
    method._merged = lambda surveys: merged.append(merge(surveys)) or merged[0]
    finalize(method, data, state)
    twin = build(CCVR).eval()
    pairs = [(twin.backbone(i).detach().double(), y) for k in range(3) for i, y in data.client_batches(k)]
    h, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
    counts, sums, products = merged[0]
    assert counts.tolist() == list(data.class_counts)
    for c in range(3):
        torch.testing.assert_close(sums[c], h[labels == c].sum(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(products[c], h[labels == c].T @ h[labels == c], rtol=1e-4, atol=1e-3)
    assert len(asked[0][0]) == 3 * 500


def test_drawn_features_have_mean_and_covariance():
    """Features (0, 0), (2, 0), (4, 0): mean (2, 0), covariance 4 in the first direction, none in the other."""
    h = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]).double()
    drawn = draw(torch.tensor(3.0).double(), h.sum(0), h.T @ h, 20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([2.0, 0.0]).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), torch.tensor([[4.0, 0.0], [0.0, 0.0]]).double(), atol=0.15, rtol=0)


def test_only_the_head_changes(data):
    method = build(CCVR, calibration_epochs=1, per_class=20)
    state, _ = train(method, data, rounds=1)
    final = finalize(method, data, state)
    body = [name for name in state.shared.tensors if name.startswith("backbone")]
    assert same(state.shared.tensors, final.shared.tensors, body)
    assert not same(state.shared.tensors, final.shared.tensors, ["head.weight"])
