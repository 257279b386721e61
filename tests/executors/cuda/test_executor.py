"""A cohort in one fit gives what the serial executor gives: to the bit on a CPU, graphs off or imitated."""

import contextlib
import gc
import logging
import operator
import re
import weakref
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from broken import DivergesAtTwo, FailsAtTwo
from cohorts import CAPTURED, five_clients, prepared
from conftest import tiny_source
from fedloge.data import FederatedDataModule
from fedloge.data.images import TensorImages
from fedloge.errors import ConfigError
from fedloge.executors import ClientFailure, ClientResult, ClientTask, Cohort, LocalSettings, Serial, make_executor
from fedloge.executors.cuda.capture import Watch
from fedloge.executors.cuda.executor import Turns
from fedloge.executors.cuda.program import CaptureError
from fedloge.federation.state import FederatedState
from fedloge.methods import (
    Ditto,
    FedAvg,
    FedAvgFT,
    FedETF,
    FedLoGe,
    FedNH,
    FedPer,
    FedYoYo,
    Phase,
)
from fedloge.methods.base import Client
from fedloge.models import SmallCNN
from fedloge.trainer import FederatedTrainer
from harness import build, dealt, initial, same
from imitated_graphs import Graph, OnCPU, imitate

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = {"cpu": torch.device("cpu"), "cuda": torch.device("cuda", 0)}


@pytest.fixture
def data():
    return five_clients()


def settings(precision="32-true", device="cpu"):
    return LocalSettings(7, accelerator=device, precision=precision, device=DEVICES[device])


def train(executor, method, data, settings, phases=None, rounds=2):
    """Some rounds; returns the last state and the results of all rounds."""
    executor.start(method, data, settings)
    state, everything = initial(method, data.num_clients), []
    for number in range(1, rounds + 1):
        tasks = [ClientTask(client, number, phases or method.phases(2)) for client in range(data.num_clients)]
        results = []
        for result in executor.run(state.shared, state.clients, tasks):
            state.clients[result.update.client] = result.personal
            results.append(result)
        changed = method.aggregate((r.update for r in results), state, torch.Generator().manual_seed(number))
        state = FederatedState(number, state.shared, state.clients).with_shared(changed)
        everything += results
    return state, everything


def assert_same(first, second):
    (state, results), (other_state, other_results) = first, second
    assert same(state.shared.tensors, other_state.shared.tensors)
    assert same(state.shared.fixed, other_state.shared.fixed)
    assert len(results) == len(other_results)
    for one, other in zip(results, other_results, strict=True):
        assert one.update.client == other.update.client
        assert one.update.num_examples == other.update.num_examples
        assert one.update.class_counts == other.update.class_counts
        assert one.update.metrics == other.update.metrics
        for ours, theirs in (
            (one.update.tensors, other.update.tensors),
            (one.update.report, other.update.report),
            (one.personal, other.personal),
        ):
            assert list(ours) == list(theirs)
            assert same(ours, theirs)
            assert all(ours[name].dtype == theirs[name].dtype for name in ours)


def captured(lane):
    """Batch sizes with a graph, by phase."""
    return {key: sorted(program.graphs) for key, program in lane._programs.items() if program.graphs}


def both(method, data, executor, phases=None, **options):
    """What serial gives, and what the executor gives."""
    return [train(one, prepared(method, data, **options), data, settings(), phases) for one in (Serial(), executor)]


class Dropout(FedAvg):
    def local_losses(self, batch):
        images, labels = batch
        features = nn.functional.dropout(self.features(images), 0.5, training=self.training)
        return {"ce": nn.functional.cross_entropy(self.head(features), labels)}


# The same result


@pytest.mark.parametrize(("method", "options"), [*CAPTURED, (FedYoYo, {}), (Dropout, {})])
def test_a_cohort_in_one_fit_gives_what_serial_gives(data, method, options):
    assert_same(*both(method, data, Cohort(lanes=2, graphs=False), **options))


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_the_number_of_lanes_does_not_matter(data, lanes):
    assert_same(*both(FedLoGe, data, Cohort(lanes=lanes, graphs=False), beta=0.3, gamma=1.0))


def test_phases_of_fine_tuning(data):
    """One without epochs, one that comes twice, one that keeps what is shared."""
    phases = [
        Phase("finetune", 0),
        Phase("finetune", 1, ("head",)),
        Phase("train", 1, ("backbone",)),
        Phase("finetune", 2, ("head",), keep=("head", "backbone")),
    ]
    assert_same(*both(FedAvgFT, data, Cohort(lanes=2, graphs=False), phases, finetune_lr=0.1))


