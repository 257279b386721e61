"""Whole lanes on an emulated device. ``test_emulated_device.py`` runs this in a process of its own."""

import re
import threading

import pytest
import torch
from torch import nn

from cohorts import CAPTURED, five_clients, prepared
from emulated_device import DEVICE, EMULATION, OnDevice
from fedloge.executors import ClientFailure, ClientTask, Cohort, LocalSettings
from fedloge.executors.client import LocalTraining
from fedloge.executors.cuda import executor as cohorts
from fedloge.executors.cuda.capture import Watch
from fedloge.executors.cuda.program import CaptureError, Program
from fedloge.executors.cuda.watchdog import Watchdog
from fedloge.federation.aggregation import weighted_mean
from fedloge.federation.flat import FlatTensors
from fedloge.federation.state import ClientUpdate
from fedloge.methods import CReFF, Ditto, FedAvg, FedBN, FedLoGe, FedNH, FedProx, FedYoYo
from fedloge.system.devices import is_accelerator, upload_all
from harness import initial, same
from imitated_graphs import Graph

WHOLE = FedProx, FedBN, Ditto, FedLoGe, FedNH, CReFF
"""One for each thing that a lane may meet: received weights, personal state, phases, several heads, reports."""

torch.set_num_threads(1)
DATA = five_clients()


@pytest.fixture(autouse=True)
def emulation(monkeypatch):
    """Notes what is done during steps."""

    def marked(work):
        def step(self, size):
            EMULATION.step = True
            try:
                work(self, size)
            finally:
                EMULATION.step = False

        return step

    for name in ("step", "eager"):
        monkeypatch.setattr(Program, name, marked(getattr(Program, name)))
    with EMULATION:
        yield EMULATION


def one_round(method, options=(), device=DEVICE, clients=(0, 1, 2), **executor):
    """A cohort and the outcomes of a round."""
    made = prepared(method, DATA, **dict(options))
    cohort = Cohort(tf32=False, **executor)
    cohort.start(made, DATA, LocalSettings(7, device=device))
    state = initial(made, DATA.num_clients)
    tasks = [ClientTask(client, 1, made.phases(1)) for client in clients]
    return cohort, list(cohort.run(state.shared, state.clients, tasks))


def test_the_device_counts_as_an_accelerator():
    assert is_accelerator(DEVICE)
    assert not is_accelerator(torch.device("cpu"))
    assert not is_accelerator(torch.device("meta"))
    assert is_accelerator(torch.device("cuda", 0))


@pytest.mark.parametrize(("method", "options"), [pair for pair in CAPTURED if pair[0] in WHOLE])
def test_lanes_train_without_waiting_and_as_the_cpu_does(emulation, monkeypatch, method, options):
    waits, turn = [], cohorts.CohortModule._turn

    def counted(self, lane):
        before = len(emulation.waits)
        turn(self, lane)
        waits.extend(emulation.waits[before:])

    monkeypatch.setattr(cohorts.CohortModule, "_turn", counted)
    cohort, found = one_round(method, options, lanes=2)
    assert emulation.faults == []
    assert waits == []
    assert len(cohort.lanes) == 2
    assert all(program.graphs for lane in cohort.lanes for program in lane._programs.values())
    _, expected = one_round(
        method, options, torch.device("cpu"), lanes=1, graphs=False, channels_last=True, batchnorm="cudnn"
    )
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in ((ours.update.tensors, theirs.update.tensors), (ours.personal, theirs.personal)):
            assert list(one) == list(other)
            assert all(type(tensor) is torch.Tensor for tensor in one.values())
            for name, tensor in one.items():
                torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5)


def test_updates_are_averaged_where_they_are_and_the_mean_comes_to_the_host_once(emulation):
    _, found = one_round(FedLoGe, {"gamma": 1.0, "beta": 0.3}.items(), lanes=2)
    updates = [outcome.update for outcome in found]
    assert all(isinstance(buffer, OnDevice) for update in updates for buffer in update.tensors.buffers.values())
    emulation.waits.clear()
    emulation.launched.clear()
    mean = weighted_mean(updates)
    assert emulation.waits == []
    assert emulation.launched.count("aten::_foreach_lerp_") == 2  # the second and the third client
    own = dict(mean)
    assert len(emulation.waits) == len(mean.buffers) == 2
    plain = [ClientUpdate(u.client, dict(u.tensors), u.num_examples, ()) for u in updates]
    assert same(own, weighted_mean(plain))


