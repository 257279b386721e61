"""Fed-RoD by the properties that define it."""

import torch

from fedloge.methods import FedAvg, FedROD
from harness import build, initial, run_round, same, train


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