def in_precision(precision, executor, data):
    """FedLoGe, whose states are float64 from the start where that is the precision."""
    method = prepared(FedLoGe, data, beta=0.3, gamma=1.0)
    return train(executor, method.double() if precision == "64-true" else method, data, settings(precision))


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precision(data, precision):
    """Weights that autocast has cast are not used again after a step."""
    expected = in_precision(precision, Serial(), data)
    assert_same(expected, in_precision(precision, Cohort(lanes=2, graphs=False), data))
    kind = torch.float64 if precision == "64-true" else torch.float32
    assert {tensor.dtype for tensor in expected[0].shared.tensors.values() if tensor.is_floating_point()} == {kind}


class Decays(FedAvg):
    def learning_rates(self):
        return {"backbone": 0.05 / self.client.round, "head": 0.05 * (self.client.id + 1) / self.client.round**2}


@pytest.mark.parametrize("graphs", [False, True])
def test_learning_rates_that_change(data, imitated, graphs):
    assert_same(*both(Decays, data, OnCPU(lanes=2) if graphs else Cohort(lanes=2, graphs=False)))


def test_pages_smaller_than_an_epoch(data, monkeypatch):
    monkeypatch.setattr("fedloge.executors.cuda.resident.PAGE_BYTES", 8 * 36)
    cohort = Cohort(graphs=False)
    assert_same(*both(FedAvg, data, cohort))
    assert cohort._resident.page_size == 8


def test_images_that_stay_on_the_host(data, monkeypatch):
    monkeypatch.setattr("fedloge.executors.cuda.resident.fits", lambda images, device: False)
    assert_same(*both(FedNH, data, Cohort(graphs=False)))


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_format_changes_nothing_but_rounding(data, channels_last):
    expected, found = both(FedLoGe, data, Cohort(graphs=False, channels_last=channels_last), beta=0.3, gamma=1.0)
    for name, tensor in expected[0].shared.tensors.items():
        torch.testing.assert_close(found[0].shared.tensors[name], tensor)


def test_fits_of_a_few_clients(data, monkeypatch):
    fits = []
    monkeypatch.setattr("fedloge.executors.cuda.executor.WAITING_BYTES", 0)
    monkeypatch.setattr("fedloge.executors.cuda.executor.Turns", lambda count: fits.append(count) or Turns(count))
    assert_same(*both(FedAvg, data, Cohort(lanes=1, graphs=False)))
    assert fits == [4, 1, 4, 1]


def test_the_global_generators_are_left_alone(data):
    method, before = prepared(FedYoYo, data), torch.get_rng_state()
    train(Cohort(lanes=2, graphs=False), method, data, settings(), rounds=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_results_outlive_the_next_round(data):
    cohort, method = Cohort(lanes=2, graphs=False), prepared(FedPer, data)
    _, results = train(cohort, method, data, settings())
    copies = [{name: tensor.clone() for name, tensor in result.update.tensors.items()} for result in results]
    personal = [result.personal["head.weight"] for result in results]
    train(cohort, method, data, settings(), rounds=1)
    assert all(same(copy, result.update.tensors) for copy, result in zip(copies, results, strict=True))
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in personal)  # not a view of all that was sent


def one_round(executor, method, data, attempts=1):
    executor.start(method, data, replace(settings(), attempts=attempts))
    state = initial(method, data.num_clients)
    tasks = [ClientTask(client, 1, method.phases(2)) for client in range(data.num_clients)]
    return list(executor.run(state.shared, state.clients, tasks))


@pytest.mark.parametrize("method", [FailsAtTwo, DivergesAtTwo])
@pytest.mark.parametrize("attempts", [1, 2])
def test_clients_that_fail_do_not_touch_the_others(data, method, attempts):
    expected = one_round(Serial(), prepared(method, data), data, attempts)
    found = one_round(Cohort(lanes=2, graphs=False), prepared(method, data), data, attempts)
    assert isinstance(found[2], ClientFailure)
    assert (found[2].client, found[2].reason) == (expected[2].client, expected[2].reason)
    assert ("in local_losses" in found[2].details) == (method is FailsAtTwo)
    del expected[2], found[2]
    for one, other in zip(expected, found, strict=True):
        assert one.update.client == other.update.client
        assert same(one.update.tensors, other.update.tensors)


