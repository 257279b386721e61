import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from benchmarks import facts, fidelity
from benchmarks.fidelity import compare, main, measured
from benchmarks.released import COLUMNS, CURVES, PARTITIONS, SETTINGS, TRACES, curves
from fedloge.errors import FedlogeError
from fedloge.etf import geometry, simplex_etf, solve_adam, sparse_mask
from fedloge.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
RELEASED = ROOT.parent / "shared" / "reference"
MINI = ["--scale", "mini", "--trainer.executor=serial", "--trainer.accelerator=cpu"]


def partition(letter):
    """What fedloge makes of a setting, in the layout of the released matrices."""
    data = facts.labels_only(SETTINGS[letter])
    train, test = data.partition.train_counts, data.partition.test_counts
    return data, {
        "class_counts": train.sum(0).tolist(),
        "train_matrix_client_x_class": train.tolist(),
        "local_test_matrix_client_x_class": test.tolist(),
        "train_cells_masked_because_local_test_is_0": int(((train > 0) & (test == 0)).sum()),
    }


def flat(rounds, value=0.5, **changes):
    """A log whose curves have one value."""
    return {"rounds": list(rounds), **{key: [value] * len(rounds) for key in COLUMNS}, **changes}


def trace(steps=250, every=10, dim=64):
    """An SSE-C solved from the start that the checks take: so few steps do not make the start forgotten."""
    draw = torch.Generator().manual_seed(0)
    start, mask = simplex_etf(4, dim, draw), sparse_mask(4, dim, 0.6, draw)
    weight, losses = solve_adam(start, mask, 0.5, steps=steps, trace_every=every)
    found = geometry(weight)
    final = {"norm_mean": found.norm_mean, "angle_mean_deg": found.angle_mean}
    about = {"dim": dim, "classes": 4, "beta": 0.6, "gamma_target": 0.5, "final": final}
    return about | {"steps": [*range(0, steps, every)], "loss": losses}


@pytest.fixture
def reference(tmp_path):
    folder = tmp_path / "reference"
    folder.mkdir()
    runs = {
        f"{method}_alpha{setting.alpha:g}_IF{setting.imbalance_factor}": flat([*range(20), 30, 40, 50])
        for method in ("fedloge", "fedavg")
        for setting in SETTINGS.values()
    }
    (folder / CURVES).write_text(json.dumps({"runs": runs}))
    return folder


