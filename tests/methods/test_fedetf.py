"""FedETF by the properties that define it."""

import pytest
import torch

from fedloge.errors import ConfigError
from fedloge.methods import FedAvg, FedETF, Phase
from harness import build, finalize, prepared, train


@pytest.fixture
def fedetf():
    method = build(FedETF)
    method.prepare(torch.Generator().manual_seed(0))
    return method


def test_the_etf_is_exact_and_byte_identical_after_training(fedetf, data):
    gram = fedetf.etf.weight @ fedetf.etf.weight.T
    torch.testing.assert_close(gram, 3 / 2 * (torch.eye(3) - 1 / 3), atol=1e-5, rtol=0)
    before = fedetf.etf.weight.clone()
    train(fedetf, data)
    assert torch.equal(before, fedetf.etf.weight)


def test_features_have_norm_one_and_the_scale_of_h_does_not_matter(fedetf):
    torch.nn.init.zeros_(fedetf.projection.bias)
    images = torch.randn(5, 1, 4, 4)
    fedetf.eval()
    first = fedetf.project(fedetf.features(images))
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5))
    backbone = fedetf.backbone
    fedetf.backbone = torch.nn.Sequential(backbone, torch.nn.Threshold(-1, 0))
    fedetf.backbone.register_forward_hook(lambda module, args, output: 7.5 * output)
    torch.testing.assert_close(fedetf.project(fedetf.features(images)), first)


def test_the_temperature_is_learnt_and_shared_and_does_not_decide(fedetf, data):
    _, results = train(fedetf, data, rounds=1)
    assert "scale" in results[0].update.tensors
    assert results[0].update.tensors["scale"].item() != 1.0
    features = fedetf.features(torch.randn(5, 1, 4, 4))
    before = fedetf.logits(features, "global")
    fedetf.scale.data.mul_(100)
    assert torch.equal(before, fedetf.logits(features, "global"))


@pytest.mark.parametrize("options", [{"loss": "dr"}, {"projection": "batchnorm"}])
def test_fedetfs_variants_train_and_share_what_they_should(data, options):
    method = build(FedETF, **options)
    method.prepare(torch.Generator().manual_seed(0))
    state, results = train(method, data)
    names = {name for name in results[0].update.tensors if name.startswith("projection")}
    if "projection" in options:  # statistics are averaged and used in testing
        assert {"projection.running_mean", "projection.running_var"} <= names
        assert state.shared.tensors["projection.running_mean"].abs().sum() > 0
    assert not any(torch.isnan(tensor).any() for tensor in state.shared.tensors.values())


def test_fedetfs_fine_tuning_moves_the_clients_own_etf(data):
    method = build(FedETF, pm="finetune", finetune_epochs=1, finetune_cycles=2)
    method.prepare(torch.Generator().manual_seed(0))
    state, _ = train(method, data, rounds=1)
    before = state.shared.fixed["etf.weight"].clone()
    final = finalize(method, data, state)
    assert torch.equal(final.shared.fixed["etf.weight"], before)
    for own in final.clients:
        assert not torch.equal(own["etf.weight"], before)
        assert not torch.equal(own["projection.weight"], state.shared.tensors["projection.weight"])
        assert not torch.equal(own["backbone.stages.0.weight"], state.shared.tensors["backbone.stages.0.weight"])


def test_a_batchnorm_etf_needs_the_dimensions():
    with pytest.raises(ConfigError, match=r"model\.projection='batchnorm' but 9 classes need 8 dimensions"):
        FedETF(build(FedAvg).backbone, 9, projection="batchnorm")


def test_a_batch_of_one_image_skips_the_batchnorm_in_training():
    method = build(FedETF, projection="batchnorm")
    h = torch.randn(1, 6)
    torch.testing.assert_close(method.train().project(h), torch.nn.functional.normalize(h))
    method.projection.running_mean.fill_(1.0)
    expected = torch.nn.functional.normalize(method.eval().projection(h))
    torch.testing.assert_close(method.project(h), expected)  # in testing the statistics are known


def test_a_client_whose_last_batch_has_one_image_is_trained(make_data):
    data = make_data(num_clients=3, batch_size=2)
    data.setup()
    assert any(sum(data.client_counts(k)) % 2 for k in range(3))
    method = prepared(FedETF, data, loss="dr", projection="batchnorm")
    _, results = train(method, data, rounds=1)
    assert len(results) == 3


def test_v_and_p_are_fine_tuned_with_the_authors_optimisers():
    """client_funct.py of the authors: V by plain SGD with rate 0.1, P with rate 0.05, momentum 0.9 and decay 5e-4."""
    method = build(FedETF, pm="finetune", lr=0.3, momentum=0.1)
    for part, expected in (("etf", (0.1, 0.0, 0.0)), ("projection", (0.05, 0.9, 5e-4))):
        method.begin_phase(Phase(part, 3, (part,)))
        (group,) = method.configure_optimizers().param_groups
        assert (group["lr"], group["momentum"], group["weight_decay"]) == expected
