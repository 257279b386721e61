"""FedProx by the properties that define it."""

import torch
from torch.nn import functional

from fedloge.methods import FedAvg, FedProx
from harness import build, initial, run_round, same, train


def distance(state, results):
    """Mean distance of the updates from the weights they started with."""
    moves = [
        sum((new - state.shared.tensors[name]).square().sum() for name, new in r.update.tensors.items())
        for r in results
    ]
    return float(sum(moves)) / len(moves)


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
