"""A run that was stopped ends as if it had not been."""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch

from broken import Faulty, is_faulty
from conftest import tiny_source
from fedloge.callbacks import FederatedCallback
from fedloge.data import FederatedDataModule
from fedloge.errors import ConfigError, RunError
from fedloge.executors import Cohort, Processes, Ray, Serial
from fedloge.federation.state import ClientStore
from fedloge.methods import CReFF, FedAvg, FedLoGe, FedNH, FedYoYo, RatioLoss
from fedloge.models import SmallCNN
from fedloge.runs.checkpoint import Checkpoints
from fedloge.runs.folder import RunFolder
from fedloge.runs.run import Run
from fedloge.system.interrupts import Interrupted
from tiny_runs import child, content, die_at, hold_lock, run_tiny

RANDOM_KILLS = 50


class StopError(Exception):
    pass


class StopAfter(FederatedCallback):
    """Ends a run with an error after a number of rounds."""

    def __init__(self, rounds):
        self.rounds = rounds

    def on_round_end(self, trainer, round, metrics):
        if round == self.rounds:
            raise StopError


@pytest.mark.parametrize("rounds", [1, 2, 4, 5])
@pytest.mark.parametrize("every", [1, 2])
def test_a_resumed_run_comes_to_the_same_end(whole, tmp_path, rounds, every):
    with pytest.raises(StopError):
        run_tiny(tmp_path / "run", checkpoint_every=every, callbacks=StopAfter(rounds))
    run_tiny(tmp_path / "run", "last", checkpoint_every=every)
    assert content(tmp_path / "run") == whole[1]


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        (FedLoGe, {"beta": 0.3, "gamma": 1.0, "finetune_epochs": 1}),
        (CReFF, {}),
        (FedNH, {}),
        (FedYoYo, {}),
        (RatioLoss, {}),
    ],
)
def test_a_true_precision_gives_the_same_with_workers_and_after_a_stop(tmp_path, precision, method, options):
    def trained(folder, ckpt_path=None, **more):
        source = {"num_clients": 3, "imbalance_factor": 4, "batch_size": 16, "alpha": 1.0, "auxiliary": 2}
        torch.manual_seed(0)
        net, data = SmallCNN((6,), in_channels=1), FederatedDataModule(tiny_source(), **source)
        run_tiny(tmp_path / folder, ckpt_path, method(net, 3, **options), data, precision=precision, **more)
        return content(tmp_path / folder)

    expected = trained("serial")
    assert "faults.csv" not in expected
    assert trained("processes", executor=Processes(2)) == expected
    trained("stopped", rounds=3)
    assert trained("stopped", "last") == expected
    state = RunFolder(tmp_path / "serial").checkpoints.load("last").shared.tensors
    kind = {"64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {kind}


def test_models_of_a_run_in_double_precision_take_images(tmp_path):
    trainer = run_tiny(tmp_path / "run", rounds=1, precision="64-true")
    predictor = Run(tmp_path / "run", trainer, trainer.method, trainer.data).generic()
    assert predictor(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).dtype == torch.float64


def test_a_run_resumes_in_another_precision(tmp_path):
    run_tiny(tmp_path / "run", rounds=2, precision="64-true")
    run_tiny(tmp_path / "run", "last", precision="32-true", executor=Processes(2))
    state = RunFolder(tmp_path / "run").checkpoints.load("last")
    assert {tensor.dtype for tensor in state.shared.tensors.values() if tensor.is_floating_point()} == {torch.float32}


def test_more_rounds_extend_a_finished_run(whole, tmp_path):
    run_tiny(tmp_path / "run", rounds=3)
    run_tiny(tmp_path / "run", "last")
    assert content(tmp_path / "run") == whole[1]


def test_a_finished_run_is_left_alone(whole):
    before = (whole[0] / "summary.json").stat().st_mtime_ns
    run_tiny(whole[0], "last")
    assert (whole[0] / "summary.json").stat().st_mtime_ns == before


def test_resume_begins_where_there_is_nothing(whole, tmp_path):
    run_tiny(tmp_path / "run", "last")
    assert content(tmp_path / "run") == whole[1]


def test_fewer_rounds_than_done_are_refused(whole):
    with pytest.raises(ConfigError, match=r"trainer\.rounds=3 but the run has done 5"):
        run_tiny(whole[0], "last", rounds=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "was started with seed=3407, this one has seed=1"),
        (
            {"method": FedAvg(SmallCNN((6,), in_channels=1), 3)},
            "was started with method='FedLoGe', this one has method='FedAvg'",
        ),
        ({"method": FedLoGe(SmallCNN((7,), in_channels=1), 3, beta=0.3)}, "other layers"),
        (
            {"data": FederatedDataModule(tiny_source(), num_clients=3, imbalance_factor=2)},
            "was started with partition=",
        ),
    ],
)
def test_another_run_cannot_be_resumed(whole, change, message):
    with pytest.raises(RunError, match=message):
        run_tiny(whole[0], "last", **change)
    assert content(whole[0]) == whole[1]


