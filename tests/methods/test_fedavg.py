import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedloge.methods import FedAvg, Method, Phase
from fedloge.models import Backbone
from harness import build, initial, run_round, same, train


class Passing(Backbone):
    in_channels, out_features = 1, 1

    def forward(self, images):
        return images.flatten(1)


class Scalar(Method):
    """One weight w per client update, pulled towards the image x: loss (w - x)² / 2."""

    def __init__(self, **options):
        super().__init__(Passing(), 2, **options)
        self.w = nn.Parameter(torch.zeros(()))

    def local_losses(self, batch):
        return {"square": (self.w - batch[0].mean()).square() / 2}


class ScalarData:
    """Client 0 holds one example x = 4, client 1 three examples x = 8, one batch an epoch."""

    num_clients = 2
    values = ((4.0, 1), (8.0, 3))

    def client_counts(self, client):
        return (self.values[client][1], 0)

    def client_loader(self, client, *, seed, round, phase=0):
        value, count = self.values[client]
        return Batches([(torch.full((count, 1, 1, 1), value), torch.zeros(count, dtype=torch.long))])


class Batches:
    """An iterable with a length; a plain list would be taken for several loaders."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def test_two_clients_and_one_weight_on_paper():
    """lr 0.5, momentum 0.5, 2 epochs from w = 0, gradient w - x, velocity v ← v/2 + g.

    Client 0 (x = 4): g = -4, v = -4, w = 2; g = -2, v = -4, w = 4.
    Client 1 (x = 8): g = -8, v = -8, w = 4; g = -4, v = -8, w = 8.
    Server: (1·4 + 3·8) / 4 = 7. In the second round momentum starts anew:
    client 0: g = 3, v = 3, w = 5.5; g = 1.5, v = 3, w = 4.
    client 1: g = -1, v = -1, w = 7.5; g = -0.5, v = -1, w = 8. Server: 7 again.
    """
    method = Scalar(lr=0.5, momentum=0.5)
    state, results = run_round(method, ScalarData(), initial(method, 2))
    assert [result.update.tensors["w"].item() for result in results] == [4.0, 8.0]
    assert state.shared.tensors["w"].item() == 7.0
    state, results = run_round(method, ScalarData(), state)
    assert [result.update.tensors["w"].item() for result in results] == [4.0, 8.0]
    assert state.shared.tensors["w"].item() == 7.0


def test_loss_is_the_mean_over_all_steps():
    """Client 0 meets w = 0 and w = 2: (8 + 2) / 2 = 5."""
    method = Scalar(lr=0.5, momentum=0.5)
    _, results = run_round(method, ScalarData(), initial(method, 2))
    assert results[0].update.metrics["loss"] == pytest.approx(5.0)


def test_one_client_equals_plain_sgd(make_data, tiny_net):
    data = make_data(num_clients=1, augment="crop")
    data.setup()
    method = FedAvg(tiny_net, 3)
    twin = copy.deepcopy(method)
    state = initial(method, 1)
    for number in (1, 2):
        state, _ = run_round(method, data, state)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.03, momentum=0.5)
        loader = data.client_loader(0, seed=0, round=number)
        for _ in range(2):
            for images, labels in loader:
                optimizer.zero_grad()
                functional.cross_entropy(twin.head(twin.backbone(images)), labels).backward()
                optimizer.step()
    for name, tensor in twin.state_dict().items():
        assert torch.equal(state.shared.tensors[name], tensor), name


def test_batchnorm_statistics_are_averaged(make_data, tiny_net):
    data = make_data()
    data.setup()
    method = FedAvg(tiny_net, 3)
    state, results = run_round(method, data, initial(method, 2))
    name = "backbone.stages.1.running_mean"
    weights = torch.tensor([result.update.num_examples for result in results]).float()
    means = torch.stack([result.update.tensors[name] for result in results])
    torch.testing.assert_close(state.shared.tensors[name], (weights / weights.sum()) @ means)
    assert state.shared.tensors["backbone.stages.1.num_batches_tracked"].dtype == torch.int64


def test_both_views_are_the_one_head(tiny_net):
    method, features = FedAvg(tiny_net, 3), torch.randn(4, 6)
    assert torch.equal(method.logits(features, "global"), method.logits(features, "personal"))


class HeadFirst(FedAvg):
    """Two phases, as FedRep has them: the head on a frozen body, then the body on a frozen head."""

    def phases(self, local_epochs):
        return (Phase("head", 1, trainable=("head",)), Phase("body", self.body_epochs, trainable=("backbone",)))


@pytest.mark.parametrize(("body_epochs", "frozen"), [(0, "backbone."), (1, "head.")])
def test_a_frozen_part_does_not_move_statistics_included(make_data, tiny_net, body_epochs, frozen):
    data = make_data()
    data.setup()
    method = HeadFirst(tiny_net, 3, weight_decay=0.1)
    method.body_epochs = body_epochs
    first = initial(method, 2)
    before = first.shared.tensors
    if body_epochs:  # what the head phase alone leaves
        method.body_epochs = 0
        before = run_round(method, data, first)[0].shared.tensors
        method.body_epochs = body_epochs
    after, _ = run_round(method, data, first)
    names = [name for name in before if name.startswith(frozen)]
    assert names
    assert all(torch.equal(before[name], after.shared.tensors[name]) for name in names)
    moved = "backbone.stages.0.weight" if body_epochs else "head.weight"
    assert not torch.equal(first.shared.tensors[moved], after.shared.tensors[moved])


def test_dropout_is_seeded_by_the_client_and_the_global_generator_is_left_alone(make_data):
    class Dropped(Passing):
        out_features = 16

        def forward(self, images):
            return functional.dropout(images.flatten(1), training=self.training)

    data = make_data()
    data.setup()
    method = FedAvg(Dropped(), 3)
    state = initial(method, 2)
    first, _ = run_round(method, data, state)
    torch.manual_seed(99)
    expected = torch.get_rng_state()
    second, _ = run_round(method, data, state)
    assert torch.equal(torch.get_rng_state(), expected)
    assert all(torch.equal(first.shared.tensors[n], t) for n, t in second.shared.tensors.items())


def test_tau_norm_gives_the_generic_model_rows_of_equal_norm():
    method, h = build(FedAvg, tau_norm=1.0), torch.randn(50, 6)
    torch.testing.assert_close(method.logits(h, "personal"), method.head(h))
    expected = h @ functional.normalize(method.head.weight).T
    torch.testing.assert_close(method.logits(h, "global"), expected)
    half = build(FedAvg, tau_norm=0.5)
    norms = method.head.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(half.logits(h, "global"), h @ (method.head.weight / norms.sqrt()).T)


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
