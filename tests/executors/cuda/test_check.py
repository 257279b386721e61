import pytest
import torch

from fedloge.cli import main
from fedloge.executors import Cohort, LocalSettings
from fedloge.executors.cuda.check import check_gpu, check_steps
from imitated_graphs import Graph, OnCPU, imitate


def cohort(graphs=True, **options):
    return OnCPU(**options) if graphs else Cohort(graphs=False, **options)


def test_steps_that_agree(imitated):
    eager, step, lanes = check_steps(LocalSettings(0), cohort)
    assert [check.problem for check in (eager, step, lanes)] == ["", "", ""]
    assert "deviates by 0 from that, 0.01 is allowed" in step.found
    assert "a round deviates by 0 from" in lanes.found


def test_a_replay_that_does_nothing(imitated, monkeypatch):
    monkeypatch.setattr(Graph, "replay", lambda self: None)
    _, step, lanes = check_steps(LocalSettings(0), cohort)
    assert "it deviates by" in step.problem
    assert "training is eager" in step.problem
    assert lanes.problem == ""  # since training is eager


def test_a_capture_that_fails(imitated, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no capture here")

    imitate(monkeypatch, graph=fail)
    eager, failed = check_steps(LocalSettings(0), cohort)
    assert eager.problem == ""
    assert "(RuntimeError: no capture here)" in failed.problem


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_check_fails(capsys):
    assert main(["doctor", "--gpu"]) == 1
    assert "NO  gpu" in capsys.readouterr().out
    (check,) = check_gpu()
    assert check.problem == "there is nothing to check"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu():
    assert [check.problem for check in check_gpu()] == ["", "", ""]