# Killed at any moment


def finish(folder):
    process = child(run_tiny, folder, "last")
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
def test_a_kill_at_every_step_of_every_save_loses_nothing(whole, tmp_path):
    kills = 0
    for call in range(1, 10_000):
        folder = tmp_path / "run"
        process = child(die_at, call, folder, None)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == 9
        kills += 1
        finish(folder)
        assert content(folder) == whole[1], f"killed at step {call}"
        shutil.rmtree(folder)
    print(f"{kills} kills")
    assert kills >= 50


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(whole, tmp_path):
    chance = random.Random(0)
    began = time.monotonic()
    finish(tmp_path / "timed")
    seconds = time.monotonic() - began
    hits = 0
    for number in range(RANDOM_KILLS):
        folder = tmp_path / str(number)
        process = child(run_tiny, folder, "last")
        time.sleep(chance.uniform(0, seconds))
        process.kill()
        process.join()
        hits += process.exitcode == -signal.SIGKILL
        finish(folder)
        assert content(folder) == whole[1]
    assert hits >= RANDOM_KILLS / 2


# Signals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_last_whole_round(whole, tmp_path, signum, monkeypatch):
    losses = FedLoGe.local_losses

    def interrupting(self, batch):
        if self.client.round == 4:
            monkeypatch.undo()
            os.kill(os.getpid(), signum)
        return losses(self, batch)

    monkeypatch.setattr(FedLoGe, "local_losses", interrupting)
    with pytest.raises(Interrupted, match="stopped after round 3 of 5, which is saved") as caught:
        run_tiny(tmp_path / "run", checkpoint_every=100, executor="serial")
    assert caught.value.signum == signum
    assert RunFolder(tmp_path / "run").checkpoints.read_info("last")["round"] == 3
    run_tiny(tmp_path / "run", "last", checkpoint_every=100)
    assert content(tmp_path / "run") == whole[1]


def test_a_second_signal_does_not_prevent_saving(whole, tmp_path, monkeypatch):
    losses, save = FedLoGe.local_losses, Checkpoints.save

    def interrupting(self, batch):
        if self.client.round == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, batch)

    def saving(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FedLoGe, "local_losses", interrupting)
        patch.setattr(Checkpoints, "save", saving)
        with pytest.raises(Interrupted, match="stopped after round 3 of 5"):
            run_tiny(tmp_path / "run", checkpoint_every=100, executor="serial")
    run_tiny(tmp_path / "run", "last", checkpoint_every=100)
    assert content(tmp_path / "run") == whole[1]


def test_an_exit_from_a_callback_saves_the_last_whole_round(tmp_path):
    class Leaving(FederatedCallback):
        def on_round_end(self, trainer, round, metrics):
            if round == 3:
                raise SystemExit(1)  # as a library does when standard output is closed

    with pytest.raises(SystemExit):
        run_tiny(tmp_path / "run", checkpoint_every=100, callbacks=Leaving())
    assert RunFolder(tmp_path / "run").checkpoints.read_info("last")["round"] == 3


@pytest.mark.parametrize("hook", ["on_round_start", "on_client_end", "on_round_end"])
def test_an_error_of_any_kind_saves_the_last_whole_round(whole, tmp_path, hook):
    def fail(self, trainer, round, *arguments):
        if round == 4:
            raise ZeroDivisionError

    callback = type("Failing", (FederatedCallback,), {hook: fail})()
    with pytest.raises(ZeroDivisionError):
        run_tiny(tmp_path / "run", checkpoint_every=100, callbacks=callback)
    assert RunFolder(tmp_path / "run").checkpoints.read_info("last")["round"] == (4 if hook == "on_round_end" else 3)
    run_tiny(tmp_path / "run", "last", checkpoint_every=100)
    assert content(tmp_path / "run") == whole[1]


def test_a_round_that_is_not_whole_is_not_saved(whole, tmp_path, monkeypatch):
    def adopt(self, fork):
        rounds.append(fork)
        changed(self, fork)
        if len(rounds) == 3:
            raise RunError("the disk is full")

    rounds, changed = [], ClientStore.adopt
    with monkeypatch.context() as patch:
        patch.setattr(ClientStore, "adopt", adopt)
        with pytest.raises(RunError, match="the disk is full"):
            run_tiny(tmp_path / "run", checkpoint_every=2)
    assert RunFolder(tmp_path / "run").checkpoints.read_info("last")["round"] == 2
    run_tiny(tmp_path / "run", "last", checkpoint_every=2)
    assert content(tmp_path / "run") == whole[1]