def test_a_client_is_tried_again(data):
    class Stumbles(FedAvg):
        stumbled: ClassVar[list[int]] = []

        def local_losses(self, batch):
            if self.client.id in (1, 3) and self.client.id not in self.stumbled:
                self.stumbled.append(self.client.id)
                raise ArithmeticError("no loss today")
            return super().local_losses(batch)

    found = one_round(Cohort(lanes=2, graphs=False), prepared(Stumbles, data), data, attempts=2)
    assert Stumbles.stumbled in ([1, 3], [3, 1])
    for one, other in zip(one_round(Serial(), prepared(FedAvg, data), data), found, strict=True):
        assert same(one.update.tensors, other.update.tensors)


@pytest.fixture
def interrupted():
    """A method whose sixth step, of all its copies together, is interrupted."""

    class Interrupted(FedAvg):
        steps = 0

        def local_losses(self, batch):
            Interrupted.steps += 1
            if Interrupted.steps == 6:
                raise KeyboardInterrupt
            return super().local_losses(batch)

    return Interrupted


def test_an_interrupt_leaves_nothing_behind(data, interrupted):
    cohort, method = Cohort(lanes=3, graphs=False), prepared(interrupted, data)
    with pytest.raises(KeyboardInterrupt):
        one_round(cohort, method, data)
    state = initial(method, data.num_clients)
    tasks = [ClientTask(client, 1, method.phases(2)) for client in range(data.num_clients)]
    found = list(cohort.run(state.shared, state.clients, tasks))
    for one, other in zip(one_round(Serial(), prepared(FedAvg, data), data), found, strict=True):
        assert same(one.update.tensors, other.update.tensors)


def test_a_client_is_a_batch_and_the_largest_comes_first(data, monkeypatch):
    steps, order = [], []
    monkeypatch.setattr(
        "fedloge.executors.cuda.executor.CohortModule.on_train_batch_end",
        lambda self, *_: steps.append(1),
        raising=False,
    )

    class Tells(FedAvg):
        def phases(self, local_epochs):
            return (Phase("train", 1),)

        def begin(self, client, shared, personal):
            order.append(client.num_examples)
            super().begin(client, shared, personal)

    train(Cohort(graphs=False), prepared(Tells, data), data, settings(), rounds=1)
    assert len(steps) == data.num_clients
    assert order == sorted(order, reverse=True)


# Graphs, imitated


@pytest.mark.parametrize("last_batch", ["keep", "merge", "drop"])
@pytest.mark.parametrize("executor", [Cohort, OnCPU])
def test_batches_of_one_image(imitated, executor, last_batch):
    data = dealt([9, 5, 1, 8, 4], batch_size=4, auxiliary=3, last_batch=last_batch)
    cohort = executor(lanes=2, graphs=False)
    assert_same(*both(FedETF, data, cohort, projection="batchnorm"))
    sizes = {"keep": [1, 4], "merge": [1, 4, 5], "drop": [1, 4]}[last_batch]
    found = {size for lane in cohort.lanes for own in captured(lane).values() for size in own}
    assert sorted(found) == (sizes if executor is OnCPU else [])


@pytest.mark.parametrize(("method", "options"), CAPTURED)
def test_replayed_steps_give_what_serial_gives(data, imitated, method, options):
    cohort = OnCPU(lanes=2)
    assert_same(*both(method, data, cohort, **options))
    assert all(captured(lane) for lane in cohort.lanes)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_replayed_steps_in_another_precision(data, imitated, precision):
    assert_same(*(in_precision(precision, executor, data) for executor in (Serial(), OnCPU(lanes=2))))


def test_phases_that_come_later_and_clients_that_come_again(data, imitated):
    """Two cohorts that overlap, then fine-tuning of all, by the same executor."""
    runs = [((0, 3), None), ((3, 1, 4), None), (range(5), [Phase("finetune", 2, ("head",), keep=("head",))])]
    found = []
    for executor in (Serial(), OnCPU(lanes=2)):
        method = prepared(FedAvgFT, data, finetune_lr=0.1)
        executor.start(method, data, settings())
        state, results = initial(method, data.num_clients), []
        for number, (cohort, phases) in enumerate(runs, 1):
            tasks = [ClientTask(client, number, phases or method.phases(1)) for client in cohort]
            results += executor.run(state.shared, state.clients, tasks)
        found.append((state, results))
    assert_same(*found)


def test_a_graph_per_phase_and_batch_size_used_by_all_clients_and_rounds(data, imitated, monkeypatch):
    made = []
    imitate(monkeypatch, CUDAGraph=lambda: made.append(Graph()) or made[-1])
    cohort, method = OnCPU(lanes=1), prepared(Ditto, data)
    train(cohort, method, data, settings(), rounds=3)
    sizes = {size for k in range(5) for size in (4, sum(data.client_counts(k)) % 4) if size}
    assert len(sizes) > 1
    assert len(made) == 2 * len(sizes)
    assert [set(found) for found in captured(cohort.lanes[0]).values()] == [sizes, sizes]