def test_loading_a_client_is_one_operation_per_type_on_tensors_of_one_layout(emulation):
    cohort, _ = one_round(FedLoGe, {"gamma": 1.0, "beta": 0.3}.items(), lanes=1)
    (lane,) = cohort.lanes
    personal = {name: entry.cpu() for name, entry in lane.method.personal_entries().items()}
    training = lane._training(ClientTask(0, 1, lane.method.phases(1)))
    emulation.launched.clear()
    training.begin(lane.received, upload_all(personal, DEVICE))
    names = [name for name in emulation.launched if name.endswith("copy_")]
    assert names == ["aten::_foreach_copy_"] * 3 + ["aten::copy_"]  # floats, integers, a flag; class counts
    entries = lane.method.state_dict()
    received = {**lane.received.tensors, **lane.received.fixed}
    assert all(tensor.stride() == entries[name].stride() for name, tensor in received.items())


@pytest.mark.parametrize("method", [FedNH, FedYoYo, CReFF, Ditto])
def test_results_of_a_local_training_are_on_the_host(method):
    made = prepared(method, DATA)
    state = initial(made, DATA.num_clients)
    training = LocalTraining(made.to(DEVICE), DATA, 0, ClientTask(0, 1, made.phases(1)), DEVICE)
    training.begin(state.shared, state.clients[0])
    result = training.finish({"ce": torch.ones((), device=DEVICE)}, 2).result()
    tensors = [*result.update.tensors.values(), *result.personal.values(), *result.update.report.values()]
    assert tensors
    assert all(type(tensor) is torch.Tensor for tensor in tensors)


# Each check fails on a planted fault


class Reads(FedAvg):
    def local_losses(self, batch):
        losses = super().local_losses(batch)
        return losses if float(losses["ce"]) < 1e9 else {}


class Masks(FedAvg):
    def local_losses(self, batch):
        images, labels = batch
        return super().local_losses((images[labels < 9], labels[labels < 9]))


class Draws(FedAvg):
    def local_losses(self, batch):
        images, labels = batch
        h = nn.functional.dropout(self.features(images), 0.5)
        return {"ce": nn.functional.cross_entropy(self.head(h), labels)}


class Scales(FedAvg):
    def local_losses(self, batch):
        return {"ce": super().local_losses(batch)["ce"] * torch.ones(())}


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        (Reads, "reads values back"),
        (Masks, "reads values back .index by a mask"),
        (Draws, "draws random numbers"),
        (Scales, "takes a scalar from the host"),
    ],
)
def test_a_step_that_a_graph_could_not_repeat(emulation, method, fault):
    one_round(method, graphs=False)
    assert any(re.match(fault, found) for found in emulation.faults)


class Mixes(FedAvg):
    def local_losses(self, batch):
        return {"ce": (super().local_losses(batch)["ce"] * torch.ones(1)).sum()}


def test_a_tensor_on_the_wrong_device():
    _, outcomes = one_round(Mixes, graphs=False)
    assert all(isinstance(outcome, ClientFailure) for outcome in outcomes)
    assert "Expected all tensors to be on the same device" in outcomes[0].reason


def test_a_host_read_that_the_trial_did_not_see_ends_the_capture(monkeypatch):
    monkeypatch.setattr(Watch, "note", lambda self, obstacle: None)
    with pytest.raises(CaptureError, match=r"not permitted when stream is capturing: .*graphs=false"):
        one_round(Reads)


def test_a_stream_that_does_not_wait_for_another(emulation, monkeypatch):
    monkeypatch.setattr(cohorts, "wait_for", lambda device: None)  # for the received state and for new lanes
    one_round(FedAvg, lanes=2, graphs=False)
    assert any("does not wait for another" in fault for fault in emulation.faults)


def test_results_that_are_read_before_they_arrive(monkeypatch):
    monkeypatch.setattr(cohorts.CohortModule, "on_train_end", lambda self: None)
    _, outcomes = one_round(FedAvg, lanes=2, graphs=False)
    assert all(outcome.update.metrics["loss"] != outcome.update.metrics["loss"] for outcome in outcomes)


def test_a_step_that_does_not_return_ends_the_process(monkeypatch):
    messages, ended = [], threading.Event()

    def end(message):
        messages.append(message)
        ended.set()

    def hang(self):
        if not ended.wait(60):
            raise TimeoutError("the watchdog did not see that a step hangs")

    monkeypatch.setattr(cohorts, "LIMIT", 0.2)
    monkeypatch.setattr(cohorts, "Watchdog", lambda: Watchdog(end))
    monkeypatch.setattr(Graph, "replay", hang)
    one_round(FedAvg, lanes=1, clients=(0,))
    assert len(messages) == 1
    assert "a step on the GPU has not finished" in messages[0]


def test_flat_tensors_of_the_device_are_views_there():
    flat = FlatTensors.of({"weight": torch.ones(2, 3, device=DEVICE)})
    assert isinstance(flat.views()["weight"], OnDevice)
    assert type(flat["weight"]) is torch.Tensor
