"""The hooks of a method that none of the usual ones needs all of, in one method that uses them all."""

import pytest
import torch
from torch import nn

from fedloge.executors import ClientTask, LocalSettings, Processes, Serial
from fedloge.executors.cuda import Cohort
from fedloge.federation.round import AllClients, start_tasks, survey
from fedloge.federation.state import num_bytes
from fedloge.methods import FedAvg, Phase
from harness import build, initial, run_round, same
from tiny_runs import run_tiny


class Everything(FedAvg):
    """FedAvg that counts visits at home, notes the order of its examples, and is asked twice in a round."""

    personal = ("visits",)
    renewed = ("asked", "own")
    server = ("bank",)
    indexed = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for name in ("visits", "asked", "own"):
            self.register_buffer(name, torch.zeros(()))
        self.bank = nn.Parameter(torch.zeros(1000))

    def phases(self, local_epochs):
        return (Phase("train", local_epochs, ("backbone", "head"), keep=("head",)),)

    def survey(self, batches):
        return {"size": torch.tensor(float(sum(len(labels) for _, labels in batches)))}

    def answer(self, surveys, state, generator):
        return {"asked": sum(update.report["size"] for update in surveys)}

    def downlink(self, state, client):
        return {"own": torch.tensor(float(10 * state.round + client))}

    def before_training(self, batches):
        assert "backbone.stages.0.weight" not in self.client.memory
        previous = self.client.memory.get("note/steps", torch.zeros(1))
        self.client.memory["note/steps"] = torch.cat([previous, torch.tensor([float(self.client.steps)])])

    def local_losses(self, batch):
        images, labels, positions = batch
        assert len(positions.unique()) == len(labels)
        return super().local_losses((images, labels))

    def after_training(self, batches):
        self.visits += 1 + self.own

    def report_trained(self, batches):
        return {
            "asked": self.asked.clone(),
            "batch": torch.tensor(self.client.batch_size),
        }

    def aggregate(self, updates, state, generator):
        return {**super().aggregate(updates, state, generator), "bank": state.shared.fixed["bank"] + 1}

    def finalize(self, state, population, train=None):
        if train is None:
            return state
        sizes = [update.report["size"] for update in train.survey(state)]
        return state.with_shared({"asked": -sum(sizes)})


def test_every_hook_has_its_effect(data):
    """Sizes are reported before the training; client k receives 10·round + k, counts 1 + that, and keeps its notes."""
    method = build(Everything)
    sizes = [sum(data.client_counts(k)) for k in range(3)]
    state, results = run_round(method, data, initial(method, 3))
    assert [result.update.report["asked"].item() for result in results] == [sum(sizes)] * 3
    state, results = run_round(method, data, state, cohort=[0, 2])
    assert [result.update.report["asked"].item() for result in results] == [sizes[0] + sizes[2]] * 2
    assert [state.clients[k]["visits"].item() for k in range(3)] == [1 + 0 + 1 + 10, 1 + 1, 1 + 2 + 1 + 12]
    steps = [2 * len(data.client_loader(k, seed=0, round=1)) for k in range(3)]
    notes = [state.clients[k]["note/steps"].tolist() for k in range(3)]
    assert notes == [[0, steps[0], steps[0]], [0, steps[1]], [0, steps[2], steps[2]]]
    assert {int(result.update.report["batch"]) for result in results} == {data.batch_size}
    assert "head.weight" in state.clients[0]
    assert not same(state.clients[0], {**state.clients[0], **state.shared.tensors}, ["head.weight"])


def test_positions_are_those_of_the_client_in_order(data):
    loader = data.client_loader(1, seed=0, round=1)
    loader.indexed = True
    found = torch.cat([positions for _, _, positions in loader])
    labels = torch.cat([labels for _, labels in data.client_batches(1)])
    assert sorted(found.tolist()) == list(range(sum(data.client_counts(1))))
    assert all(torch.equal(labels[positions], own) for _, own, positions in loader)


def outcomes(executor, data):
    method = build(Everything)
    executor.start(method, data, LocalSettings(7))
    state = initial(method, 3)
    tasks = [ClientTask(client, 1, method.phases(2)) for client in range(3)]
    try:
        surveys = [update.report for update in survey(executor, state, range(3), pytest.fail)]
        return surveys, list(start_tasks(executor, state, tasks))
    finally:
        executor.close()


@pytest.mark.parametrize("executor", [lambda: Processes(2), lambda: Cohort(graphs=False, channels_last=False)])
def test_every_executor_does_the_same(data, executor):
    expected, found = outcomes(Serial(), data), outcomes(executor(), data)
    assert all(same(one, other) for one, other in zip(expected[0], found[0], strict=True))
    for one, other in zip(expected[1], found[1], strict=True):
        assert same(one.update.tensors, other.update.tensors)
        assert same(one.update.report, other.update.report)
        assert one.personal.keys() == other.personal.keys()
        assert same(one.personal, other.personal)


def test_what_the_server_keeps_costs_clients_nothing(data):
    method = build(Everything)
    state = initial(method, 3)
    assert "bank" not in method.broadcast(state.shared).fixed
    with method.without_server_entries():
        inside = num_bytes(method.state_dict())
    assert num_bytes(method.state_dict()) - inside == 4 * 1000
    assert build(FedAvg).broadcast(state.shared) is state.shared


def test_finalize_can_ask_all_clients(data):
    method, executor = build(Everything), Serial()
    executor.start(method, data, LocalSettings(0))
    clients, state = AllClients(executor, pytest.fail), initial(method, 3)
    final = method.finalize(state, [], clients)
    assert final.shared.fixed["asked"].item() == -sum(data.class_counts)
    down = num_bytes(state.shared.tensors) + 2 * 4  # and what is renewed
    assert clients.exchanged == {"bytes_up": 3 * 4, "bytes_down": 3 * down}


def test_it_resumes_exactly(tmp_path):
    whole = run_tiny(tmp_path / "whole", method=build(Everything), rounds=3)
    run_tiny(tmp_path / "split", method=build(Everything), rounds=2)
    split = run_tiny(tmp_path / "split", method=build(Everything), rounds=3, ckpt_path="last")
    first, second = (trainer.progress.state for trainer in (whole, split))
    assert same({**first.shared.tensors, **first.shared.fixed}, {**second.shared.tensors, **second.shared.fixed})
    assert all(same(first.clients[k], second.clients[k]) for k in range(3))
