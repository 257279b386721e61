import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import clients, results, worker
from benchmarks import run as runner
from benchmarks.clock import Clock, cpu_seconds
from benchmarks.contenders import CONTENDERS, UnavailableError, parse
from benchmarks.machine import ROOT
from benchmarks.run import Bench, ContenderError, TimeIsUpError, chosen, compare, environment, main
from benchmarks.statistics import paired_ratio
from benchmarks.workloads import WORKLOADS, Comparison, quick
from uninstalled import without

MINI = WORKLOADS["cpu-mini"]
DONE = {"wall_s": 1.0, "cpu_s": 1.0, "others_cores": 0.0, "details": {}, "timed": 1, "complete": True}
PAIR = replace(MINI, comparisons=(Comparison("fedloge-serial@1", "naive@1"),))


def test_every_workload_names_contenders_that_exist():
    assert {"cpu-mini", "cpu-r18", "eval", "exchange", "ssec", "gpu-c10", "gpu-c100"} <= WORKLOADS.keys()
    for workload in WORKLOADS.values():
        for contender in (*workload.contenders, *quick(workload).contenders):
            assert parse(contender)[1] >= 1


@pytest.mark.parametrize(
    ("spelled", "problem"), [("nobody@1", "no contender"), ("naive", "how many"), ("naive@0", "how many")]
)
def test_misspelt_contenders_are_named(spelled, problem):
    with pytest.raises(ValueError, match=problem):
        parse(spelled)


def test_opponents_can_be_chosen():
    assert {c.other for c in chosen(MINI, ["naive"]).comparisons} == {"naive@1", "naive@4"}
    assert {c.other for c in chosen(MINI, ["pfl@4"]).comparisons} == {"pfl@4"}
    assert {c.other for c in chosen(WORKLOADS["cpu-r20"], ["serial"]).comparisons} == {
        "fedloge-serial@4",
        "fedloge-serial@1",
    }
    assert {c.other for c in chosen(MINI, ["pfl@4", "flwr"]).comparisons} == {"pfl@4"}
    with pytest.raises(ValueError, match=r"cpu-mini is not measured against flwr, but against naive, pfl"):
        chosen(MINI, ["flwr"])
    for name in ("cpu-mini", "gpu-c10"):
        with pytest.raises(ValueError, match=r"--against nope is nobody that is measured\. There are: adam, .*serial"):
            chosen(WORKLOADS[name], ["naive", "nope"])


def test_fedloge_can_be_measured_alone():
    alone = chosen(MINI, ["none"]).comparisons
    assert alone == (Comparison("fedloge-serial@1"), Comparison("fedloge-processes@4"))
    assert chosen(WORKLOADS["gpu-c10"], ["none"]).comparisons == (Comparison("fedloge@4", at_most=4.0),)
    with pytest.raises(ValueError, match="--against none naive: none stands alone"):
        chosen(MINI, ["none", "naive"])


def test_rounds_are_timed_between_the_first_and_the_last():
    assert WORKLOADS["gpu-c10"].all_repetitions == WORKLOADS["gpu-c100"].all_repetitions == 5
    assert WORKLOADS["step"].all_repetitions == WORKLOADS["step"].repetitions + 1


def test_a_gpu_is_not_measured_against_who_has_none():
    with pytest.raises(ValueError, match="gpu-c10 is not measured against pfl, but against naive"):
        chosen(WORKLOADS["gpu-c10"], ["pfl"])


def test_the_ratio_is_the_median_of_pairs():
    """Ratios 2, 3 and 4, though the quotient of the medians is 30/10."""
    ratio = paired_ratio([20, 30, 40], [10, 10, 10])
    assert (ratio.median, ratio.low, ratio.high) == (3, 2, 4)
    assert paired_ratio([2, 4, 8], [1, 2, 4]).low == paired_ratio([2, 4, 8], [1, 2, 4]).high == 2
    assert paired_ratio(range(1, 9), [1] * 8) == paired_ratio(range(1, 9), [1] * 8)
    with pytest.raises(ValueError, match="no pairs"):
        paired_ratio([1, 2], [1])


