import json
import shutil
from pathlib import Path

import pytest

from fedloge.cli import main

ROOT = Path(__file__).parents[1]
QUICKSTART = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), "--report=false"]
SHORT = ["--trainer.local_epochs=1", "--trainer.evaluate_every=1", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*QUICKSTART, *SHORT, "--trainer.rounds=3", f"--trainer.run_dir={folder}"]) == 0
    return folder


def weights(folder):
    return {path.name: path.read_bytes() for path in (folder / "checkpoints" / "final").glob("*.safetensors")}


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_resume_extends_a_run(whole, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*QUICKSTART, *SHORT, "--trainer.rounds=2", f"--trainer.run_dir={run}"]) == 0
    assert main(["resume", str(run), "--trainer.rounds=3"]) == 0
    assert weights(run) == weights(whole)
    assert json.loads((run / "summary.json").read_text())["rounds"] == 3
    for name in ("per_class.csv", "per_client.csv", "confusion.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    capsys.readouterr()
    assert main(["resume", str(run)]) == 0
    assert "FedLoGe on digits, round 3" in capsys.readouterr().out


def test_fit_resume_starts_and_continues(whole, tmp_path):
    options = [*QUICKSTART, *SHORT, f"--trainer.run_dir={tmp_path / 'run'}", "--resume"]
    assert main([*options, "--trainer.rounds=1"]) == 0
    assert main([*options, "--trainer.rounds=3"]) == 0
    assert weights(tmp_path / "run") == weights(whole)


def test_another_meaning_is_refused_naming_the_options(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    before = everything(tmp_path / "run")
    options = ["--model.gamma=0.5", "--data.batch_size=4", "--trainer.rounds=4"]
    assert main(["resume", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert "data.batch_size=8 (now 4); model.init_args.gamma=1.0 (now 0.5)" in error
    assert "rounds" not in error
    assert main(["resume", str(tmp_path / "run"), "--model.gamma=0.5"]) == 2
    assert everything(tmp_path / "run") == before


def test_options_without_meaning_may_change(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    options = ["--trainer.rounds=4", "--trainer.checkpoint_every=2", "--trainer.executor=serial"]
    assert main(["resume", str(tmp_path / "run"), *options]) == 0


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["resume", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
