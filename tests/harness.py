"""One round of the federated loop, without the trainer around it."""

import numpy as np
import pytest
import torch

from conftest import tiny_source
from fedloge.data import FederatedDataModule
from fedloge.data.partition import Partition
from fedloge.executors import ClientTask, LocalSettings, Serial
from fedloge.federation.round import AllClients, start_tasks, survey
from fedloge.federation.state import FederatedState
from fedloge.methods import Client, FedAvg
from fedloge.methods.base import Method, ServerData
from fedloge.models import SmallCNN


def build(method, seed=0, **options):
    """A small net and the method on it; the same backbone and head for the same seed."""
    torch.manual_seed(seed)
    return method(SmallCNN((6,), in_channels=1), 3, **options)


def dealt(sizes, tests=None, **options):
    """Clients with these numbers of training images, and of test images (2 each); a data module after setup."""
    data = FederatedDataModule(tiny_source(), num_clients=len(sizes), **{"imbalance_factor": 1} | options)
    data.setup()
    parts = []
    for labels, counts in ((data.dataset.train_labels, sizes), (data.test_labels, tests or [2] * len(sizes))):
        ends = np.cumsum(counts)
        order = np.random.default_rng(0).permutation(len(labels))
        own = tuple(order[end - count : end] for end, count in zip(ends, counts, strict=True))
        parts.append((own, np.stack([np.bincount(labels.numpy()[part], minlength=3) for part in own])))
    (train, train_counts), (test, test_counts) = parts
    data._partition = Partition("iid", 0, 1.0, 1.0, train, test, train_counts, test_counts)
    return data


def prepared(method, data, **options):
    made = build(method, **options)
    counts = tuple(map(int, data.class_counts))
    made.server_data = ServerData(counts, data.auxiliary_set() if "auxiliary" in made.privileged else None)
    made.prepare(torch.Generator().manual_seed(1))
    return made


def initial(method, num_clients):
    return method.initial_state(num_clients, lambda client: torch.Generator().manual_seed(client))


def run_round(method, data, state, cohort=None, epochs=2, seed=0, phases=None):
    """Train the cohort from a state; returns the next state and the results. The store of clients is updated."""
    executor = Serial()
    executor.start(method, data, LocalSettings(seed))
    clients = range(data.num_clients) if cohort is None else cohort
    server = torch.Generator().manual_seed(state.round)
    if type(method).survey is not Method.survey and type(method).answer is not Method.answer:
        answer = method.answer(survey(executor, state, clients, pytest.fail), state, server)
        state = state.with_shared(answer)
    tasks = [ClientTask(client, state.round + 1, phases or method.phases(epochs)) for client in clients]
    results = list(start_tasks(executor, state, tasks))
    for result in results:
        state.clients[result.update.client] = result.personal
    changed = method.aggregate((result.update for result in results), state, server)
    return FederatedState(state.round + 1, state.shared, state.clients).with_shared(changed), results


def population(data):
    return [Client(k, tuple(data.client_counts(k))) for k in range(data.num_clients)]


def finalize(method, data, state):
    """With its training part, in place of the trainer."""

    executor = Serial()
    executor.start(method, data, LocalSettings(0))
    return method.finalize(state, population(data), AllClients(executor, pytest.fail))


def train(method, data, rounds=2, **options):
    state = initial(method, data.num_clients)
    for _ in range(rounds):
        state, results = run_round(method, data, state, **options)
    return state, results


def same(first, second, names=None):
    return all(torch.equal(first[name], second[name]) for name in names or first)


def rounds(executor, method, data, count=2):
    """Some rounds; returns the last state and the results of the last round."""
    method.prepare(torch.Generator().manual_seed(1))
    executor.start(method, data, LocalSettings(7))
    state = initial(method, data.num_clients)
    for number in range(1, count + 1):
        tasks = [ClientTask(client, number, method.phases(2)) for client in range(data.num_clients)]
        results = []
        for result in executor.run(state.shared, state.clients, tasks):
            state.clients[result.update.client] = result.personal
            results.append(result)
        changed = method.aggregate((r.update for r in results), state, torch.Generator().manual_seed(number))
        state = FederatedState(number, state.shared, state.clients).with_shared(changed)
    executor.close()
    return state, results


def begun(executor, data):
    """A started executor's method, the state before the first round, and its tasks."""
    method = build(FedAvg)
    executor.start(method, data, LocalSettings(7))
    tasks = [ClientTask(client, 1, method.phases(2)) for client in range(data.num_clients)]
    return method, initial(method, data.num_clients), tasks


def one_round(executor, method, data):
    """The outcomes of a first round."""
    executor.start(method, data, LocalSettings(7))
    state = initial(method, data.num_clients)
    tasks = [ClientTask(client, 1, method.phases(1)) for client in range(data.num_clients)]
    outcomes = list(executor.run(state.shared, state.clients, tasks))
    executor.close()
    return outcomes