def test_an_error_while_saving_does_not_hide_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "save", lambda *_: (_ for _ in ()).throw(RunError("the disk is full")))
    with pytest.raises(StopError):
        run_tiny(tmp_path / "run", checkpoint_every=100, callbacks=StopAfter(2))


# Damage


def test_the_checkpoint_before_is_offered_and_works(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "checkpoints" / "last" / "clients.safetensors").write_bytes(b"foreign")
    with pytest.raises(
        RunError, match=r"clients\.safetensors' is damaged.*of round 4, is whole.*--checkpoint=previous"
    ):
        run_tiny(tmp_path / "run", "last")
    run_tiny(tmp_path / "run", "previous")
    assert content(tmp_path / "run") == whole[1]


def test_a_disk_that_fills_up_ends_the_run_with_its_checkpoint(small_disk, whole):
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        run_tiny(small_disk / "run", rounds=10_000)
    round = RunFolder(small_disk / "run").checkpoints.read_info("last")["round"]
    assert round > 0
    shutil.copytree(small_disk / "run", small_disk.parent / "saved")
    run_tiny(small_disk.parent / "saved", "last", rounds=round + 1)


def test_a_read_only_disk_gives_a_clear_error(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunError, match="cannot be written: Read-only file system"):
        run_tiny(small_disk / "run")


def test_a_folder_in_use_is_refused_and_a_dead_process_keeps_no_lock(tmp_path):
    with RunFolder(tmp_path / "run").locked(), pytest.raises(RunError, match="is in use by another process"):
        run_tiny(tmp_path / "run")
    process = child(hold_lock, tmp_path / "run")
    while not (tmp_path / "run" / "held").exists():
        assert process.is_alive()
        time.sleep(0.01)
    with pytest.raises(RunError, match="in use"), RunFolder(tmp_path / "run").locked():
        pass
    process.kill()
    process.join()
    with RunFolder(tmp_path / "run").locked():
        pass


# Faulty clients


def faulty(**options):
    data = FederatedDataModule(tiny_source(), num_clients=10, imbalance_factor=4, batch_size=16, alpha=1.0)
    method = Faulty(SmallCNN((6,), in_channels=1), 3)
    return {"method": method, "data": data, "participation": 1.0, "min_clients": 0.2, **options}


def ray_of_two():
    pytest.importorskip("ray", reason="needs the extra fedloge[ray]")
    return Ray(workers=2)


@pytest.mark.filterwarnings("ignore:round .* continues without client")
@pytest.mark.parametrize(
    "executor",
    [Serial, lambda: Processes(2), lambda: Cohort(graphs=False), pytest.param(ray_of_two, marks=pytest.mark.slow)],
    ids=["serial", "processes", "cuda", "ray"],
)
def test_faults_never_reach_the_model(tmp_path, executor):
    run_tiny(tmp_path / "run", **faulty(executor=executor()))
    state = RunFolder(tmp_path / "run").checkpoints.load("final")
    assert all(torch.isfinite(tensor).all() for tensor in state.shared.tensors.values())
    rows = RunFolder(tmp_path / "run").rows("faults.csv")
    expected = [(r, k) for r in range(1, 6) for k in range(10) if is_faulty(k, r, Faulty.share)]
    assert [(int(row["round"]), int(row["client"])) for row in rows] == expected
    assert 5 <= len(expected) <= 15
    assert {row["attempts"] for row in rows} == {"2"}


def test_abort_ends_the_run(tmp_path):
    with pytest.raises(RunError, match=r"client \d+ failed.*--trainer\.on_client_failure=retry"):
        run_tiny(tmp_path / "run", **faulty(on_client_failure="abort", min_clients=0.5))


@pytest.mark.filterwarnings("ignore:round .* continues without client")
def test_too_few_survivors_end_the_run_saved(tmp_path):
    lost = [sum(is_faulty(k, r, Faulty.share) for k in range(10)) for r in (1, 2, 3)]
    assert lost == [1, 2, 4]
    with pytest.raises(RunError, match=r"round 3: 6 of 10 clients survived, trainer\.min_clients=0\.7"):
        run_tiny(tmp_path / "run", **faulty(min_clients=0.7, checkpoint_every=100))
    assert RunFolder(tmp_path / "run").checkpoints.read_info("last")["round"] == 2
