import importlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.clock import Clock
from benchmarks.contenders import CONTENDERS, UnavailableError
from benchmarks.contenders.fedloge import exchanges_of_executor
from benchmarks.prepare import prepare, real
from benchmarks.problem import Problem
from benchmarks.run import environment
from benchmarks.workloads import WORKLOADS, Federation, for_gate, quick
from fedloge.data.images import TensorImages
from fedloge.data.sources.base import Dataset
from fedloge.errors import DataError


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """The gate's inputs of a workload, with the smallest network."""

    def make(name, **changes):
        folder = tmp_path_factory.mktemp(name)
        federation = replace(for_gate(quick(WORKLOADS[name])), num_clients=3, **changes)
        prepare(folder, WORKLOADS[name].kind, federation)
        return Problem(folder)

    return make


def work(problem, name, repetitions=1):
    module = importlib.import_module(f"benchmarks.contenders.{CONTENDERS[name].module}")
    clock = Clock()
    result = module.run(problem, CONTENDERS[name].options, repetitions, clock)
    assert len(clock.ticks) == 1 + (repetitions if name != "reference" else 0)
    return {key: value for key, value in result.items() if not key.startswith("details/")}


def difference(first, second):
    assert {*first} ^ {*second} <= {"check/images"}
    return max(float(np.abs(first[key] - second[key]).max()) for key in {*first} & {*second})


@pytest.mark.parametrize("workload", ["cpu-mini", "cpu-r20"])  # FedAvg and FedLoGe
def test_a_round_is_the_references(problem, workload):
    inputs = problem(workload)
    reference = work(inputs, "reference")
    changed = [
        key for key in reference if key in inputs.initial and np.any(reference[key] != inputs.initial[key].numpy())
    ]
    assert len(changed) > 20
    for name in ("fedloge-serial", "naive"):
        assert difference(work(inputs, name), reference) < 1e-5


def test_local_steps_are_the_references(problem):
    inputs = problem("step")
    reference = work(inputs, "reference")
    assert {name.partition("/")[0] for name in reference} == {"0", "1", "2"}
    assert all(np.any(reference[f"{client}/psi.weight"] != inputs.initial["psi.weight"].numpy()) for client in range(3))
    for name in ("plain", "local-step", "fedloge-serial"):
        assert difference(work(inputs, name, repetitions=2), reference) < WORKLOADS["step"].tolerance


def test_the_gate_sees_another_learning_rate_and_another_order(problem):
    inputs = problem("cpu-mini")
    reference = work(inputs, "reference")
    inputs.federation = replace(inputs.federation, lr=0.0301)
    assert difference(work(inputs, "naive"), reference) > 1e-5
    inputs.federation = replace(inputs.federation, lr=0.03, batch_size=4)
    inputs.orders[0][0] = inputs.orders[0][0].flip(0)
    assert difference(work(inputs, "naive"), reference) > 1e-5


def test_several_rounds_are_timed_with_augmentation(problem):
    inputs = problem("cpu-r20")
    inputs.federation = replace(inputs.federation, augment="crop_flip")
    for name in ("fedloge-serial", "naive"):
        assert np.isfinite(work(inputs, name, repetitions=2)["psi.weight"]).all()


def test_all_evaluations_count_the_same(problem):
    inputs = problem("eval")
    reference = work(inputs, "reference")
    assert reference["confusion"].sum() == len(inputs.data["test_labels"])
    for name in ("fedloge-serial", "per-client", "naive"):
        assert difference(work(inputs, name), reference) <= 1