def measured(contender, *walls, **details):
    """Runs of a contender, one a sweep."""
    return [
        {"contender": contender, "sweep": sweep, "wall_s": wall, "cpu_s": wall, "timed": 1, "details": details}
        for sweep, wall in enumerate(walls)
    ]


@pytest.mark.parametrize(
    ("comparison", "met"),
    [
        (Comparison("fedloge-serial@1", "naive@1"), None),
        (Comparison("fedloge-serial@1", "naive@1", at_least=3), True),
        (Comparison("fedloge-serial@1", "naive@1", at_least=3.1), False),
        (Comparison("fedloge-serial@1", "naive@1", at_least=3, better=("error",)), False),
        (Comparison("fedloge-serial@1", at_most=1), True),
        (Comparison("fedloge-serial@1", at_most=0.9), False),
    ],
)
def test_targets_are_met_or_not(comparison, met):
    runs = measured("fedloge-serial@1", 1.0, 1.0, error=2) + measured("naive@1", 3.0, 3.0, error=1)
    assert compare(comparison, runs)["met"] is met


def test_the_clock_leaves_out_the_warm_up_and_what_is_paused(monkeypatch):
    start, warm_up, paused, work = (0, 0, 0), (10, 10, 12), (13, 14), (20, 20, 25)
    now = iter([*start, *warm_up, *paused, *work])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()
    clock.tick()  # looks at the processes until 12
    with clock.paused():
        pass
    clock.tick()
    assert clock.per_repetition()[0] == 20 - 12 - 1


def ticking(monkeypatch, *times):
    """A clock that has begun at 0 and ticked at these times."""
    now = iter([0, 0, 0, *(time for time in times for _ in range(3))])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()
    for _ in times:
        clock.tick()
    return clock


def test_the_last_repetition_can_be_left_out(monkeypatch):
    clock = ticking(monkeypatch, 10, 12, 13, 15, 45)
    assert clock.repetitions == [10, 2, 1, 2, 30]
    assert (clock.timed(), clock.per_repetition()[0]) == (4, 35 / 4)
    assert (clock.timed(without_last=True), clock.per_repetition(without_last=True)[0]) == (3, 5 / 3)


@pytest.mark.parametrize(("times", "timed", "seconds"), [([10], 0, 10), ([10, 12], 1, 2), ([10, 12, 15], 1, 2)])
def test_there_is_always_a_repetition_left(monkeypatch, times, timed, seconds):
    clock = ticking(monkeypatch, *times)
    assert (clock.timed(without_last=True), clock.per_repetition(without_last=True)[0]) == (timed, seconds)


def test_what_is_done_at_a_tick_is_not_measured(monkeypatch):
    start, tick, listener, work = (0, 0, 0), (10, 10, 10), (10, 50), (53, 53, 53)
    now = iter([*start, *tick, *listener, *work, *listener])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    seen = []
    clock = Clock(on_tick=lambda clock: seen.append(clock.repetitions))
    clock.tick()
    clock.tick()
    assert seen == [[10], [10, 3]]


def test_the_first_repetition_counts_where_it_is_the_only_one(monkeypatch):
    now = iter([1, 1, 1, 4, 4, 4])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock()
    clock.tick()
    assert clock.per_repetition()[0] == 3


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_cpu_seconds_are_those_of_living_descendants_too():
    before = cpu_seconds()
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        alive = cpu_seconds() - before
        child.communicate(b"\n")
    assert alive >= 0.25
    assert cpu_seconds() - before >= 0.25


class Canned(Bench):
    """A bench whose contenders return what it is told."""

    def _work(self, problem, contender, repetitions):
        self.asked = contender
        return {}

    def _result(self):
        return self.results[self.asked.partition("@")[0]]