def test_all_sizes_of_the_population_are_captured_before_the_first_client(data, imitated):
    cohort, method = OnCPU(lanes=2), prepared(FedAvg, data)
    cohort.start(method, data, settings())
    state = initial(method, data.num_clients)
    list(cohort.run(state.shared, state.clients, [ClientTask(client, 1, method.phases(1)) for client in (0, 1)]))
    sizes = {size for k in range(5) for size in (4, sum(data.client_counts(k)) % 4) if size}
    assert [set(found) for lane in cohort.lanes for found in captured(lane).values()] == [sizes, sizes]


class RefusesThree(FedAvg):
    def local_losses(self, batch):
        if len(batch[1]) == 3:
            raise ValueError("three images")
        return super().local_losses(batch)


def test_a_batch_size_whose_step_fails_is_the_failure_of_its_clients_only(data, imitated):
    expected = one_round(Serial(), prepared(RefusesThree, data), data)
    cohort = OnCPU(lanes=2)
    found = one_round(cohort, prepared(RefusesThree, data), data)
    assert [type(outcome) for outcome in found] == [type(outcome) for outcome in expected]
    assert {ClientFailure, ClientResult} == set(map(type, found))
    assert all(sizes and 3 not in sizes for lane in cohort.lanes for sizes in captured(lane).values())


def test_learning_rates_change_without_another_capture(data, imitated, monkeypatch):
    made = []
    imitate(monkeypatch, CUDAGraph=lambda: made.append(Graph()) or made[-1])
    cohort = OnCPU(lanes=1)
    train(cohort, prepared(Decays, data), data, settings(), rounds=1)
    before = len(made)
    train(cohort, prepared(Decays, data), data, settings(), rounds=3)
    assert len(made) == 2 * before
    (program,) = cohort.lanes[0]._programs.values()
    assert [float(group["lr"]) for group in program.optimizer.param_groups] == [
        0.05 / 3,
        0.05 * program_client(cohort) / 9,
    ]


def program_client(cohort):
    return cohort.lanes[0].method.client.id + 1


def test_a_graph_that_holds_an_old_learning_rate_is_dropped_when_it_has_finished(data, imitated, monkeypatch):
    """Gradients in another layout than their parameters: the rate is a number then, which a graph keeps."""
    pools = []
    imitate(monkeypatch, graph_pool_handle=lambda: pools.append(len(pools)) or pools[-1])
    monkeypatch.setattr("fedloge.methods.base._can_be_fused", lambda parameter: False)
    assert_same(*both(Decays, data, OnCPU(lanes=2)))
    assert len(pools) > 2


def test_no_graph_counts_batches(data, imitated):
    cohort = OnCPU(lanes=1)
    train(cohort, prepared(FedAvg, data), data, settings(), rounds=1)
    (program,) = cohort.lanes[0]._programs.values()
    (counter,) = [b for name, b in cohort.lanes[0].method.named_buffers() if name.endswith("num_batches_tracked")]
    for step in program.graphs.values():
        assert [(held is counter, times) for held, times in step.counters] == [(True, 1)]
        assert not any(argument is counter for _, arguments, _, _ in step.graph.calls for argument in arguments)


def test_replays_of_a_client_that_failed_are_not_counted(data, imitated):
    cohort = OnCPU(lanes=1)
    train(cohort, prepared(FedAvg, data), data, settings(), rounds=1)
    (program,) = cohort.lanes[0]._programs.values()
    program.step(4)
    program.reset()
    before = cohort.lanes[0].method.state_dict()
    counts = {name: int(entry) for name, entry in before.items() if name.endswith("num_batches_tracked")}
    program.finish()
    assert {name: int(before[name]) for name in counts} == counts


@contextlib.contextmanager
def no_garbage_collection():
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def held_by(cohort):
    """Weak references to what a cohort has on the device; on a CPU the images are the data module's."""
    parts = [cohort._resident]
    parts += [tensor for part in cohort._received.__dict__.values() for tensor in part.values()]
    for lane in cohort.lanes:
        parts += [lane, lane.images, lane.method, *lane.method.parameters(), *lane._programs.values()]
        parts += [graph for program in lane._programs.values() for graph in program.graphs.values()]
    return [weakref.ref(part) for part in parts]


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("again", ["close", "start"])
def test_what_is_given_back_is_free_at_once(data, imitated, graphs, again):
    cohort, method = OnCPU(lanes=2) if graphs else Cohort(lanes=2, graphs=False), prepared(Ditto, data)
    with no_garbage_collection():
        train(cohort, method, data, settings())
        held = held_by(cohort)
        assert all(ref() is not None for ref in held)
        if again == "close":
            cohort.close()
        else:
            cohort.start(method, data, settings())
        assert [ref() for ref in held if ref() is not None] == []


