"""Worker processes give what the serial executor gives, to the bit, and their failures are reported."""

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

from broken import DiesAtTwo, LoadsAtHome, Locked
from fedloge.errors import ConfigError, RunError
from fedloge.executors import ClientFailure, ClientTask, LocalSettings, Processes, Serial
from fedloge.executors.processes import _work
from fedloge.methods import CReFF, Ditto, FedAvg, FedLoGe, FedRep
from fedloge.models import CifarResNet
from harness import begun, build, initial, one_round, rounds, same

UNGUARDED_SCRIPT = """
import sys
from fedloge.data import Digits, FederatedDataModule
from fedloge.methods import FedAvg
from fedloge.models import SmallCNN
from fedloge.trainer import FederatedTrainer
trainer = FederatedTrainer(rounds=1, executor="processes", accelerator="cpu", run_dir=sys.argv[1])
trainer.fit(FedAvg(SmallCNN(in_channels=1), 10), datamodule=FederatedDataModule(Digits(), num_clients=2))
"""


SECOND_SCRIPT = """
import sys
from fedloge.data import Digits, FederatedDataModule
from fedloge.methods import FedAvg
from fedloge.models import SmallCNN
from fedloge.trainer import FederatedTrainer
for executor in ("serial", "processes"):
    folder = f"{sys.argv[1]}/{executor}"
    trainer = FederatedTrainer(rounds=1, executor=executor, accelerator="cpu", run_dir=folder, overwrite=True)
    trainer.fit(FedAvg(SmallCNN(in_channels=1), 10), datamodule=FederatedDataModule(Digits(), num_clients=2))
"""


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (FedAvg, {}),
        (FedAvg, {"pm": "local"}),
        (Ditto, {}),
        (FedRep, {"head_epochs": 1, "body_epochs": 1}),
        (CReFF, {}),
        (FedLoGe, {"beta": 0.3, "gamma": 1.0}),
    ],
)
def test_processes_give_what_serial_gives(data, method, options):
    expected, serial = rounds(Serial(), build(method, **options), data)
    state, parallel = rounds(Processes(2), build(method, **options), data)
    assert same(expected.shared.tensors, state.shared.tensors)
    assert same(expected.shared.fixed, state.shared.fixed)
    for one, other in zip(serial, parallel, strict=True):
        assert one.update.client == other.update.client
        assert one.update.metrics == other.update.metrics
        assert one.update.tensors.keys() == other.update.tensors.keys()
        assert same(one.update.tensors, other.update.tensors)
        assert same(one.update.report, other.update.report)
        assert one.personal.keys() == other.personal.keys()
        assert same(one.personal, other.personal)


def test_earlier_results_are_not_overwritten(data):
    _, results = rounds(Processes(1), build(FedAvg), data, count=1)
    assert len({result.update.tensors["head.weight"].data_ptr() for result in results}) == len(results)


def test_a_worker_that_dies_is_replaced_and_its_client_trained_again(data):
    expected, _ = rounds(Serial(), build(FedAvg), data, count=1)
    executor = Processes(2)
    method, state, tasks = begun(executor, data)
    results = executor.run(state.shared, state.clients, tasks)
    first = next(results)
    os.kill(executor._pool[0].process.pid, signal.SIGKILL)
    os.kill(executor._pool[1].process.pid, signal.SIGKILL)
    updates = [first.update, *(result.update for result in results)]
    executor.close()
    assert same(expected.shared.tensors, method.aggregate(iter(updates), state, torch.Generator()))


def test_workers_that_die_between_rounds_are_replaced(data):
    expected, _ = rounds(Serial(), build(FedAvg), data, count=1)
    executor = Processes(2)
    method, state, tasks = begun(executor, data)
    for _ in range(2):
        updates = [result.update for result in executor.run(state.shared, state.clients, tasks)]
        for worker in executor._pool:
            worker.process.kill()
            worker.process.join()
    executor.close()
    assert same(expected.shared.tensors, method.aggregate(iter(updates), state, torch.Generator()))


def test_a_client_that_kills_its_workers_is_a_failure(data):
    outcomes = one_round(Processes(2), build(DiesAtTwo), data)
    assert outcomes[2].reason == "its worker died 3 times (exit code 9): out of memory?"
    assert sum(isinstance(outcome, ClientFailure) for outcome in outcomes) == 1