@pytest.mark.parametrize(
    ("name", "result", "passed"),
    [
        ("naive", {"a": 1.000001, "b": 2}, True),
        ("naive", {"a": 1.0001, "b": 2}, False),
        ("naive", {"a": float("nan"), "b": 2}, False),
        ("naive", {"a": 1}, False),
        ("naive", {"a": 1, "b": [2]}, False),
        ("naive", {"a": 1, "b": 2, "c": 3}, False),
        ("naive", {"a": 1, "b": float("nan")}, False),
        ("naive", {}, False),
    ],
)
def test_the_gate(tmp_path, name, result, passed):
    bench = Canned(MINI, tmp_path, {})
    bench.results = {"reference": {"a": np.array(1.0), "b": np.array(2.0), "check/c": np.array(0.0)}}
    bench.results[name] = {key: np.array(value) for key, value in result.items()}
    assert bench.gate(f"{name}@1")["passed"] is passed


def test_only_what_a_peer_is_known_to_lack_may_be_missing(tmp_path):
    bench = Canned(MINI, tmp_path, {})
    state = {"head.bias": np.array(1.0), "bn.running_mean": np.array(2.0)}
    bench.results = {"reference": state, "pfl": {"head.bias": np.array(1.0)}}
    assert bench.gate("pfl@1")["passed"]
    bench.results["pfl"] = {"bn.running_mean": np.array(2.0)}
    assert not bench.gate("pfl@1")["passed"]


def test_a_missing_peer_says_how_to_install_it(tmp_path):
    bench = Bench(MINI, tmp_path, {"pfl": tmp_path / "nowhere"})
    with pytest.raises(UnavailableError, match=r"pfl is not installed: `python -m benchmarks\.peers pfl`"):
        bench.measure("pfl@1")