def test_what_an_interrupted_fit_held_is_free_at_once(data, interrupted):
    cohort = Cohort(lanes=3, graphs=False)
    with no_garbage_collection():
        try:
            one_round(cohort, prepared(interrupted, data), data)
        except KeyboardInterrupt:
            held = held_by(cohort)
        cohort.close()
        assert [ref() for ref in held if ref() is not None] == []


@pytest.mark.parametrize("method", [FedYoYo, Dropout])
def test_what_cannot_be_captured_is_trained_eagerly_and_told_once(data, imitated, method, caplog):
    cohort = OnCPU(lanes=3)
    with caplog.at_level(logging.WARNING):
        assert_same(*both(method, data, cohort))
    assert len(cohort.lanes) == 1
    assert not captured(cohort.lanes[0])
    assert sum("without CUDA graphs" in record.message for record in caplog.records) == 1


@pytest.fixture
def failing(monkeypatch, imitated):
    """Captures fail, and leave the device unusable."""

    @contextlib.contextmanager
    def fail(graph, **options):
        yield
        monkeypatch.setattr(torch.cuda, "empty_cache", unusable)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    def unusable():
        raise RuntimeError("the device is in a capture")

    imitate(monkeypatch, graph=fail)


def test_a_capture_that_fails_ends_the_run_with_the_remedy(data, failing):
    cohort = OnCPU(lanes=3)
    with pytest.raises(CaptureError) as raised:
        train(cohort, prepared(FedLoGe, data, beta=0.3, gamma=1.0), data, settings())
    assert re.fullmatch(
        r"the step of FedLoGe for \d images cannot be captured in a CUDA graph "
        r"\(RuntimeError: operation not permitted when stream is capturing\), .* "
        r"--trainer\.executor=cuda --trainer\.executor\.graphs=false; `fedloge resume` continues .*",
        str(raised.value),
    )
    cohort.close()  # leaves the device alone


def test_a_run_whose_capture_failed_can_be_resumed(tmp_path, make_data, failing, monkeypatch):
    options = {"rounds": 1, "local_epochs": 1, "accelerator": "cpu", "run_dir": str(tmp_path / "run")}
    with pytest.raises(CaptureError, match="graphs=false"):
        FederatedTrainer(executor=OnCPU(), **options).fit(build(FedAvg), datamodule=make_data())
    monkeypatch.undo()
    FederatedTrainer(executor=Cohort(graphs=False), **options).fit(
        build(FedAvg), datamodule=make_data(), ckpt_path="last"
    )
    assert (tmp_path / "run" / "summary.json").is_file()


class SkipsTheUpdate(Graph):
    skipped = torch.ops.aten._fused_sgd_.tensor_lr


class ReadsOneBatch(Graph):
    skipped = torch.ops.aten.index_select.default


class SumsNoLosses(Graph):
    skipped = torch.ops.aten._foreach_add_.List


class MovesNoStatistics(Graph):
    skipped = torch.ops.aten.native_batch_norm.default


def leave_out(graph):
    graph.calls = [call for call in graph.calls if call[0] is not graph.skipped]


@pytest.mark.parametrize("fault", [SkipsTheUpdate, ReadsOneBatch, SumsNoLosses, MovesNoStatistics])
def test_a_replay_that_differs_from_eager_steps_is_not_used(data, imitated, monkeypatch, caplog, fault):
    def replay(self):
        leave_out(self)
        Graph.replay(self)

    monkeypatch.setattr(fault, "replay", replay)
    imitate(monkeypatch, CUDAGraph=fault)
    cohort = OnCPU(lanes=3)
    with caplog.at_level(logging.WARNING):
        assert_same(*both(FedAvg, data, cohort))
    (record,) = caplog.records
    assert re.search(
        r"one client at a time: its step deviates by \S+ of its effect when it is replayed", record.message
    )
    assert len(cohort.lanes) == 1


class Branches(FedAvg):
    def local_losses(self, batch):
        losses = super().local_losses(batch)
        return losses if losses["ce"] < 1 else {"ce": 2 * losses["ce"]}


