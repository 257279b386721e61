import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from fedloge.errors import ConfigError
from fedloge.methods import FedLoGe
from fedloge.models import SmallCNN
from harness import finalize, initial, population, run_round, same


def make(**options):
    torch.manual_seed(0)
    method = FedLoGe(SmallCNN((6,), in_channels=1), 3, gamma=1.0, beta=0.3, **options)
    method.prepare(torch.Generator().manual_seed(1))
    return method


def start(method):
    return initial(method, 3)


def train(method, data, state, cohort=(0, 1, 2), phases=None):
    """The trained state as of the same round, so that another training from it draws the same batches."""
    after, results = run_round(method, data, state, cohort, phases=phases)
    return replace(after, round=state.round), results


def test_kinds_of_state():
    shared = make().shared_state()
    assert {name.partition(".")[0] for name in shared.tensors} == {"backbone", "psi"}
    assert set(shared.fixed) == {"sse.weight", "realigned"}
    assert set(make().personal_entries()) == {"phi.weight", "phi.bias"}


def test_phi_is_never_in_an_update(data):
    method = make()
    _, results = train(method, data, start(method))
    for result in results:
        assert not any("phi" in name or "sse" in name for name in result.update.tensors)


def test_sse_c_is_byte_identical_after_training(data):
    method = make(sse_bias=True)
    state = start(method)
    state, _ = train(method, data, state)
    assert torch.equal(method.sse.weight, state.shared.fixed["sse.weight"])
    assert torch.equal(method.sse.bias, state.shared.fixed["sse.bias"])
    assert float(method.sse.bias.abs().max()) <= 6**-0.5


def test_theta_does_not_feel_the_heads(data):
    """With the heads' learning rate at 0 the body takes the same course to the bit."""
    ends = [train(method := make(head_lr=rate), data, start(method))[0] for rate in (None, 0.0)]
    for name, tensor in ends[0].shared.tensors.items():
        assert torch.equal(tensor, ends[1].shared.tensors[name]) == name.startswith("backbone."), name


def test_a_step_is_the_three_steps_of_the_paper(data):
    """One optimiser on the sum of detached losses equals three optimisers in turn on the features before θ's step."""
    method = make()
    state = start(method)
    twin = copy.deepcopy(method)
    twin.load(state.shared, state.clients[0])
    optimizers = [
        torch.optim.SGD(part.parameters(), lr=0.03, momentum=0.5) for part in (twin.backbone, twin.psi, twin.phi)
    ]
    loader = data.client_loader(0, seed=0, round=1)
    for _ in range(2):
        for images, labels in loader:
            h = twin.backbone(images)
            detached = h.detach()
            for head, optimizer in zip((twin.sse, twin.psi, twin.phi), optimizers, strict=True):
                optimizer.zero_grad()
                functional.cross_entropy(head(h if head is twin.sse else detached), labels).backward()
                optimizer.step()
    _, (result,) = train(method, data, state, cohort=(0,))
    for name, tensor in {**result.update.tensors, **result.personal}.items():
        assert torch.equal(tensor, twin.state_dict()[name]), name


def test_a_client_that_is_not_sampled_keeps_its_state(data):
    method = make()
    state = start(method)
    train(method, data, state)
    kept, moved = (copy.deepcopy(state.clients[k]) for k in (1, 0))
    train(method, data, state, cohort=(0, 2))
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.clients[1].items())
    assert not torch.equal(moved["phi.weight"], state.clients[0]["phi.weight"])


def test_clients_start_with_heads_of_their_own():
    method = make()
    state = start(method)
    assert not torch.equal(state.clients[0]["phi.weight"], state.clients[1]["phi.weight"])
    assert torch.equal(state.clients[0]["phi.weight"], state.clients[0]["phi.weight"])
    wide = FedLoGe(SmallCNN((512,), in_channels=1), 10)
    norms = wide.initial_personal({}, torch.Generator())["phi.weight"].norm(dim=1)
    torch.testing.assert_close(norms, torch.full((10,), 0.58), atol=0.05, rtol=0)


def logits(method, state, view, client=0):
    method.load(state.shared, state.clients[client])
    return method.logits(FEATURES, view)


FEATURES = torch.randn(20, 6)


def test_before_realignment_the_generic_model_is_sse_c(data):
    method = make()
    state, _ = train(method, data, start(method))
    expected = FEATURES @ state.shared.fixed["sse.weight"].T
    assert torch.equal(logits(method, state, "global"), expected)


@pytest.mark.parametrize("bias", ["keep", "drop"])
def test_generic_model_after_ga_fr(data, bias):
    method = make(ga_scale=2.0, ga_bias=bias)
    state, _ = train(method, data, start(method))
    psi, b = (state.shared.tensors[f"psi.{name}"] for name in ("weight", "bias"))
    expected = FEATURES @ (2 * functional.normalize(psi)).T + (b if bias == "keep" else 0)
    torch.testing.assert_close(logits(method, method.finalize(state, population(data)), "global"), expected)