def test_workloads_on_the_cpu_see_no_other_device(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert environment("pfl", 1)["CUDA_VISIBLE_DEVICES"] == ""
    assert environment("fedloge", 1, "cuda")["CUDA_VISIBLE_DEVICES"] == "3"


def test_the_path_of_a_contender_begins_with_this_checkout_and_goes_on_as_before(monkeypatch):
    own = [str(ROOT), str(ROOT / "src")]
    for before, expected in {"": own, "wheels/a.whl:/more": [*own, "wheels/a.whl", "/more"]}.items():
        monkeypatch.setenv("PYTHONPATH", before.replace(":", os.pathsep))
        assert environment("naive", 1)["PYTHONPATH"].split(os.pathsep) == expected


def test_threads_are_the_cores_unless_processes_take_them():
    assert environment("naive", 4)["OMP_NUM_THREADS"] == environment("pfl", 4)["MKL_NUM_THREADS"] == "4"
    for name in ("fedloge-processes", "pfl-processes"):
        assert CONTENDERS[name].threads(4) == 1
        assert environment(name, 4)["OMP_NUM_THREADS"] == "1"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_workloads_need_a_gpu(capsys):
    assert main(["--workload", "gpu-c10"]) == 2
    assert "gpu-c10 needs a CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["pfl", "pfl=", "nobody=/usr/bin/python"])
def test_interpreters_must_be_a_peers(entry, capsys):
    assert main(["--workload", "exchange", "--python", entry]) == 2
    assert f"--python {entry} is not PEER=PATH with a peer of: flwr, pfl." in capsys.readouterr().err


def test_real_data_that_are_not_there(tmp_path, capsys):
    assert (
        main(["--workload", "exchange", "--profile", "quick", "--data", str(tmp_path), "--results", str(tmp_path)]) == 2
    )
    assert "CIFAR10 was not found" in capsys.readouterr().err


def test_contenders_take_turns(tmp_path, monkeypatch):
    order = []

    class Quiet(Canned):
        def prepare(self):
            self.results = {name: {"a": np.array(0.0)} for name in CONTENDERS}

        def measure(self, contender):
            order.append(contender)
            return DONE

    runner.run(Quiet(PAIR, tmp_path, {}), 3, say=lambda text: None)
    assert order == ["fedloge-serial@1", "naive@1", "naive@1", "fedloge-serial@1", "fedloge-serial@1", "naive@1"]


class Fragile(Canned):
    """A contender breaks down where it is told to."""

    fragile = "naive@1"
    in_gate = False

    def prepare(self):
        self.results = {name: {"a": np.array(0.0)} for name in CONTENDERS}

    def gate(self, contender):
        if self.in_gate and contender == self.fragile:
            raise ContenderError("it broke down")
        return super().gate(contender)

    def measure(self, contender):
        if contender == self.fragile:
            raise ContenderError("it broke down")
        return DONE


@pytest.mark.parametrize("in_gate", [True, False])
def test_who_breaks_down_does_not_take_the_others_along(tmp_path, in_gate):
    workload = replace(MINI, comparisons=(*PAIR.comparisons, Comparison("fedloge-serial@1", "pfl@1")))
    bench = Fragile(workload, tmp_path, {})
    bench.in_gate = in_gate
    result = runner.run(bench, 2, say=lambda text: None)
    assert result["failed"] == {"naive@1": "it broke down"}
    assert [c["other"] for c in result["comparisons"]] == ["pfl@1"]
    assert len(result["runs"]) == 4


def test_a_result_is_written_where_somebody_broke_down_but_not_where_nobody_was_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(WORKLOADS, "cpu-mini", PAIR)
    monkeypatch.setattr(runner, "Bench", Fragile)
    command = ["--workload", "cpu-mini", "--pairs", "1", "--results", str(tmp_path)]
    assert main(command) == 1
    assert len([*tmp_path.glob("*.json")]) == 1

    def missing(bench, contender):
        raise UnavailableError("it is not installed")

    monkeypatch.setattr(Fragile, "gate", missing)
    for path in tmp_path.glob("*.json"):
        path.unlink()
    assert main(command) == 2
    assert "cpu-mini was not measured: every contender was skipped" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_the_result_is_written_after_every_step(tmp_path):
    """Two gates, two sweeps of two contenders, and the end."""
    kept = []
    bench = Fragile(PAIR, tmp_path, {})
    bench.fragile = "nobody"
    runner.run(bench, 2, lambda text: None, lambda result: kept.append(json.loads(json.dumps(result))))
    assert [(len(result["gate"]), len(result["runs"]), result["complete"]) for result in kept] == [
        (1, 0, False),
        (2, 0, False),
        (2, 1, False),
        (2, 2, False),
        (2, 3, False),
        (2, 4, False),
        (2, 4, True),
    ]
    assert [len(result["comparisons"]) for result in kept] == [0, 0, 0, 1, 1, 1, 1]


def test_a_file_that_is_being_written_never_takes_the_place_of_a_whole_one(tmp_path, monkeypatch):
    path = tmp_path / "results" / "a.json"
    results.write(path, {"runs": [1]})

    def full(self, *args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        results.write(path, {"runs": [1, 2]})
    assert json.loads(path.read_text()) == {"runs": [1]}


class Slow(Fragile):
    """The first measurement is cut after two repetitions, and no other begins."""

    fragile = "nobody"
    began = 0

    def measure(self, contender):
        self.began += 1
        if self.began > 1:
            raise TimeIsUpError
        return DONE | {"complete": False, "timed": 1}


def test_what_was_measured_until_the_time_was_up_is_kept(tmp_path):
    said = []
    result = runner.run(Slow(chosen(MINI, ["none"]), tmp_path, {}), 8, said.append)
    assert [run["contender"] for run in result["runs"]] == ["fedloge-serial@1"]
    assert result["complete"] is False
    assert [(c["ours"], c["other"], c["ours_s"]) for c in result["comparisons"]] == [("fedloge-serial@1", None, 1.0)]
    assert said[-2:] == [
        "sweep 1/8 fedloge-serial@1: 1.000 s, 1.000 CPU s, others used 0.0 cores, mean of 1 repetitions until the time "
        "was up",
        "the time is up after 1 measurements",
    ]


def test_only_sweeps_in_common_are_compared():
    """The sweep that the other did not finish says nothing of the ratio, and a warm-up is no measurement."""
    runs = measured("fedloge-serial@1", 1.0, 1.0, 9.0) + measured("naive@1", 3.0, 3.0)
    (compared,) = runner.compared(PAIR.comparisons, runs)
    assert (compared["ratio"], compared["ours_s"]) == (3.0, 1.0)
    warm_up = [run | {"timed": 0} for run in measured("naive@1", 3.0)]
    assert runner.compared(PAIR.comparisons, runs[:3] + warm_up) == []


@pytest.mark.parametrize("pairs", ["0", "-2", "many"])
def test_there_must_be_pairs(pairs, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--workload", "cpu-mini", "--pairs", pairs])
    assert stopped.value.code == 2
    assert f"argument --pairs: invalid positive value: '{pairs}'" in capsys.readouterr().err


def test_clients_must_be_some(capsys):
    with pytest.raises(SystemExit):
        clients.main(["--clients", "0"])
    assert "argument --clients: invalid positive value: '0'" in capsys.readouterr().err


def test_the_folder_of_results_is_looked_at_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "Bench", None)
    (tmp_path / "file").touch()
    assert main(["--workload", "cpu-mini", "--results", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err


def test_an_interpreter_must_be_there(capsys):
    assert main(["--workload", "cpu-mini", "--python", "pfl=/nowhere/python"]) == 2
    assert "--python pfl=/nowhere/python: there is no file /nowhere/python." in capsys.readouterr().err


def test_a_key_error_of_fedloges_is_no_excuse(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyError("backbone.conv1.weight")

    monkeypatch.setattr("benchmarks.contenders.fedloge.rounds", fail)
    monkeypatch.setattr(worker, "Problem", lambda folder: SimpleNamespace(kind="round", device=torch.device("cpu")))
    with pytest.raises(KeyError):
        worker.main([str(tmp_path), "fedloge-serial@1", str(tmp_path / "out"), "--repetitions=1"])


@pytest.mark.slow
def test_the_command_leaves_a_result(tmp_path, monkeypatch):
    """The contenders run from a checkout that is not installed, without plotly and wandb."""
    (tmp_path / "hidden").mkdir()
    hidden = without(tmp_path / "hidden", ROOT / "src", {"plotly", "wandb"}, {"fedloge"})
    monkeypatch.setenv("PYTHONPATH", hidden["PYTHONPATH"])
    monkeypatch.setitem(WORKLOADS, "cpu-mini", PAIR)
    command = ["--workload", "cpu-mini", "--against", "naive", "--profile", "quick", "--pairs", "1"]
    assert main([*command, "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert path.name == f"cpu-mini-{result['date']}-naive-quick.json"
    assert result["profile"] == "quick"
    assert {"commit", "machine", "versions", "environment", "federation", "data"} <= result.keys()
    assert {"processor", "cores", "gpu"} <= result["machine"].keys()
    assert all("fedloge" not in versions for versions in result["versions"].values())
    assert {name: gate["passed"] for name, gate in result["gate"].items()} == {
        "fedloge-serial@1": True,
        "naive@1": True,
    }
    assert all(gate["difference"] <= gate["tolerance"] == 1e-5 for gate in result["gate"].values())
    for measurement in result["runs"]:
        assert measurement["wall_s"] > 0
        assert measurement["threads"] == 1
        assert {"cpu_s", "peak_mib", "load_before", "load_after", "others_cores", "sweep"} <= measurement.keys()
        assert (len(measurement["repetitions_s"]), measurement["timed"], measurement["complete"]) == (3, 1, True)
        assert measurement["wall_s"] == pytest.approx(measurement["repetitions_s"][1], abs=1e-3)
    (comparison,) = result["comparisons"]
    assert comparison["low"] == comparison["ratio"] == comparison["high"] > 0
