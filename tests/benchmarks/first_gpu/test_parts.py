"""Every part of the stages at its smallest size, on the CPU in the place of a GPU."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.first_gpu import ceilings, check, convolutions, lanes, sanitized, step
from benchmarks.first_gpu.plan import NO_GPU
from benchmarks.first_gpu.record import Record, milliseconds
from fedloge.executors import ClientFailure, Cohort
from fedloge.system.doctor import Check

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.fixture
def measured(tmp_path):
    """Runs a part; returns its exit status and its measurements by name."""

    def run(part, *arguments, seconds=600):
        path = tmp_path / "part.json"
        code = part.main([*arguments, "--profile", "quick", "--output", str(path), "--seconds", str(seconds)])
        content = json.loads(path.read_text()) if path.exists() else {"measurements": []}
        return code, {entry["name"]: entry for entry in content["measurements"]}

    return run


@no_gpu
@pytest.mark.parametrize("part", [ceilings, check, convolutions, sanitized, step])
def test_the_full_size_needs_a_gpu(part, capsys):
    with pytest.raises(SystemExit) as stopped:
        part.main([])
    assert stopped.value.code == NO_GPU
    assert "needs a GPU, and torch finds none; --profile quick takes the CPU in its place" in capsys.readouterr().out


def test_ceilings_and_a_fit(measured):
    code, found = measured(ceilings)
    assert code == 0
    assert found["copy on the device"]["gb_per_s"] > 0
    assert all(found[f"product in {kind}"]["tflop_per_s"] > 0 for kind in ("float32", "TF32", "bfloat16"))
    assert found["eager launch"]["us"] > 0
    assert found["fedloge fit"]["exit_status"] == 0
    assert 0 < found["fedloge fit"]["pm"] <= 1


def test_a_step_is_compared_with_its_replay(measured):
    code, found = measured(step)
    assert code == 0
    weights = found["replayed and eager weights"]
    assert weights["steps"] == [1, 10, 100]
    assert len(weights["largest_difference"]) == 3
    if not torch.cuda.is_available():
        assert found["again eager, as graphs need a GPU: sgd"]["ms"] > 0
        assert weights["largest_difference"] == [0, 0, 0]


def test_a_replay_that_does_something_else_fails(measured, monkeypatch):
    monkeypatch.setattr(step, "STEPS", (1, 2))
    monkeypatch.setattr(step.Step, "captured", lambda self, work, mode: self.backward)
    code, found = measured(step)
    assert code == 1
    assert found["replayed and eager weights"]["equal"] is False


def test_a_step_begins_from_the_same_weights_again(monkeypatch):
    monkeypatch.setattr(step, "STEPS", (1, 2))
    made = step.Step(step.QUICK, torch.device("cpu"))
    first = made.weights_after(made.sgd)
    assert all(torch.equal(a, b) for a, b in zip(first, made.weights_after(made.sgd), strict=True))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(("until", "name"), [("forward", "eager forward"), ("backward", "eager backward")])
def test_parts_of_a_step_are_tried_alone(measured, until, name):
    code, found = measured(step, "--until", until, "--mode", "relaxed")
    assert code == 0
    assert name in found
    assert "replayed and eager weights" not in found


def test_the_kernels_of_a_step_are_listed(measured):
    code, found = measured(step, "--until", "kernels")
    (total, *kernels) = found.values()
    assert code == 0
    assert total["kernels"] >= sum(kernel["count"] for kernel in kernels) > 0
    assert [kernel["us"] for kernel in kernels] == sorted((kernel["us"] for kernel in kernels), reverse=True)


def fake_check(monkeypatch, *checks):
    """A version that has the check, with these findings, on a machine that seems to have a GPU."""
    monkeypatch.setitem(sys.modules, "fedloge.executors.cuda.check", SimpleNamespace(check_gpu=lambda: checks))
    monkeypatch.setattr(Record, "device", torch.device("cuda", 0))


def test_the_check_of_the_doctor(measured, monkeypatch):
    fake_check(monkeypatch, Check("eager steps", "3 tensors"))
    code, found = measured(check)
    assert (code, found["eager steps"]["found"], found["eager steps"]["problem"]) == (0, "3 tensors", "")
    fake_check(monkeypatch, Check("eager steps", "3 tensors"), Check("two lanes", "deviate", "take one"))
    assert measured(check)[0] == 1


def test_a_version_without_the_check_says_so(measured, monkeypatch):
    monkeypatch.setitem(sys.modules, "fedloge.executors.cuda.check", None)
    assert measured(check) == (0, {check.NAME: {"name": check.NAME, "skipped": "not in this version"}})


@pytest.mark.slow
def test_the_step_with_compiled_losses(measured):
    code, found = measured(step, "--until", "compiled")
    torch._dynamo.reset()
    assert code == 0
    assert found["step with compiled losses"]["ms"] > 0


def test_lanes_have_a_time_per_step_and_one_besides(measured):
    code, found = measured(lanes, "--batchnorm", "cudnn")
    assert code == 0
    assert list(found) == ["1 lanes", "2 lanes"]
    for entry in found.values():
        assert entry["graphs"] is torch.cuda.is_available()
        assert {"ms_per_client_step", "ms_per_client_besides", "first_round_s"} <= entry.keys()


def test_the_time_per_step_is_the_slope_over_the_epochs(monkeypatch):
    """Two clients of five steps: 0.1 s for each client, and 0.01 s for each of its steps."""
    session = object.__new__(lanes.Session)
    session.steps = 5
    monkeypatch.setattr(session, "seconds", lambda clients, epochs: clients * (0.1 + 0.01 * 5 * epochs), raising=False)
    found = session.per_step(2)
    assert found["ms_per_client_step"] == pytest.approx(10)
    assert found["ms_per_client_besides"] == pytest.approx(100)


def test_a_choice_that_the_executor_does_not_have_is_skipped(measured, monkeypatch):
    monkeypatch.setattr(lanes, "OPTION", "no_such_option")
    code, found = measured(lanes, "--batchnorm", "native")
    assert code == 0
    assert list(found) == ["native BatchNorm"]
    assert "no option" in found["native BatchNorm"]["skipped"]


def test_a_client_that_fails_is_not_timed(measured, monkeypatch):
    monkeypatch.setattr(Cohort, "run", lambda self, shared, clients, tasks: iter([ClientFailure(0, "no loss today")]))
    with pytest.raises(RuntimeError, match="1 of 1 clients failed: no loss today"):
        measured(lanes, "--batchnorm", "cudnn")


def test_no_measurement_begins_when_the_time_is_up(measured, capsys):
    assert measured(convolutions, seconds=-1) == (0, {})
    assert "the time is up" in capsys.readouterr().out


def test_convolutions_are_timed_in_all_directions(measured):
    code, found = measured(convolutions)
    assert code == 0
    assert all(entry[f"{way}_ms"] > 0 for entry in found.values() for way in ("forward", "dgrad", "wgrad"))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", convolutions.SHAPES[3:5])
def test_gradients_of_convolutions_are_those_of_autograd(shape, groups, monkeypatch):
    seen = []
    monkeypatch.setattr(convolutions, "milliseconds", lambda work, device, times: seen.append(work()) or 1.0)
    ways = dict(convolutions.passes(shape, groups, torch.float32, torch.device("cpu"), 1))
    assert list(ways) == ["forward", "dgrad", "wgrad"]
    forward, dgrad, wgrad = seen
    inputs, outputs, kernel, stride, size = shape
    assert forward.shape == (8, groups * outputs, size // stride, size // stride)
    assert (dgrad[0].shape, dgrad[1]) == ((8, groups * inputs, size, size), None)
    assert (wgrad[0], wgrad[1].shape) == (None, (groups * outputs, inputs, kernel, kernel))


def test_lanes_without_graphs_under_the_sanitizer(measured):
    code, found = measured(sanitized)
    assert code == 0
    assert found["two lanes without graphs"]["watched"] is torch.cuda.is_available()


def test_milliseconds_are_those_of_a_call(monkeypatch):
    """Three calls first, then three repeats of four calls that take 8, 4 and 12 s."""
    now = iter([0, 8, 8, 12, 12, 24])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    calls = []
    assert milliseconds(lambda: calls.append(1), torch.device("cpu"), times=4, repeats=3) == 2000
    assert len(calls) == 3 + 3 * 4


def test_a_measurement_is_in_the_file_at_once(tmp_path, capsys):
    record = Record(tmp_path / "part.json", "quick", until=0.0)
    record.add("first", ms=1.23456, what="a thing")
    assert json.loads((tmp_path / "part.json").read_text())["measurements"] == [
        {"name": "first", "ms": 1.23456, "what": "a thing"}
    ]
    assert capsys.readouterr().out == "first: ms 1.235, what a thing\n"