def test_a_script_without_a_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED_SCRIPT)
    done = subprocess.run([sys.executable, script, tmp_path / "run"], capture_output=True, text=True)
    assert "RunError: a worker ended when it started (exit code 1)." in done.stderr
    assert "Each worker imports the script that trains: put its code under if __name__ == '__main__'." in done.stderr


def test_a_worker_that_imports_the_script_trains_nothing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SECOND_SCRIPT)
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert "RunError: this process is a worker that is starting. Each worker imports the script" in done.stderr
    assert "RunError: a worker ended when it started (exit code 1)." in done.stderr
    finished = (tmp_path / "serial" / "summary.json").stat().st_mtime_ns
    assert finished < (tmp_path / "processes" / "environment.json").stat().st_mtime_ns


def test_a_script_that_is_no_file_is_refused(tmp_path):
    command = [sys.executable, "-", tmp_path / "run"]
    done = subprocess.run(command, input=UNGUARDED_SCRIPT, capture_output=True, text=True)
    assert "ConfigError: trainer.executor='processes' needs the script in a file" in done.stderr
    assert "<stdin>' is not a file. Save the script, or take serial." in done.stderr
    assert not (tmp_path / "run" / "environment.json").exists()


def test_what_a_worker_cannot_find_is_told(data, monkeypatch):
    class Ours(FedAvg):
        __module__, __qualname__ = "made_up", "Ours"

    monkeypatch.setitem(sys.modules, "made_up", types.SimpleNamespace(Ours=Ours))
    with pytest.raises(
        RunError, match=r"No module named 'made_up'\. Define the classes of method and data in a module"
    ):
        rounds(Processes(2), build(Ours), data)


def test_what_cannot_be_sent_is_refused(data):
    class Local(FedAvg):
        pass

    with pytest.raises(ConfigError, match="cannot send method or data to a worker"):
        rounds(Processes(1), build(Local), data)


def test_what_cannot_be_pickled_is_refused(data):
    with pytest.raises(ConfigError, match=r"to a worker: cannot pickle '_thread\.lock' object"):
        rounds(Processes(1), build(Locked), data)


def test_what_cannot_be_loaded_is_told(data):
    with pytest.raises(RunError, match=r"cannot load method or data: ValueError: no state like this\. Take serial"):
        rounds(Processes(2), build(LoadsAtHome), data)


def test_a_worker_takes_few_open_files(data):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    method, executor = FedAvg(CifarResNet(20, width=4, in_channels=1), 3), Processes(2)
    assert len(method.state_dict()) > 100
    executor.start(method, data, LocalSettings(7))
    state, before = initial(method, data.num_clients), open_files()
    tasks = [ClientTask(client, 1, method.phases(1)) for client in range(data.num_clients)]
    next(executor.run(state.shared, state.clients, tasks))
    assert open_files() < before + 40
    executor.close()


def test_what_the_system_refuses_is_told(data, monkeypatch):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("fedloge.executors.processes.Slab", refuse)
    expected = r"workers=1 cannot be started: \[Errno 24\] Too many open files\. Take fewer, .*ulimit -n"
    with pytest.raises(ConfigError, match=expected):
        rounds(Processes(1), build(FedAvg), data)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_worker_that_is_told_to_stop_ends_without_a_word(stop, monkeypatch):
    def recv_bytes():
        raise stop

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    _work(types.SimpleNamespace(recv_bytes=recv_bytes))


def test_no_worker_outlives_its_executor(data):
    executor = Processes(2)
    method = build(FedAvg)
    executor.start(method, data, LocalSettings(7))
    state = initial(method, data.num_clients)
    next(executor.run(state.shared, state.clients, [ClientTask(k, 1, method.phases(1)) for k in range(3)]))
    pids = [worker.process.pid for worker in executor._pool]
    executor.close()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_more_workers_than_cores_warn_once():
    with pytest.warns(UserWarning, match="is more than the"):
        Processes(1000)
    for count in (0, 100_000):
        with pytest.raises(ConfigError, match=rf"trainer\.executor\.workers={count} must lie between 1 and 1024"):
            Processes(count)


def test_processes_are_for_the_cpu(data):
    with pytest.raises(ConfigError, match="the device is cuda:0"):
        Processes(1).start(build(FedAvg), data, LocalSettings(0, device=torch.device("cuda:0")))
