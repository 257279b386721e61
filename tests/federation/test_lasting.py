"""A client that cannot be trained ends a run at once, or stands beside its results."""

import json

import pytest

from broken import Faulty, is_faulty
from fedloge.callbacks import FederatedCallback
from fedloge.errors import RunError
from fedloge.executors import Processes
from fedloge.federation.lasting import drawn_rounds
from fedloge.federation.sampling import sample_cohort
from fedloge.methods import FedAvg
from fedloge.models import SmallCNN
from fedloge.runs.folder import RunFolder
from harness import dealt
from tiny_runs import run_tiny

CONTINUES = "ignore:round . continues without client"


class FailsWithTwo(FedAvg):
    """Client 2 fails in some rounds; a batch says whose it is."""

    rounds = range(1, 100)

    def local_losses(self, batch):
        if self.client.id == 2 and self.client.round in self.rounds:
            raise ValueError("no loss today")
        return super().local_losses(batch)


def fit(folder, rounds=3, fails=range(1, 100), **options):
    method = FailsWithTwo(SmallCNN((6,), in_channels=1), 3)
    method.rounds = fails
    data = dealt([8, 8, 8, 8], batch_size=4)
    return run_tiny(folder, method=method, data=data, rounds=rounds, participation=1.0, **options)


@pytest.mark.filterwarnings(CONTINUES)
def test_a_client_that_fails_again_ends_the_run_before_the_second_round(tmp_path):
    expected = r"round 1: a client fails in every round: client 2: ValueError: no loss today\. .*=skip trains without"
    with pytest.raises(RunError, match=expected):
        fit(tmp_path / "run", checkpoint_every=100)
    folder = RunFolder(tmp_path / "run")
    assert folder.checkpoints.read_info("last")["round"] == 1
    assert [row["round"] for row in folder.rows("faults.csv")] == ["1"]
    assert not (tmp_path / "run" / "summary.json").exists()
    fit(tmp_path / "run", ckpt_path="last", on_client_failure="skip")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (failed,) = summary["clients"]["failed"]
    assert failed == {"client": 2, "failures": 3, "rounds": 3, "reason": "ValueError: no loss today"}


@pytest.mark.filterwarnings(CONTINUES)
@pytest.mark.parametrize("fails", [[1], [2], [3]])
def test_a_fault_that_passes_does_not_end_the_run(tmp_path, fails):
    fit(tmp_path / "run", fails=fails)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (failed,) = summary["clients"]["failed"]
    assert (failed["client"], failed["failures"], failed["rounds"]) == (2, 1, 3)


@pytest.mark.filterwarnings(CONTINUES)
def test_a_client_that_was_trained_before_does_not_end_the_run(tmp_path):
    fit(tmp_path / "run", fails=[2, 3])
    assert len(RunFolder(tmp_path / "run").rows("faults.csv")) == 2


@pytest.mark.filterwarnings(CONTINUES)
def test_the_trial_changes_nothing(tmp_path):
    for name, executor in (("a", "serial"), ("b", Processes(2))):
        fit(tmp_path / name, fails=[1], executor=executor)
    fit(tmp_path / "skipped", fails=[1], on_client_failure="skip")  # without a trial
    states = [RunFolder(tmp_path / name).checkpoints.load("last").shared.tensors for name in ("a", "b", "skipped")]
    assert all(states[0][key].equal(state[key]) for state in states[1:] for key in state)


def test_the_rounds_of_a_client(tmp_path):
    trainer = fit(tmp_path / "run", rounds=1, fails=[])
    trainer._parts = trainer.parts.__class__(**{**vars(trainer.parts), "participation": 0.5})
    drawn = drawn_rounds(trainer.parts, [0, 3], 20)
    cohorts = {number: sample_cohort(trainer.seed, number, 4, 0.5) for number in range(1, 21)}
    assert drawn == {client: [number for number, own in cohorts.items() if client in own] for client in (0, 3)}


@pytest.mark.filterwarnings(CONTINUES)
def test_a_client_that_is_drawn_late_ends_the_run_then(tmp_path):
    class Watch(FederatedCallback):
        def on_round_start(self, trainer, round, cohort):
            cohorts.append(cohort)

    cohorts, method = [], FailsWithTwo(SmallCNN((6,), in_channels=1), 3)
    data = dealt([8, 8, 8, 8, 8], batch_size=4)
    options = {"participation": 0.4, "rounds": 50, "min_clients": 0.0, "callbacks": [Watch()]}
    with pytest.raises(RunError, match="a client fails in every round: client 2"):
        run_tiny(tmp_path / "run", method=method, data=data, **options)
    assert 2 in cohorts[-1]
    assert not any(2 in cohort for cohort in cohorts[:-1])


@pytest.mark.filterwarnings(CONTINUES)
def test_faults_at_random_do_not_end_a_run(tmp_path):
    method, options = Faulty(SmallCNN((6,), in_channels=1), 3), {"participation": 1.0, "min_clients": 0.2}
    run_tiny(tmp_path / "run", method=method, data=dealt([8] * 7), **options)
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["clients"]["failed"]
    expected = [sum(is_faulty(k, r, Faulty.share) for r in range(1, 6)) for k in range(7)]
    assert {one["client"]: one["failures"] for one in found} == {k: n for k, n in enumerate(expected) if n}
