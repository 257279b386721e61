import sys
from importlib import metadata

import pytest

from fedloge.cli import main
from fedloge.system import doctor


@pytest.fixture
def requires(monkeypatch):
    def give(*lines):
        monkeypatch.setattr(metadata, "requires", lambda _: list(lines))

    return give


def test_a_healthy_environment(requires, capsys):
    requires("torch>=2", "rich", "nowhere-to-be-found; extra == 'dev'")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"torch                {metadata.version('torch')}" in text
    assert "pip install 'fedloge[dev]'" in text
    assert text.endswith("nothing is missing (1 remark above)\n")


def test_what_is_missing_or_too_old_is_named_with_the_remedy(requires, capsys):
    requires("nowhere-to-be-found>=1", "torch>=99", "lightning!=0.0")
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "pip install 'nowhere-to-be-found>=1'" in text
    assert "pip install 'torch>=99'" in text
    assert "missing or broken: nowhere-to-be-found, torch" in text


def test_a_checkout_that_is_not_installed_is_a_remark(requires, monkeypatch, capsys):
    requires()
    monkeypatch.setattr(doctor, "installed_version", lambda package: None)
    assert main(["doctor"]) == 0
    assert "a checkout that is not installed: its requirements are not known" in capsys.readouterr().out


def test_a_nearly_full_disk_is_a_remark(requires, disk, capsys):
    requires("torch")
    disk(999_999_999)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "less than 1 GB; the run folder is written here" in text
    assert text.endswith("nothing is missing (1 remark above)\n")


def test_requirements_of_other_systems_do_not_count(requires):
    requires("nowhere-to-be-found; sys_platform == 'plan9'")
    assert doctor.healthy(doctor.examine())


def test_a_broken_torch_is_a_finding(requires, monkeypatch, capsys):
    requires()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["doctor"]) == 1
    assert "NO  torch" in capsys.readouterr().out


def test_a_device_that_does_not_work(monkeypatch):
    import torch

    def fail(index):
        raise RuntimeError("CUDA error: no kernel image\nmore")

    monkeypatch.setattr(torch.cuda, "get_device_properties", fail)
    check = doctor._cuda_device(0, "torch was built for CUDA 13.2")
    assert "no kernel image. Take --trainer.accelerator=cpu" in check.problem
    assert "\n" not in check.problem
