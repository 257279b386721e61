import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fedloge.errors import RunError
from fedloge.experiments import runner
from fedloge.experiments.runner import Cell, fit_cell, run_cells
from fedloge.runs.folder import RunFolder

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
COMPARISON = QUICKSTART.parent / "studies" / "compare_quick.yaml"
SHORT = {"rounds": 2, "local_epochs": 1, "evaluate_every": 1, "accelerator": "cpu"}


def test_a_cell_is_a_fit(tmp_path):
    options = yaml.safe_load(QUICKSTART.read_text())
    trainer = options["trainer"] | SHORT
    options["trainer"] = trainer
    cell = Cell("FedLoGe", 0, options, tmp_path)
    cell.config.write_text(yaml.safe_dump(cell.options))
    fit_cell(cell)
    assert cell.done
    assert cell.read("summary.json")["rounds"] == 2
    cell.check()
    cell.options = options | {"trainer": trainer | {"executor": "serial"}}  # changes no result
    cell.check()
    cell.options = options | {"data": options["data"] | {"source": {"class_path": "Digits"}}}
    cell.config.write_text(yaml.safe_dump(cell.options))  # another spelling
    cell.options = options
    cell.check()
    cell.options = options | {"trainer": trainer | {"rounds": 3}}
    with pytest.raises(RunError, match=r"trainer\.rounds: 2 there, 3 now"):
        cell.check()


def test_a_failed_training_is_named_and_not_realigned(tmp_path):
    trained = Cell("broken", 0, {"model": {"class_path": "Nothing"}}, tmp_path / "a")
    realigned = Cell("again", 0, {"ga": False}, tmp_path / "b", trained)
    run_cells([trained, realigned], jobs=2)
    assert "no class 'Nothing'" in trained.error
    assert trained.log.read_text().rstrip().endswith(trained.error)
    assert realigned.error == "the run that it realigns failed"


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (RunError("the disk is full."), "the disk is full."),
        (KeyboardInterrupt(), "interrupted; what was saved until then is kept"),
        (KeyboardInterrupt("round 3 is saved"), "interrupted; round 3 is saved"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_the_last_line_of_the_log_is_the_error(error, last, tmp_path, monkeypatch):
    class Exited(BaseException):
        pass

    def fail(cell):
        raise error

    def leave(code):
        assert code != 0
        raise Exited

    monkeypatch.setattr(runner, "fit_cell", fail)
    monkeypatch.setattr(runner.os, "dup2", lambda *numbers: None)
    monkeypatch.setattr(runner.os, "_exit", leave)
    monkeypatch.setattr(runner.sys, "stdout", None)
    monkeypatch.setattr(runner.sys, "stderr", None)
    cell = Cell("x", 0, {}, tmp_path)
    with pytest.raises(Exited):
        runner._in_child(cell)
    assert runner._last_line(cell.log) == last
    assert ("Traceback" in cell.log.read_text()) == isinstance(error, ZeroDivisionError)


def alive(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def family(pid):
    """A process with all that descend from it, by /proc."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGHUP, 129), (signal.SIGKILL, -9)])
def test_a_comparison_that_ends_leaves_no_run_behind(signum, code, tmp_path):
    options = ["--methods={FedAvg: {}}", "--seeds=[0]", "--jobs=1", f"--output_dir={tmp_path}"]
    options += ["--trainer.rounds=100000", "--trainer.checkpoint_every=100000", "--trainer.executor=serial"]
    command = [sys.executable, "-m", "fedloge", "compare", "--config", str(COMPARISON), *options]
    process = subprocess.Popen([*command, "--trainer.evaluate_every=1"], stdout=subprocess.DEVNULL)
    started = {process.pid}
    try:
        run = RunFolder(tmp_path / "FedAvg" / "seed-0")
        wait_for(lambda: len(run.rows("metrics.csv")) >= 2, 300)
        started = family(process.pid)
        process.send_signal(signum)
        assert process.wait(timeout=120) == code
        wait_for(lambda: not any(map(alive, started)), 120)
    finally:
        for pid in filter(alive, started):
            os.kill(pid, signal.SIGKILL)
    assert run.checkpoints.read_info("last")["round"] >= 2


def test_a_killed_process_leaves_no_line(tmp_path):
    assert runner._last_line(tmp_path / "none.log") == "the process was killed"