class Masks(FedAvg):
    def local_losses(self, batch):
        images, labels = batch
        return super().local_losses((images[labels < 2], labels[labels < 2]))


class MakesTensors(FedAvg):
    def local_losses(self, batch):
        return {"ce": super().local_losses(batch)["ce"] * torch.tensor([2.0]).sum()}


class ReadsClient(FedAvg):
    def local_losses(self, batch):
        return {"ce": super().local_losses(batch)["ce"] * self.client.round}


class KeepsTensors(FedAvg):
    def begin(self, client, shared, personal):
        super().begin(client, shared, personal)
        self.weights = torch.full((), float(client.id))

    def local_losses(self, batch):
        return {"ce": super().local_losses(batch)["ce"] * self.weights}


class CountsSteps(FedAvg):
    steps = 0

    def local_losses(self, batch):
        self.steps += 1
        return super().local_losses(batch)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Branches, "reads values back"),
        (Masks, "selects by a mask"),
        (MakesTensors, "makes a tensor of Python values"),
        (ReadsClient, r"reads self\.client\.round"),
        (CountsSteps, "changes steps"),
        (KeepsTensors, "follows a begin of its own"),
        (Dropout, "draws random numbers"),
    ],
)
def test_why_a_step_cannot_be_captured(data, imitated, method, reason, caplog):
    with caplog.at_level(logging.WARNING):
        train(OnCPU(), prepared(method, data), data, settings(), rounds=1)
    assert caplog.records[0].message.startswith(f"{method.__name__} is trained without CUDA graphs")
    assert re.search(f"its step {reason}", caplog.records[0].message)