def test_round_0_of_the_logs_is_our_round_1(reference):
    released = curves(reference, "fedloge", SETTINGS["a"])
    assert list(released["gm_acc"])[:3] == [1, 2, 3]
    assert max(released["pm_tail"]) == 51


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"cifar10_curves\.json.*No such file.*must be the folder with the released numbers"),
        ("{", "is not JSON"),
        ('{"runs": {"other": {}}}', r"has no run 'fedloge_alpha0\.5_IF50', but: other"),
        (json.dumps({"runs": {"fedloge_alpha0.5_IF50": flat([0, 1], gm_acc=[0.1])}}), "lacks values of gm_acc"),
    ],
)
def test_a_reference_that_is_not_one(tmp_path, capsys, content, problem):
    if content is not None:
        (tmp_path / CURVES).write_text(content)
    with pytest.raises(FedlogeError, match=problem):
        curves(tmp_path, "fedloge", SETTINGS["a"])
    assert main(["--reference", str(tmp_path), "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_average_counts_rounds_not_logged_points():
    """From round 11 to 13 the difference is 0, then it rises to 0.2 at round 51: its mean is 38 · 0.1 / 40 = 0.095."""
    rounds = [1, 11, 12, 13, 51]
    released = {key: dict.fromkeys(rounds, 0.5) for key in COLUMNS}
    ours = {key: {1: 0.9, 11: 0.5, 12: 0.5, 13: 0.5, 51: 0.7} for key in COLUMNS}
    found = compare(released, ours)
    assert found["differences"] == dict.fromkeys(COLUMNS, 0.095)
    assert found["points"]["gm_acc"][1] == [0.5, 0.9]
    assert found["met"] is False
    near = {key: dict.fromkeys(rounds, 0.529) for key in COLUMNS}
    assert compare(released, near)["met"] is True
    assert compare(released, near | {"pm_acc": dict.fromkeys(rounds, 0.531)})["met"] is False
    assert compare(released, near | {"gm_tail": dict.fromkeys(rounds, 0.9)})["met"] is True


def test_too_few_rounds_meet_nothing():
    released = {key: dict.fromkeys((1, 11, 21, 51), 0.5) for key in COLUMNS}
    found = compare(released, {key: dict.fromkeys((1, 2, 11, 21), 0.5) for key in COLUMNS})
    assert (found["met"], found["over"], found["differences"]["gm_acc"]) == (None, [11, 21], 0)
    assert list(found["points"]["gm_acc"]) == [1, 11, 21]
    assert compare(released, {key: {} for key in COLUMNS})["differences"] == {}


def test_a_mini_run_goes_on_and_leaves_a_result(reference, tmp_path, capsys):
    command = ["--reference", str(reference), "--runs", str(tmp_path), "--results", str(tmp_path / "results"), *MINI]
    fedloge = [*command, "--method", "fedloge", "--model.sse_solver=alternating"]  # Adam takes seconds
    assert main([*fedloge, "--rounds", "1"]) == 0
    folder = tmp_path / "fidelity-a-fedloge-mini"
    first = measured("fedloge", folder)
    assert main([*fedloge, "--rounds", "2"]) == 0
    assert [curve[1] for curve in measured("fedloge", folder).values()] == [curve[1] for curve in first.values()]
    row = RunFolder(folder).rows("metrics.csv")[0]
    assert first["gm_acc"] == {1: float(row["before_realignment/global/acc"])}
    (path,) = (tmp_path / "results").glob("fidelity-a-fedloge-mini-*.json")
    result = json.loads(path.read_text())
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert result["workload"] == "fidelity"
    assert (result["runs"]["fedloge"]["rounds"], result["runs"]["fedloge"]["met"]) == (2, None)
    assert list(result["runs"]["fedloge"]["points"]["pm_acc"]) == ["1", "2"]
    assert result["runs"]["fedloge"]["points"]["pm_acc"]["1"] == [0.5, round(first["pm_acc"][1], 4)]
    assert main([*command, "--method", "fedavg", "--rounds", "1"]) == 0
    assert "FedAvg: 1 rounds" in capsys.readouterr().out


def test_no_time_left_starts_nothing(reference, tmp_path, capsys):
    command = ["--reference", str(reference), "--runs", str(tmp_path), "--results", str(tmp_path / "results"), *MINI]
    assert main([*command, "--minutes", "0"]) == 2
    assert "no round was done in --minutes=0" in capsys.readouterr().err
    assert not (tmp_path / "fidelity-a-fedloge-mini").exists()
    assert not (tmp_path / "results").exists()


def test_time_ends_a_run_and_a_signal_ends_the_command():
    before = signal.getsignal(signal.SIGTERM)
    with fidelity._stopped_after(0.05):
        time.sleep(30)
    for seconds in (30, None):
        with pytest.raises(KeyboardInterrupt), fidelity._stopped_after(seconds):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("name", ["images", "cifar10_lt.zip"])
def test_images_come_from_a_folder_a_zip_or_cifars_own_files(tmp_path, name):
    options = fidelity.data_options(SETTINGS["d"], str(tmp_path / name))
    assert options == [
        "--data.alpha=1.0",
        "--data.imbalance_factor=100",
        "--data.source=ImageFolder",
        f"--data.source.init_args.root={tmp_path / name}",
    ]
    (tmp_path / name / "cifar-10-batches-py").mkdir(parents=True)
    assert "--data.source=ImageFolder" not in fidelity.data_options(SETTINGS["d"], str(tmp_path / name))


def test_facts_that_differ_are_seen():
    data, released = partition("b")
    assert all(fact.agrees for fact in facts.split_facts(data, released))
    released["train_matrix_client_x_class"][3][2] += 1
    released["train_cells_masked_because_local_test_is_0"] = 46
    wrong = [fact.name for fact in facts.split_facts(data, released) if not fact.agrees]
    assert wrong == ["train images by client and class", "cells that are trained and masked"]


def test_rounds_that_took_all_for_one_class_check_how_pm_is_counted():
    """PM is then the mean share of that class in the local tests, and GM a tenth."""
    data, _ = partition("a")
    tests = data.partition.test_counts
    found = facts.one_class(data, 2)
    assert found[0] == 0.1
    assert found[4] == pytest.approx((tests[:, 2] / tests.sum(1)).mean())
    log = {key: {1: 0.1, 2: 0.3} for key in COLUMNS} | {key: {1: v} for key, v in zip(COLUMNS, found, strict=True)}
    (fact,) = facts.counting_facts(data, log)
    assert fact.agrees
    assert "class 2 (round 1)" in fact.name
    log["pm_head"][1] += 2e-4
    assert not next(facts.counting_facts(data, log)).agrees


def test_the_solver_is_compared_once_it_has_settled():
    released = trace()
    assert [fact.agrees for fact in facts.solver_facts("x", released)] == [True, True, True]
    released["loss"][-1] += 0.01
    released["final"]["norm_mean"] *= 1.01
    assert [fact.agrees for fact in facts.solver_facts("x", released)] == [False, False, True]


@pytest.mark.slow
def test_the_released_facts(tmp_path, capsys):
    if not all((RELEASED / name).is_file() for name in (CURVES, PARTITIONS, TRACES)):
        pytest.skip(f"no released numbers in {RELEASED}")
    assert main(["--reference", str(RELEASED), "--check", "--results", str(tmp_path)]) == 0
    assert "34 of 34 facts agree" in capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    assert all(fact["agrees"] for fact in json.loads(path.read_text())["facts"])
