"""pFedMe by the properties that define it."""

import torch

from fedloge.losses import proximal
from fedloge.methods import pFedMe
from harness import build, initial, run_round, same, train
from scalars import Square, TwoClients, Weight


class ScalarpFedMe(pFedMe, Square):
    """θ_k is pulled towards the image."""

    def local_losses(self, batch):
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        pull = self.lam * proximal(self._own(), fixed)
        return {"personal": (self.own_backbone.w - batch[0].mean()).square() / 2, "proximal": pull}


def test_one_batch_on_paper():
    """λ = 1, inner rate 0.5, two inner steps from w = θ = 0, gradient θ - x + (θ - w).

    Client 0 (x = 4): θ = 2; gradient -2 + 2 = 0, θ = 2. w: 0 - 0.5 · (0 - 2) = 1. Client 1 (x = 8): θ = 4, w = 2.
    Server: (1 + 3·2)/4 = 1.75; with β = 2 twice as far.
    """
    for beta, expected in ((1.0, 1.75), (2.0, 3.5)):
        options = {"lam": 1.0, "inner_steps": 2, "inner_lr": 0.5, "beta": beta, "lr": 0.5, "momentum": 0.0}
        method = ScalarpFedMe(Weight(), 2, **options)
        state, results = run_round(method, TwoClients(), initial(method, 2), epochs=1)
        assert [own["own_backbone.w"].item() for own in state.clients] == [2, 4]
        assert [result.update.tensors["backbone.w"].item() for result in results] == [1, 2]
        assert state.shared.tensors["backbone.w"].item() == expected


def test_the_personal_model_starts_from_the_received_one(data):
    """After a round without data of its own (learning rate 0) θ_k is w."""
    method = build(pFedMe, inner_lr=1e-9, lr=0.0)
    state, _ = train(method, data, rounds=1)
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(state.clients[0][f"own_{name}"], state.shared.tensors[name])


def test_only_w_travels(data):
    _, results = train(build(pFedMe, lam=1.0), data, rounds=1)
    assert not any(name.startswith("own_") for name in results[0].update.tensors)
    assert not same(results[0].personal, results[1].personal)
