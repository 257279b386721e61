"""FedProx, FedBN, FedPer, FedRep, Ditto and Fed-RoD, each by the properties that define it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedloge.errors import ConfigError
from fedloge.methods import Client, Ditto, FedAvg, FedBN, FedPer, FedProx, FedRep, FedROD
from fedloge.models import Backbone, CifarResNet
from harness import build, finalize, initial, population, run_round, same, train


@pytest.fixture
def data(make_data):
    module = make_data(num_clients=3)
    module.setup()
    return module


def distance(state, results):
    """Mean distance of the updates from the weights they started with."""
    moves = [
        sum((new - state.shared.tensors[name]).square().sum() for name, new in r.update.tensors.items())
        for r in results
    ]
    return float(sum(moves)) / len(moves)


# FedProx


def test_fedprox_without_mu_is_fedavg_to_the_bit(data):
    assert same(train(build(FedProx, mu=0.0), data)[0].shared.tensors, train(build(FedAvg), data)[0].shared.tensors)


def test_the_first_step_of_fedprox_is_fedavgs(make_data):
    data = make_data(num_clients=1, batch_size=1000)
    data.setup()
    ends = [train(build(m, **o), data, rounds=1, epochs=1)[0] for m, o in ((FedAvg, {}), (FedProx, {"mu": 10.0}))]
    assert same(ends[0].shared.tensors, ends[1].shared.tensors)


def test_a_larger_mu_keeps_clients_closer(data):
    distances = []
    for mu in (0.0, 1.0, 10.0):
        method = build(FedProx, mu=mu)
        state = initial(method, 3)
        distances.append(distance(state, run_round(method, data, state)[1]))
    assert distances[0] > distances[1] > distances[2]


def test_the_term_goes_into_momentum(make_data):
    """lr η, momentum m, anchor a = w0: v = g + μ(w - a), the term being part of what momentum accumulates."""
    data = make_data(num_clients=1, batch_size=1000)
    data.setup()
    method = build(FedProx, mu=2.0)
    state = initial(method, 1)
    twin = build(FedAvg)
    anchor = {name: p.detach().clone() for name, p in twin.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    loader = data.client_loader(0, seed=0, round=1)
    for _ in range(3):
        for images, labels in loader:
            loss = functional.cross_entropy(twin.head(twin.backbone(images)), labels)
            for (name, p), g in zip(
                twin.named_parameters(), torch.autograd.grad(loss, list(twin.parameters())), strict=True
            ):
                velocity[name] = 0.5 * velocity[name] + g + 2.0 * (p.detach() - anchor[name])
                p.data -= 0.03 * velocity[name]
    after, _ = run_round(method, data, state, epochs=3)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(after.shared.tensors[name], parameter.detach())


# FedBN


def test_fedbn_keeps_every_batchnorm_shortcuts_included(data):
    torch.manual_seed(0)
    method = FedBN(CifarResNet(8, width=2, in_channels=1), 3)
    state, results = train(method, data)
    personal, shared = set(state.clients[0]), set(results[0].update.tensors)
    assert "backbone.stage2.0.downsample.1.running_mean" in personal
    assert len(personal) == 9 * 5
    assert not personal & shared
    assert "head.weight" in shared
    assert not same(state.clients[0], state.clients[1], ["backbone.stage2.0.downsample.1.running_mean"])


class Plain(Backbone):
    in_channels, out_features = 1, 16

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, images):
        return self.layer(images.flatten(1)).relu()


def test_fedbn_without_batchnorm_is_fedavg_and_a_run_refuses_it(data):
    torch.manual_seed(0)
    first, second = FedBN(Plain(), 3), FedAvg(Plain(), 3)
    second.load_state_dict(first.state_dict())
    assert same(train(first, data)[0].shared.tensors, train(second, data)[0].shared.tensors)
    with pytest.raises(ConfigError, match="Plain' has no BatchNorm"):
        first.check()


def test_fedbn_leaves_a_client_that_is_not_sampled_alone(data):
    method = build(FedBN)
    state, _ = train(method, data)
    before = dict(state.clients[1])
    state, _ = run_round(method, data, state, cohort=[0, 2])
    assert same(before, state.clients[1])


@pytest.mark.parametrize("method", [FedBN, FedRep])
def test_the_generic_model_has_the_clients_average(data, method):
    method = build(method)
    state, _ = train(method, data)
    sizes = [Client(k, (n, 0, 0)) for k, n in enumerate((1, 0, 3))]
    average = method.generic_personal(state.clients, sizes)
    for name, tensor in average.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (state.clients[0][name] + 3 * state.clients[2][name]) / 4)


# FedPer and FedRep


@pytest.mark.parametrize("method", [FedPer, FedRep])
def test_a_head_never_leaves_its_client(data, method):
    """Poisoning one head after its training changes neither the server nor any other client."""
    ends = []
    for poison in (False, True):
        own = build(method)
        state, results = train(own, data, rounds=1)
        assert not any(name.startswith("head") for r in results for name in r.update.tensors)
        if poison:
            state.clients[1] = {name: torch.full_like(t, 1e6) for name, t in state.clients[1].items()}
        ends.append(run_round(own, data, state, cohort=[0, 2])[0])
    assert same(ends[0].shared.tensors, ends[1].shared.tensors)
    assert all(same(ends[0].clients[k], ends[1].clients[k]) for k in (0, 2))


def test_all_heads_start_the_same_whenever_a_client_first_takes_part(data):
    method = build(FedPer)
    state = initial(method, 3)
    expected = {name: tensor.clone() for name, tensor in state.clients[1].items()}
    run_round(method, data, state, cohort=[0, 2])
    assert same(expected, state.clients[1])


def test_one_client_of_fedper_is_fedavg(make_data):
    data = make_data(num_clients=1)
    data.setup()
    (per, _), (avg, _) = (train(build(method), data) for method in (FedPer, FedAvg))
    assert same({**per.shared.tensors, **per.clients[0]}, avg.shared.tensors)


def test_fedrep_freezes_what_it_does_not_train(data):
    method = build(FedRep, head_epochs=2, body_epochs=0)
    start = initial(method, 3)
    state, _ = run_round(method, data, start)
    assert same(start.shared.tensors, state.shared.tensors)  # BatchNorm statistics included
    head = state.clients[0]
    assert not same(head, initial(method, 3).clients[0], ["head.weight"])
    both = build(FedRep, head_epochs=2, body_epochs=1)
    after, _ = run_round(both, data, initial(both, 3))
    assert same(head, after.clients[0])
    assert not same(start.shared.tensors, after.shared.tensors, ["backbone.stages.0.weight"])


def test_fedrep_trains_heads_once_more_if_asked(data):
    method = build(FedRep, head_epochs=1, body_epochs=1, final_head_epochs=2)
    state, _ = train(method, data)
    assert method.finalize(state, population(data)) is state
    final = finalize(method, data, state)
    assert final.shared.tensors is state.shared.tensors
    assert not same(final.clients[0], state.clients[0], ["head.weight"])


def test_fedrep_without_head_epochs_is_refused():
    with pytest.raises(ConfigError, match=r"model\.head_epochs=0 must be at least 1"):
        build(FedRep, head_epochs=0)


# Ditto


@pytest.mark.parametrize("lam", [0.0, 0.75])
def test_dittos_generic_model_is_fedavgs_to_the_bit(data, lam):
    expected = train(build(FedAvg), data)[0].shared.tensors
    assert same(expected, train(build(Ditto, lam=lam), data)[0].shared.tensors)


def test_ditto_without_lambda_trains_locally_whatever_the_others_do(make_data, data):
    alone = make_data(num_clients=3)
    alone.setup()
    first, _ = train(build(Ditto, lam=0.0), data)
    second, _ = train(build(Ditto, lam=0.0), alone, cohort=[1])
    assert same(first.clients[1], second.clients[1])


def test_a_larger_lambda_keeps_the_private_model_closer(data):
    distances = []
    for lam in (0.0, 1.0, 10.0):
        method = build(Ditto, lam=lam)
        start = initial(method, 3)
        state, _ = run_round(method, data, start)
        own = state.clients[0]
        pairs = [(t, start.shared.tensors[n.removeprefix("personal_")]) for n, t in own.items() if "weight" in n]
        distances.append(float(sum((a - b).square().sum() for a, b in pairs)))
    assert distances[0] > distances[1] > distances[2]


# Fed-RoD


def test_fedrods_generic_part_does_not_feel_the_private_head(data):
    ends = [train(build(FedROD, personal_lr=rate), data)[0] for rate in (None, 0.0)]
    assert same(ends[0].shared.tensors, ends[1].shared.tensors)
    assert not same(ends[0].clients[0], ends[1].clients[0])


def test_fedrods_private_head_starts_at_zero_so_both_models_agree():
    method, features = build(FedROD), torch.randn(5, 6)
    assert torch.equal(method.logits(features, "global"), method.logits(features, "personal"))


def test_fedrods_prior_is_the_clients_own(data):
    """A row of G gets no gradient at a client that has no image of its class."""
    method = build(FedROD)
    state = initial(method, 3)

    class Without:
        num_clients = 1

        def client_counts(self, client):
            return (data.client_counts(0)[0], 0, data.client_counts(0)[2])

        def client_batches(self, client, device=None):
            return ()

        def client_loader(self, client, **where):
            class Kept(list):
                def __iter__(self):
                    return ((x[y != 1], y[y != 1]) for x, y in data.client_loader(0, **where) if (y != 1).sum() > 1)

            class Loader:
                def __iter__(self):
                    return iter(Kept())

                def __len__(self):
                    return len(list(Kept()))

            return Loader()

    _, (result,) = run_round(method, Without(), state, cohort=[0])
    assert torch.equal(result.update.tensors["head.weight"][1], state.shared.tensors["head.weight"][1])
    assert not torch.equal(result.update.tensors["head.weight"][0], state.shared.tensors["head.weight"][0])


def test_fedrod_without_balancing_trains_body_and_head_as_fedavg(data):
    expected = train(build(FedAvg), data)[0].shared.tensors
    assert same(expected, train(build(FedROD, balanced=False), data)[0].shared.tensors)


@pytest.mark.parametrize(("method", "option"), [(FedProx, "mu"), (Ditto, "lam")])
def test_negative_strengths_name_the_option(method, option):
    with pytest.raises(ConfigError, match=rf"model\.{option}=-1"):
        build(method, **{option: -1})
