"""CReFF by the properties that define it."""

import torch
from torch.nn import functional

from fedloge.losses import head_gradients
from fedloge.methods import CReFF
from fedloge.methods.creff import match_features
from harness import initial, prepared, run_round, train


def test_reported_gradients_are_of_the_model_as_received(data):
    method = prepared(CReFF, data)
    state = initial(method, 3)
    _, (result,) = run_round(method, data, state, cohort=[0])
    twin = prepared(CReFF, data)
    twin.load(state.shared, {})
    twin.eval()
    images, labels = (torch.cat(part) for part in zip(*data.client_batches(0), strict=True))
    h = twin.backbone(images).detach()
    expected, bias = head_gradients(twin.retrained(h), h, labels)
    classes = result.update.report["classes"]
    assert classes.tolist() == labels.unique().tolist()
    torch.testing.assert_close(result.update.report["gradients"], expected[classes])
    torch.testing.assert_close(result.update.report["bias_gradients"], bias[classes])


def test_matching_turns_the_gradients_towards_the_real_ones():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(3, 5, generator=generator), torch.zeros(3)
    target, start = torch.randn(2, 3, 8, 5, generator=generator)
    known = torch.tensor([True, False, True])
    own = torch.eye(3).unsqueeze(1)

    def gradients(features):
        errors = functional.linear(features, weight, bias).softmax(2) - own
        return errors.transpose(1, 2) @ features / 8, errors.mean(1)

    real = gradients(target + 2)
    moved = match_features(start, weight, bias, real, known, steps=200, lr=0.5)
    for part in range(2):  # of the weight, and of the bias
        before, after = (
            functional.cosine_similarity(gradients(f)[part], real[part], dim=-1)[known].mean() for f in (start, moved)
        )
        assert after > max(0.95, before)
    assert torch.equal(moved[1], start[1])


def test_the_fresh_head_learns_the_features(data):
    method = prepared(CReFF, data, head_epochs=50, head_lr=0.1)
    centres = 3 * torch.eye(3, 6).unsqueeze(1) + 0.1 * torch.randn(3, 20, 6)
    weight, bias = method._train_head(centres, torch.Generator().manual_seed(0))
    predictions = functional.linear(centres, weight, bias).argmax(2)
    assert (predictions == torch.arange(3)[:, None]).all()


def test_creffs_features_never_travel(data):
    method = prepared(CReFF, data)
    assert method.server == ("synthetic",)
    _, results = train(method, data, rounds=1)
    assert not any("synthetic" in name for result in results for name in result.update.tensors)


def test_dsa_measures_augmented_images(data):
    reports = []
    for dsa in (False, True, True):
        method = prepared(CReFF, data, dsa=dsa)
        reports.append(run_round(method, data, initial(method, 3), cohort=[0])[1][0].update.report["gradients"])
    assert torch.equal(reports[1], reports[2])  # drawn for the client and the round
    assert not torch.equal(reports[0], reports[1])


def test_tau_normalisation_is_that_of_the_retrained_head(data):
    """Row c of the generic head becomes w_c / ‖w_c‖, without the bias."""
    method = prepared(CReFF, data, tau_norm=1.0)
    h = torch.randn(4, 6)
    expected = h @ functional.normalize(method.retrained.weight).T
    torch.testing.assert_close(method.logits(h, "global"), expected)
    torch.testing.assert_close(method.logits(h, "personal"), method.head(h))
