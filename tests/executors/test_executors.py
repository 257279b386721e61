"""Every executor gives what the serial one gives, to the bit."""

import os
import signal
import subprocess
import sys
import time
import types
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from broken import DiesAtTwo, DivergesAtTwo, FailsAtTwo, LoadsAtHome, Locked
from fedloge.data import Arrays
from fedloge.errors import ConfigError, RunError
from fedloge.executors import ClientFailure, ClientTask, LocalSettings, Processes, Serial, make_executor
from fedloge.executors.base import ClientResult, largest_first
from fedloge.executors.client import local_trainer
from fedloge.executors.cuda.executor import Cohort
from fedloge.executors.processes import Slab, _context, _work
from fedloge.federation.state import ClientUpdate, FederatedState
from fedloge.methods import CReFF, Ditto, FedAvg, FedLoGe, FedProx, FedRep
from fedloge.models import CifarResNet
from harness import build, initial, same

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

CPU = LocalSettings(0)


@pytest.fixture
def data(make_data):
    module = make_data(num_clients=5)
    module.setup()
    return module


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


@pytest.mark.parametrize("method", [FedProx, FedLoGe])
def test_all_give_the_same_on_images_in_colour(make_data, method):
    """There, unlike with one channel, the layout of the images in memory is not that of the weights."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.arange(3).repeat(20)
    data = make_data(Arrays(images, labels, images[:9], labels[:9]), num_clients=3, augment="crop_flip")
    data.setup()

    def trained(executor):
        torch.manual_seed(0)
        return rounds(executor, method(CifarResNet(8, width=8), 3), data)

    expected, serial = trained(Serial())
    for executor in (Processes(2), Cohort(graphs=False)):
        state, results = trained(executor)
        assert same(expected.shared.tensors, state.shared.tensors)
        assert all(same(one.personal, other.personal) for one, other in zip(serial, results, strict=True))


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


@pytest.mark.parametrize("executor", [Serial, lambda: Processes(2)])
def test_a_client_that_fails_is_told_and_the_others_go_on(data, executor):
    outcomes = one_round(executor(), build(FailsAtTwo), data)
    failures = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
    assert [(failure.client, failure.reason) for failure in failures] == [(2, "ValueError: no loss today")]
    assert "in local_losses" in failures[0].details
    assert [outcome.update.client for outcome in outcomes if outcome not in failures] == [0, 1, 3, 4]


@pytest.mark.parametrize("executor", [Serial, lambda: Processes(2)])
def test_what_is_not_finite_is_a_failure(data, executor):
    outcomes = one_round(executor(), build(DivergesAtTwo), data)
    assert isinstance(outcomes[2], ClientFailure)
    assert outcomes[2].reason == "backbone.stages.0.weight in its update is not finite"
    assert sum(isinstance(outcome, ClientFailure) for outcome in outcomes) == 1


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


def test_auto_takes_serial_where_no_worker_can_start(data, monkeypatch, disk):
    monkeypatch.setattr("fedloge.executors.num_cores", lambda: 4)
    assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU, data), Processes)
    with pytest.warns(UserWarning, match="one at a time: .*cannot pickle"):
        assert isinstance(make_executor("auto", 1e12, build(Locked), CPU, data), Serial)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["__main__"], "__spec__", None)
        patch.setattr(sys.modules["__main__"], "__file__", "<stdin>")
        with pytest.warns(UserWarning, match="one at a time: .*<stdin>"):
            assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU, data), Serial)
    disk(2**20)
    with pytest.warns(UserWarning, match="one at a time: .* in /dev/shm"):
        assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU, data), Serial)


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


def test_workers_need_shared_memory(data, disk):
    method, executor = build(FedAvg), Processes(2)
    disk(2 * 2**20)
    with pytest.warns(UserWarning, match=r"/dev/shm has room for 1 of 2 workers\. .* docker run --shm-size"):
        executor.start(method, data, CPU)
    assert executor.workers == 1
    disk(2**20)
    with pytest.raises(ConfigError, match="needs 1 MB in /dev/shm for a worker, which has 1"):
        Processes(2).start(method, data, CPU)


def test_ctrl_c_does_not_reach_what_starts_workers():
    _context()
    status = Path(f"/proc/{forkserver._forkserver._forkserver_pid}/status").read_text()
    blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
    assert blocked & 1 << signal.SIGINT - 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


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


def test_auto_starts_workers_where_that_pays(monkeypatch):
    monkeypatch.setattr("fedloge.executors.num_cores", lambda: 4)
    assert isinstance(make_executor("auto", 1e6, build(FedAvg), CPU), Serial)
    assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU), Processes)
    monkeypatch.setattr("fedloge.executors.num_cores", lambda: 1)
    assert isinstance(make_executor("auto", 1e12, build(FedAvg), CPU), Serial)
    ready = Serial()
    assert make_executor(ready, 0, build(FedAvg), CPU) is ready


# The schedule


def schedule(sizes, workers, window):
    """Run tasks that take their size in time on some workers; returns the order of starts and the most that waited."""
    clock, starts, free, running, most = 0.0, [], list(range(workers)), {}, 0
    done = set()

    def submit(worker, position):
        free.remove(worker)
        starts.append(position)
        running[position] = (clock + sizes[position], worker)

    def collect():
        nonlocal clock
        position = min(running, key=lambda p: running[p])
        clock, worker = running.pop(position)
        free.append(worker)
        done.add(position)
        return position, ClientResult(ClientUpdate(position, {}, 1, ()), {})

    tasks = [ClientTask(k, 1, ()) for k in range(len(sizes))]
    order = []
    for result in largest_first(tasks, sizes, window, lambda: free[0] if free else None, submit, collect):
        order.append(result.update.client)
        most = max(most, len(done) - len(order))
    return starts, order, most, clock


def test_the_largest_goes_first_and_results_come_in_order():
    starts, order, _, clock = schedule([1, 5, 2, 8, 3], workers=2, window=100)
    assert starts == [3, 1, 4, 2, 0]
    assert order == [0, 1, 2, 3, 4]
    assert clock == 10  # 8 + 2 beside 5 + 3 + 1


def test_a_window_bounds_what_waits():
    sizes = [(7 * k) % 13 + 1 for k in range(200)]
    starts, order, most, _ = schedule(sizes, workers=4, window=8)
    assert order == list(range(200))
    assert sorted(starts) == order
    assert most < 8


# The shared memory


def test_a_slab_gives_back_what_was_packed():
    tensors = {
        "a": torch.randn(3, 5),
        "flag": torch.tensor(True),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "half": torch.randn(3).half(),
    }
    slab = Slab(sum(t.numel() * t.element_size() + 16 for t in tensors.values()))
    unpacked = slab.unpack(slab.pack(tensors))
    assert unpacked.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(unpacked[name], tensor)
        assert unpacked[name].dtype == tensor.dtype
    with pytest.raises(ValueError, match="do not fit"):
        slab.pack({"big": torch.zeros(1000)})


def test_trainers_look_for_plugins_once(monkeypatch):
    local_trainer(LocalSettings(0), 1)
    monkeypatch.setattr("importlib.metadata.Distribution.entry_points", property(lambda self: pytest.fail("read anew")))
    local_trainer(LocalSettings(0), 1)