def test_the_gate_of_evaluations_sees_other_images_and_other_numbers(problem):
    inputs = problem("eval")
    reference = work(inputs, "reference")
    answers = reference["confusion"].sum(0)
    assert (answers > 0).sum() >= 5
    images = inputs.data["test_images"]
    for changed in (torch.zeros_like(images), images.roll(len(images) // 2, 0)):
        inputs.data["test_images"] = changed
        assert difference(work(inputs, "naive"), reference) > WORKLOADS["eval"].tolerance
    inputs.data["test_images"] = images
    inputs.federation = replace(inputs.federation, mean=(0.0, 0.0, 0.0))
    assert difference(work(inputs, "naive"), reference) > WORKLOADS["eval"].tolerance


def test_every_client_has_a_head_of_its_own_where_evaluations_are_compared(problem):
    inputs = problem("eval")
    heads = [inputs.personal(client)["phi.weight"] for client in range(inputs.federation.num_clients)]
    assert not any(torch.equal(heads[0], other) for other in heads[1:])


@pytest.mark.parametrize("name", [name for name, workload in WORKLOADS.items() if workload.kind == "round"])
def test_rounds_are_compared_in_double_precision_after_few_steps(tmp_path, name):
    federation = replace(for_gate(WORKLOADS[name]), depth=18, backbone="ResNet")  # the split is that of any network
    prepare(tmp_path, "round", federation)
    inputs = Problem(tmp_path)
    assert inputs.dtype == torch.float64
    assert federation.epochs * max(inputs.sizes) / federation.batch_size <= 30


def test_every_repetition_of_the_evaluation_computes_features(problem, monkeypatch):
    inputs = problem("eval")
    passes = []
    forward = importlib.import_module("fedloge.models").CifarResNet.forward

    def counted(self, images):
        passes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr("fedloge.models.CifarResNet.forward", counted)
    work(inputs, "fedloge-serial", repetitions=3)
    trials = [images for images in passes if images == 1]  # whether the network trains on one image
    assert sum(passes) - len(trials) == 3 * len(inputs.data["test_labels"])


def test_all_exchanges_average_the_same(problem):
    inputs = problem("exchange")
    reference = work(inputs, "reference")
    for name in ("fedloge-serial", "naive"):
        assert difference(work(inputs, name, repetitions=2), reference) < 1e-5


def test_an_executor_exchanges_the_same(problem):
    inputs = problem("exchange")
    result = exchanges_of_executor(inputs, "serial", 2, Clock())
    assert difference(result, work(inputs, "reference")) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["cpu-r20", "exchange"])
def test_processes_compute_the_same(problem, workload):
    inputs = problem(workload)
    try:
        result = work(inputs, "fedloge-processes")
    except UnavailableError as reason:
        pytest.skip(str(reason))
    assert difference(result, work(inputs, "reference")) < 1e-5


def test_the_networks_need_no_more_than_torch():
    blocked = ["lightning", "jsonargparse", "sklearn", "safetensors", "torchmetrics", "yaml", "wandb"]
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import benchmarks.contenders.naive"
    done = subprocess.run([sys.executable, "-c", code], env=environment("naive", 1), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_frames_have_the_zeros_asked_for(problem):
    inputs = problem("ssec")
    assert difference(work(inputs, "fedloge-serial"), work(inputs, "reference")) == 0


def test_real_images_are_the_first_of_every_class(monkeypatch):
    labels = torch.arange(10).repeat(4)
    images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    dataset = Dataset(TensorImages(images), labels, TensorImages(images), labels)
    monkeypatch.setattr("benchmarks.prepare.CIFAR10.load", lambda self: dataset)
    data = real(Federation(per_class=3, test_per_class=2), "folder")
    assert data["train_images"][:4, 0, 0, 0].tolist() == [0, 10, 20, 1]
    assert data["test_labels"].tolist() == sorted([*range(10)] * 2)
    with pytest.raises(DataError, match="has 4 train images of a class, and the workload wants 5"):
        real(Federation(per_class=5), "folder")


def test_the_inputs_depend_on_the_seed_alone(problem):
    first, second = problem("cpu-mini", double=False), problem("cpu-mini", double=False)
    assert first.partition == second.partition
    assert all(torch.equal(first.initial[name], second.initial[name]) for name in first.initial)
    for own, orders, again in zip(first.partition["train"], first.orders, second.orders, strict=True):
        assert torch.equal(orders, again)
        assert all(sorted(epoch.tolist()) == sorted(own) for epoch in orders)
    images, labels = first.served
    plain, same = first.normalised("train")
    held = sorted(index for own in first.partition["train"] for index in own)
    torch.testing.assert_close(images[held], plain[held])
    assert torch.equal(labels, same)
