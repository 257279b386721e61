"""Properties and options that several methods share."""

import pytest
import torch

from fedloge.errors import ConfigError
from fedloge.methods import (
    Client,
    CReFF,
    Ditto,
    FedAvg,
    FedBN,
    FedLoGe,
    FedNH,
    FedPer,
    FedProx,
    FedRep,
    FedYoYo,
    LogitAdjustment,
    RatioLoss,
)
from harness import build, prepared, run_round, same, train


@pytest.mark.parametrize(
    ("method", "options"),
    [(RatioLoss, {"beta": 0.0}), (LogitAdjustment, {"tau": 0.0}), (LogitAdjustment, {"mode": "posthoc"}), (CReFF, {})],
)
def test_without_its_change_a_method_is_fedavg_to_the_bit(data, method, options):
    expected = train(build(FedAvg), data)[0].shared.tensors
    assert same(expected, train(prepared(method, data, **options), data)[0].shared.tensors)


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


@pytest.mark.parametrize("method", [FedBN, FedRep])
def test_the_generic_model_has_the_clients_average(data, method):
    method = build(method)
    state, _ = train(method, data)
    sizes = [Client(k, (n, 0, 0)) for k, n in enumerate((1, 0, 3))]
    average = method.generic_personal(state.clients, sizes)
    for name, tensor in average.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (state.clients[0][name] + 3 * state.clients[2][name]) / 4)


@pytest.mark.parametrize("method", [FedBN, FedRep])
@pytest.mark.parametrize(("agg", "weights"), [("examples", (1, 3)), ("uniform", (1, 1))])
def test_the_clients_average_is_over_those_that_have_trained(data, method, agg, weights):
    method = build(method, agg=agg)
    state, _ = train(method, data, rounds=1, cohort=[0, 2])
    sizes = [Client(k, (n, 0, 0)) for k, n in enumerate((1, 5, 3))]
    for name, tensor in method.generic_personal(state.clients, sizes).items():
        if tensor.is_floating_point():
            expected = (weights[0] * state.clients[0][name] + weights[1] * state.clients[2][name]) / sum(weights)
            torch.testing.assert_close(tensor, expected)


def test_weight_decay_leaves_psi_and_phi_out(data):
    """Their rows of absent classes would shrink, and LA-FR reads the norms (the released code decays nothing)."""
    method = prepared(FedLoGe, data, weight_decay=0.1)
    method.begin_phase(method.phases(1)[0])
    decay = {
        id(p): group["weight_decay"] for group in method.configure_optimizers().param_groups for p in group["params"]
    }
    named = dict(method.named_parameters())
    assert {decay[id(named[f"{head}.{part}"])] for head in ("psi", "phi") for part in ("weight", "bias")} == {0.0}
    assert decay[id(named["backbone.stages.0.weight"])] == 0.1


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


@pytest.mark.parametrize(("method", "option"), [(FedProx, "mu"), (Ditto, "lam")])
def test_negative_strengths_name_the_option(method, option):
    with pytest.raises(ConfigError, match=rf"model\.{option}=-1"):
        build(method, **{option: -1})