@pytest.mark.parametrize("rule", ["la", "phi+la", "la+psi", "phi+psi"])
@pytest.mark.parametrize("source", ["raw", "unit"])
def test_rules_of_the_personal_model(data, rule, source):
    method = make(pm_rule=rule, la_source=source)
    state, _ = train(method, data, start(method))
    psi, psi_bias = state.shared.tensors["psi.weight"], state.shared.tensors["psi.bias"]
    phi, phi_bias = state.clients[1]["phi.weight"], state.clients[1]["phi.bias"]
    direction = functional.normalize(psi) if source == "unit" else psi
    heads = {
        "psi": FEATURES @ psi.T + psi_bias,
        "phi": FEATURES @ phi.T + phi_bias,
        "la": FEATURES @ (direction * phi.norm(dim=1, keepdim=True)).T + psi_bias,
    }
    after = logits(method, method.finalize(state, population(data)), "personal", client=1)
    torch.testing.assert_close(after, sum(heads[part] for part in rule.split("+")))
    before = logits(method, state, "personal", client=1)
    torch.testing.assert_close(before, heads["phi"] + (heads["psi"] if "psi" in rule else 0))


def test_realignment_leaves_the_trained_state_as_it_is(data):
    method = make()
    state, _ = train(method, data, start(method))
    before = copy.deepcopy((dict(state.shared.tensors), [dict(own) for own in state.clients]))
    method.finalize(state, population(data))
    assert all(torch.equal(before[0][name], tensor) for name, tensor in state.shared.tensors.items())
    for old, new in zip(before[1], state.clients, strict=True):
        assert all(torch.equal(old[name], tensor) for name, tensor in new.items())
    assert not bool(state.shared.fixed["realigned"])


def test_finetuning_moves_the_personal_head_alone(data):
    method = make(finetune_epochs=2)
    state, _ = train(method, data, start(method))

    plain, tuned = method.finalize(state, population(data)), finalize(method, data, state)
    assert same(plain.shared.tensors, tuned.shared.tensors)
    assert same(plain.shared.tensors, state.shared.tensors, [n for n in state.shared.tensors if "psi" not in n])
    for client in range(3):
        assert not torch.equal(plain.clients[client]["phi.weight"], tuned.clients[client]["phi.weight"])


def test_finetune_lr_zero_changes_nothing(data):
    method = make(finetune_epochs=1, finetune_lr=0.0)
    state, _ = train(method, data, start(method))
    tuned = finalize(method, data, state)
    for plain, own in zip(method.finalize(state, population(data)).clients, tuned.clients, strict=True):
        assert torch.equal(plain["phi.weight"], own["phi.weight"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("beta", 1.0),
        ("gamma", 0.0),
        ("sse_solver", "sgd"),
        ("sse_frame", "any"),
        ("ga_scale", 0.0),
        ("pm_rule", "psi"),
        ("finetune_epochs", -1),
        ("head_lr", -1.0),
    ],
)
def test_bad_values_name_the_option(option, value):
    with pytest.raises(ConfigError, match=rf"model\.{option}="):
        FedLoGe(SmallCNN((6,), in_channels=1), 3, **({"beta": 0.3} | {option: value}))


# Ablations


def test_without_ga_fr_or_la_fr_the_fixed_classifier_stays(data):
    method = make(ga=False, la=False, sse_bias=True)
    state, _ = train(method, data, start(method))
    final = method.finalize(state, population(data))
    fixed = FEATURES @ state.shared.fixed["sse.weight"].T + state.shared.fixed["sse.bias"]
    torch.testing.assert_close(logits(method, final, "global"), fixed)
    torch.testing.assert_close(logits(method, final, "personal", client=2), fixed)


def test_la_fr_by_distribution(data):
    method = make(la_norms="distribution")
    state, _ = train(method, data, start(method))
    counts = torch.tensor(data.client_counts(1))
    head = state.shared.tensors["psi.weight"] * (counts / counts.sum())[:, None]
    expected = FEATURES @ head.T + state.shared.tensors["psi.bias"]
    torch.testing.assert_close(logits(method, method.finalize(state, population(data)), "personal", client=1), expected)


def test_ga_fr_in_part(data):
    method = make(ga_tau=0.5, ga_scale=1.0)
    state, _ = train(method, data, start(method))
    norms = state.shared.tensors["psi.weight"].norm(dim=1)
    final = method.finalize(state, population(data))
    torch.testing.assert_close(final.shared.tensors["psi.weight"].norm(dim=1), norms.sqrt())


@pytest.mark.parametrize("kind", ["xavier", "gaussian", "uniform", "orthogonal", "kaiming"])
@pytest.mark.parametrize("rescale", [False, True])
def test_fixed_heads_of_usual_initialisations(kind, rescale):
    torch.manual_seed(0)
    method = FedLoGe(
        SmallCNN((20,), in_channels=1), 5, beta=0.6, gamma=0.3, classifier=kind, classifier_rescale=rescale
    )
    method.prepare(torch.Generator().manual_seed(0))
    assert int((method.sse.weight == 0).sum()) == 60
    norms = method.sse.weight.norm(dim=1)
    assert torch.allclose(norms, torch.full((5,), 0.3)) == rescale


def test_projection_and_dot_regression(data):
    method = make(projection=True, loss="dr")
    state, results = train(method, data, start(method))
    assert not torch.equal(state.shared.tensors["projection.weight"], start(method).shared.tensors["projection.weight"])
    images = torch.randn(3, 1, 4, 4)
    method.eval()
    torch.testing.assert_close(method.features(images), method.projection(method.backbone(images)))
    assert "projection.weight" in results[0].update.tensors
