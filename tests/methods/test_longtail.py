"""Ratio Loss, logit adjustment, τ-norm, FedNH, CReFF and FedYoYo, each by the properties that define it."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from fedloge.errors import ConfigError
from fedloge.losses import head_gradients, update_ratios
from fedloge.methods import CReFF, FedAvg, FedNH, FedPer, FedYoYo, LogitAdjustment, RatioLoss
from fedloge.methods.base import ServerData
from fedloge.methods.creff import match_features
from fedloge.methods.fedyoyo import distillation, strong_view
from harness import build, initial, run_round, same, train


@pytest.fixture
def data(make_data):
    module = make_data(num_clients=3, auxiliary=4)
    module.setup()
    return module


def prepared(method, data, **options):
    made = build(method, **options)
    counts = tuple(map(int, data.class_counts))
    made.server_data = ServerData(counts, data.auxiliary_set() if "auxiliary" in made.privileged else None)
    made.prepare(torch.Generator().manual_seed(1))
    return made


def shared_names(method):
    return [name for name in build(FedAvg).state_dict() if name in method.state_dict()]


@pytest.mark.parametrize(
    ("method", "options"),
    [(RatioLoss, {"beta": 0.0}), (LogitAdjustment, {"tau": 0.0}), (LogitAdjustment, {"mode": "posthoc"}), (CReFF, {})],
)
def test_without_its_change_a_method_is_fedavg_to_the_bit(data, method, options):
    expected = train(build(FedAvg), data)[0].shared.tensors
    assert same(expected, train(prepared(method, data, **options), data)[0].shared.tensors)


# Ratio Loss


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


def test_weights_from_the_model_of_a_round_act_in_the_next(data):
    method = prepared(RatioLoss, data, refresh_every=2)
    state = initial(method, 3)
    ratios = method.probe(state)
    plain, _ = run_round(build(FedAvg), data, initial(build(FedAvg), 3))
    first, _ = run_round(method, data, state)
    assert same(plain.shared.tensors, first.shared.tensors)
    torch.testing.assert_close(first.shared.fixed["class_weights"], 1 + 0.1 * ratios)
    plain, _ = run_round(build(FedAvg), data, plain)
    second, _ = run_round(method, data, first)
    assert not same(plain.shared.tensors, second.shared.tensors)
    assert second.shared.fixed["class_weights"] is first.shared.fixed["class_weights"]
    third, _ = run_round(method, data, second)
    assert not torch.equal(third.shared.fixed["class_weights"], first.shared.fixed["class_weights"])


def test_ratio_loss_weights_every_example_by_its_class(data):
    method = build(RatioLoss)
    method.class_weights.copy_(torch.tensor([1.0, 2.0, 3.0]))
    images, labels = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 2])
    method.eval()
    each = functional.cross_entropy(method.head(method.backbone(images)), labels, reduction="none")
    expected = (each * torch.tensor([1.0, 2.0, 3.0, 3.0])).sum() / 4
    torch.testing.assert_close(method.local_losses((images, labels))["ratio"], expected)


def test_the_servers_set_is_balanced_training_data(data, make_data):
    images, labels = data.auxiliary_set()
    assert labels.bincount().tolist() == [min(4, n) for n in data.class_counts]
    again = make_data(num_clients=3, auxiliary=4)
    again.setup()
    assert torch.equal(images, again.auxiliary_set()[0])
    train_images = torch.cat([batch for k in range(3) for batch, _ in data.client_batches(k)])
    assert all((train_images == image).flatten(1).all(1).any() for image in images)


def test_no_set_no_ratio_loss(make_data):
    module = make_data()
    module.setup()
    with pytest.raises(ConfigError, match=r"data\.auxiliary=0 but this method needs a balanced set"):
        module.auxiliary_set()


# Logit adjustment and τ-norm


def test_the_prior_is_that_of_all_clients(data):
    method = prepared(LogitAdjustment, data, tau=2.0)
    images, labels = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 2])
    method.eval()
    logits = method.head(method.backbone(images))
    expected = functional.cross_entropy(logits + 2 * torch.tensor(data.class_counts).log(), labels)
    torch.testing.assert_close(method.local_losses((images, labels))["adjusted"], expected)
    assert "class_counts" in method.shared_state().fixed


def test_posthoc_adjustment_moves_the_generic_model_alone(data):
    method = prepared(LogitAdjustment, data, mode="posthoc")
    h = torch.randn(5, 6)
    torch.testing.assert_close(method.logits(h, "personal"), method.head(h))
    expected = method.head(h) - torch.tensor(data.class_counts).log()
    torch.testing.assert_close(method.logits(h, "global"), expected)


def test_tau_norm_gives_the_generic_model_rows_of_equal_norm():
    method, h = build(FedAvg, tau_norm=1.0), torch.randn(50, 6)
    torch.testing.assert_close(method.logits(h, "personal"), method.head(h))
    expected = h @ functional.normalize(method.head.weight).T
    torch.testing.assert_close(method.logits(h, "global"), expected)
    half = build(FedAvg, tau_norm=0.5)
    norms = method.head.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(half.logits(h, "global"), h @ (method.head.weight / norms.sqrt()).T)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (FedPer, {"tau_norm": 1.0}, r"model\.tau_norm=1\.0 but FedPer has no generic model"),
        (FedPer, {"pm": "local"}, r"model\.pm='local' but FedPer has personal models"),
        (FedAvg, {"tau_norm": -1.0}, r"model\.tau_norm=-1\.0"),
        (LogitAdjustment, {"tau": -1.0}, r"model\.tau=-1\.0"),
        (RatioLoss, {"refresh_every": 0}, r"model\.refresh_every=0"),
        (FedNH, {"rho": 1.5}, r"model\.rho=1\.5"),
        (CReFF, {"per_class": 0}, r"model\.per_class=0"),
        (FedYoYo, {"lam": -1.0}, r"model\.lam=-1\.0"),
        (FedYoYo, {"temperature": 0.0}, r"model\.temperature=0\.0"),
        (FedAvg, {"agg": "median"}, r"model\.agg='median'"),
    ],
)
def test_bad_values_name_the_option(method, options, message):
    with pytest.raises(ConfigError, match=message):
        build(method, **options)


# FedAvg's own options


def test_the_local_personal_model_is_what_the_client_sent(data):
    method = build(FedAvg, pm="local")
    state, results = train(method, data)
    assert same(train(build(FedAvg), data)[0].shared.tensors, state.shared.tensors)
    for result in results:
        assert same(result.update.tensors, state.clients[result.update.client])


def test_uniform_weights(data):
    method = build(FedAvg, agg="uniform")
    state, results = run_round(method, data, initial(method, 3))
    mean = torch.stack([result.update.tensors["head.weight"] for result in results]).mean(0)
    torch.testing.assert_close(state.shared.tensors["head.weight"], mean)


# FedNH


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


# CReFF


def test_reported_gradients_are_of_the_model_as_received(data):
    method = prepared(CReFF, data)
    state = initial(method, 3)
    _, (result,) = run_round(method, data, state, cohort=[0])
    twin = prepared(CReFF, data)
    twin.load(state.shared, {})
    twin.eval()
    images, labels = (torch.cat(part) for part in zip(*data.client_batches(0), strict=True))
    h = twin.backbone(images).detach()
    expected, _ = head_gradients(twin.retrained(h), h, labels)
    classes = result.update.report["classes"]
    assert classes.tolist() == labels.unique().tolist()
    torch.testing.assert_close(result.update.report["gradients"], expected[classes])


def test_matching_turns_the_gradients_towards_the_real_ones():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(3, 5, generator=generator), torch.zeros(3)
    target, start = torch.randn(2, 3, 8, 5, generator=generator)
    known = torch.tensor([True, False, True])
    own = torch.eye(3).unsqueeze(1)

    def gradients(features):
        errors = functional.linear(features, weight, bias).softmax(2) - own
        return errors.transpose(1, 2) @ features / 8

    real = gradients(target + 2)
    moved = match_features(start, weight, bias, real, known, steps=200, lr=0.5)
    before, after = (functional.cosine_similarity(gradients(f), real, dim=2)[known].mean() for f in (start, moved))
    assert after > 0.95 > before
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


# FedYoYo


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