def watched(method, data):
    """What stands against capturing a step, on a device without values in the place of a GPU."""
    state, client = initial(method, data.num_clients), Client(0, tuple(map(int, data.client_counts(0))), 1)
    method.begin(client, state.shared, state.clients[0])
    method.to("meta").on_fit_start()
    found = []
    for phase in method.phases(1):
        method.begin_phase(phase)
        optimizer = method.configure_optimizers()
        watch = Watch(method)
        for look_on in (contextlib.nullcontext(), watch):
            with look_on:
                batch = torch.zeros(4, 1, 6, 6, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
                optimizer.zero_grad()
                torch.stack(tuple(method.local_losses(batch).values())).sum().backward()
                optimizer.step()
        found.append(watch.obstacle)
    return found


@pytest.mark.parametrize(("method", "options"), CAPTURED)
def test_no_step_mixes_host_and_device(data, method, options):
    assert set(watched(prepared(method, data, **options), data)) == {None}


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_step_that_takes_a_factor_from_the_host_cannot_be_captured(data, shape):
    class Anneals(FedAvg):
        def on_fit_start(self):
            super().on_fit_start()
            self.factor = torch.ones(shape)

        def local_losses(self, batch):
            self.factor.mul_(0.9)
            factor = self.factor.to(self.device) if shape else self.factor
            return {"ce": (super().local_losses(batch)["ce"] * factor).sum()}

    assert watched(prepared(Anneals, data), data) == ["copies between host and device"]


# What a GPU may do


@pytest.fixture
def arithmetic():
    """Torch's settings are as they were afterwards."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def allowed():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_for_the_fit_alone(data, arithmetic, tf32):
    cohort, before = Cohort(tf32=tf32, benchmark=True), allowed()
    cohort.start(build(FedAvg), data, settings(device="cuda"))
    with cohort._arithmetic():
        assert allowed() == ("high" if tf32 else "highest", tf32, True)
    assert allowed() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has no fp32_precision")
@pytest.mark.parametrize(("backend", "value"), [("cudnn.conv", "ieee"), ("cuda.matmul", "tf32")])
def test_what_fp32_precision_says_stands(data, arithmetic, backend, value):
    backend = operator.attrgetter(backend)(torch.backends)
    backend.fp32_precision = value
    cohort = Cohort()
    cohort.start(build(FedAvg), data, settings(device="cuda"))
    with cohort._arithmetic():
        assert backend.fp32_precision == value
    assert backend.fp32_precision == value


@pytest.mark.parametrize(("batchnorm", "enabled"), [("native", False), ("cudnn", True)])
def test_the_library_of_batchnorm(data, batchnorm, enabled):
    seen = []

    class Looks(FedAvg):
        def features(self, images, view="global"):
            (layer,) = [layer for layer in self.modules() if isinstance(layer, nn.BatchNorm2d)]
            with layer.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.enabled), prepend=True):
                features = super().features(images, view)
            assert torch.backends.cudnn.enabled
            return features

    assert_same(*both(Looks, data, Cohort(graphs=False, batchnorm=batchnorm)))
    assert seen[: len(seen) // 2] == [True] * (len(seen) // 2)  # serial
    assert seen[len(seen) // 2 :] == [enabled] * (len(seen) // 2)


# What is refused, and what auto takes


def test_bad_input(data):
    with pytest.raises(ConfigError, match=r"trainer\.executor\.lanes=0 must be at least 1"):
        Cohort(lanes=0)
    with pytest.raises(ConfigError, match=r"trainer\.executor\.batchnorm='mine'"):
        Cohort(batchnorm="mine")
    with pytest.raises(ConfigError, match="captures CUDA graphs, but the device is cpu"):
        Cohort().start(build(FedAvg), data, settings())
    with pytest.raises(ConfigError, match="but the precision is 16-mixed"):
        Cohort(graphs=False).start(build(FedAvg), data, settings("16-mixed"))

    class Own(FedAvg):
        def on_before_optimizer_step(self, optimizer):
            pass

    with pytest.raises(ConfigError, match="does not call on_before_optimizer_step, which Own overrides"):
        Cohort(graphs=False).start(build(Own), data, settings())
    data.client_loader = lambda *args, **kwargs: []
    with pytest.raises(ConfigError, match="serves clients by a list"):
        train(Cohort(graphs=False), prepared(FedAvg, data), data, settings())


def test_a_precision_that_bends_the_gradient_is_refused(data, monkeypatch):
    monkeypatch.setattr("fedloge.executors.cuda.executor.LEAST_COSINE", 1.1)
    with pytest.raises(ConfigError, match=r"trainer\.precision='bf16-mixed' bends the gradient"):
        train(Cohort(graphs=False), prepared(FedAvg, data), data, settings("bf16-mixed"))


@pytest.mark.parametrize(("step", "lanes"), [(1, 1), (2, 1), (7, 1), (10, 2)])
def test_too_little_memory_in_a_trial_or_in_a_capture(data, imitated, step, lanes):
    """A trial is three eager steps, three to warm up, the one that is captured, and two to compare its replays with."""

    class NeedsMuch(FedAvg):
        steps = 0

        def local_losses(self, batch):
            NeedsMuch.steps += 1
            if NeedsMuch.steps == step:
                raise torch.OutOfMemoryError("out of memory")
            return super().local_losses(batch)

    with pytest.raises(ConfigError, match=rf"lanes={lanes} do not fit in the device's memory\. Ask for fewer"):
        one_round(OnCPU(lanes=2), prepared(NeedsMuch, data), data)


def stumbling(steps):
    class Stumbles(FedAvg):
        taken = 0

        def local_losses(self, batch):
            Stumbles.taken += 1
            if Stumbles.taken <= steps:
                raise ValueError("no loss today")
            return super().local_losses(batch)

    return Stumbles


def test_a_trial_that_fails_does_not_hide_a_bent_gradient(data, monkeypatch):
    monkeypatch.setattr("fedloge.executors.cuda.executor.LEAST_COSINE", 1.0)
    with pytest.raises(ConfigError, match="bends the gradient"):
        train(Cohort(graphs=False), prepared(stumbling(1), data), data, settings("bf16-mixed"))


def test_a_precision_that_no_client_could_tell_of_is_tried_in_the_next_cohort(data, monkeypatch):
    monkeypatch.setattr("fedloge.executors.cuda.executor.LEAST_COSINE", 1.0)
    cohort, method = Cohort(graphs=False), prepared(stumbling(2), data)
    cohort.start(method, data, settings("bf16-mixed"))
    state, task = initial(method, data.num_clients), ClientTask(0, 1, method.phases(1))
    (failure,) = cohort.run(state.shared, state.clients, [task])
    assert failure.reason == "ValueError: no loss today"
    with pytest.raises(ConfigError, match="bends the gradient"):
        list(cohort.run(state.shared, state.clients, [task]))


def test_a_trial_that_fails_does_not_stand_against_graphs(data, imitated):
    cohort = OnCPU(lanes=2)
    found = one_round(cohort, prepared(stumbling(1), data), data)
    assert all(captured(lane) for lane in cohort.lanes)
    for one, other in zip(one_round(Serial(), prepared(FedAvg, data), data), found, strict=True):
        assert same(one.update.tensors, other.update.tensors)


def test_auto_on_a_gpu(data):
    class Own(FedAvg):
        def training_step(self, batch, batch_idx):
            pass

    assert isinstance(make_executor("auto", 0, build(FedAvg), settings(device="cuda")), Cohort)
    assert isinstance(make_executor("auto", 0, build(FedAvg), settings("16-mixed", "cuda")), Serial)
    assert isinstance(make_executor("auto", 0, build(Own), settings(device="cuda")), Serial)


def test_a_training_set_on_the_device_is_served_in_order_too(data):
    from fedloge.executors.cuda.resident import Resident

    resident = Resident(data.client_loader(0, seed=0, round=1), torch.device("cpu"))
    assert isinstance(resident.images, TensorImages)
    for (images, labels), (expected, expected_labels) in zip(
        resident.in_order(data.client_batches(3)), data.client_batches(3), strict=True
    ):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


# On a GPU


@pytest.fixture
def float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def close(first, second):
    for name, tensor in first.shared.tensors.items():
        torch.testing.assert_close(second.shared.tensors[name], tensor, rtol=1e-2, atol=1e-3)


@gpu
@needs_gpu
@pytest.mark.parametrize(("method", "options"), [*CAPTURED, (FedYoYo, {}), (Dropout, {})])
def test_the_gpu_gives_what_serial_gives(data, float32, method, options):
    expected = train(Serial(), prepared(method, data, **options), data, settings(device="cuda"))
    cohort = Cohort(tf32=False)
    found = train(cohort, prepared(method, data, **options), data, settings(device="cuda"))
    close(expected[0], found[0])
    assert [r.update.client for r in found[1]] == [r.update.client for r in expected[1]]
    for one, other in zip(expected[1], found[1], strict=True):
        assert other.update.metrics == pytest.approx(one.update.metrics, rel=1e-2)
    assert all(captured(lane) for lane in cohort.lanes) == (method not in (FedYoYo, Dropout))


@gpu
@needs_gpu
def test_graphs_on_the_gpu_are_as_many_as_batch_sizes(data):
    cohort = Cohort(lanes=1)
    train(cohort, prepared(FedLoGe, data, beta=0.3, gamma=1.0), data, settings(device="cuda"), rounds=3)
    sizes = {size for k in range(5) for size in (4, sum(data.client_counts(k)) % 4) if size}
    assert [set(found) for found in captured(cohort.lanes[0]).values()] == [sizes]


@gpu
@needs_gpu
def test_the_host_does_not_wait_between_the_first_and_the_last_step(data, monkeypatch):
    from fedloge.executors.cuda import executor as cuda

    cohort, method = Cohort(lanes=2), prepared(FedLoGe, data, beta=0.3, gamma=1.0)
    train(cohort, method, data, settings(device="cuda"))  # makes the graphs
    turn = cuda.CohortModule._turn

    def strict(self, lane):
        torch.cuda.set_sync_debug_mode("error")
        try:
            turn(self, lane)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(cuda.CohortModule, "_turn", strict)
    state = initial(method, data.num_clients)
    tasks = [ClientTask(client, 1, method.phases(2)) for client in range(data.num_clients)]
    outcomes = list(cohort.run(state.shared, state.clients, tasks))
    assert [type(outcome) for outcome in outcomes] == [ClientResult] * data.num_clients


@gpu
@needs_gpu
def test_memory_does_not_grow_with_the_rounds(data):
    cohort, method = Cohort(lanes=2), prepared(Ditto, data)
    cohort.start(method, data, settings(device="cuda"))
    used = []
    for number in range(1, 5):
        state = initial(method, data.num_clients)
        tasks = [ClientTask(client, number, method.phases(1)) for client in range(data.num_clients)]
        assert all(isinstance(outcome, ClientResult) for outcome in cohort.run(state.shared, state.clients, tasks))
        used.append(torch.cuda.memory_allocated())
    assert used[1] == used[2] == used[3]
    cohort.close()
    assert torch.cuda.memory_allocated() < used[-1]


@gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_tf32_and_bf16_learn_as_float32_does(precision):
    source = tiny_source(per_class=60, size=8)
    data = FederatedDataModule(source, num_clients=3, imbalance_factor=2, batch_size=8, alpha=10.0)
    data.setup()
    losses = {}
    for name, executor, kind in (("float32", Serial(), "32-true"), ("other", Cohort(), precision)):
        method = FedAvg(SmallCNN((16, 32), in_channels=1), 3)
        method.load_state_dict(losses.setdefault("start", {k: v.clone() for k, v in method.state_dict().items()}))
        _, results = train(executor, method, data, settings(kind, "cuda"), rounds=10)
        losses[name] = sum(result.update.metrics["loss"] for result in results[-3:]) / 3
    assert losses["other"] == pytest.approx(losses["float32"], rel=0.2, abs=0.02)
