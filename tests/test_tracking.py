import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from fedloge import tracking
from fedloge.cli import main
from fedloge.errors import ConfigError
from fedloge.runs.folder import RunFolder
from fedloge.trainer import FederatedTrainer
from names import AWKWARD
from wandb_files import read_runs

ROOT = Path(__file__).parents[1]
SHORT = [
    "fit",
    "--config",
    str(ROOT / "configs" / "quickstart.yaml"),
    "--trainer.rounds=2",
    "--trainer.local_epochs=1",
    "--trainer.evaluate_every=1",
    "--trainer.accelerator=cpu",
]


def rows(folder, name):
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A run with W&B offline and Lightning's CSV logger, both by name."""
    pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        assert main([*SHORT, "--trainer.logger=[wandb,csv]", f"--trainer.run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def run(logged):
    (only,) = read_runs(logged)
    return only


def test_one_run_with_the_round_as_the_step(logged, run):
    metrics = rows(logged, "metrics.csv")
    assert [step for step in run.history if "global/acc" in run.history[step]] == [1, 2]
    for row in metrics:
        row_logged = run.history[int(row["round"])]
        for name in ("global/acc", "global/acc_many", "global/acc_medium", "global/acc_few", "personal/acc_mean"):
            assert row_logged[name] == pytest.approx(float(row[name]), abs=1e-6)
    assert run.project == "fedloge"
    assert json.loads((logged / "tracking.json").read_text())["id"] == run.id


def test_the_resolved_configuration(logged, run):
    config = yaml.safe_load((logged / "config.yaml").read_text())
    assert run.config["model"] == config["model"]
    assert run.config["trainer"] == config["trainer"]
    assert run.config["data"] == config["data"]


def test_tables_and_bar_charts_of_the_final_models(logged, run):
    last = run.history[2]
    clients = run.table(last["per_client"])
    assert [row["accuracy"] for row in clients] == [
        pytest.approx(float(row["accuracy"]), abs=1e-6) for row in rows(logged, "per_client.csv") if row["round"] == "2"
    ]
    classes = [row for row in run.table(last["per_class"]) if row["view"] == "global"]
    assert [row["name"] for row in classes] == [str(digit) for digit in range(10)]
    assert {row["group"] for row in classes} == {"many", "medium", "few"}
    charts = run.config["_wandb"]["visualize"]
    for view in ("global", "personal"):
        assert "bar" in charts[f"per_class_accuracy/{view}"]["panel_config"]["panelDefId"]
        assert len(run.table(last[f"per_class_accuracy/{view}_table"])) == 10


def test_tables_for_wandb_have_the_names_as_they_are(tmp_path):
    pytest.importorskip("wandb")
    folder = RunFolder(tmp_path)
    names = list(AWKWARD.values())
    scores = {"round": 1, "view": "global", "n_train": 3, "n_test": 2, "accuracy": 0.5}
    folder.append("per_class.csv", [{**scores, "class": c, "name": name} for c, name in enumerate(names)])
    found = tracking.final_tables(folder, {"rounds": 1, "shots": {"groups": ["many"] * len(names)}})
    assert set(found) == {"per_class", "per_client", "per_class_accuracy/global"}
    column = found["per_class"].columns.index("name")
    assert [row[column] for row in found["per_class"].data] == names


def test_the_heat_map_of_sse_c(run):
    picture = run.history[0]["SSE-C"]
    assert "10 class vectors" in picture["captions"][0]
    with Image.open(run.folder / "media" / "images" / Path(picture["filenames"][0]).name) as image:
        assert image.size == (400, 400)
        assert image.getpixel((20, 20)) == (255, 0, 0)  # a vector with itself
        assert image.getpixel((60, 20)) == pytest.approx((227, 227, 255), abs=1)  # -1/9 between classes


def test_the_summary(logged, run):
    summary = json.loads((logged / "summary.json").read_text())
    assert run.summary["run"]["partition_sha256"] == summary["partition_sha256"]
    assert run.summary["run"]["last10"] == summary["last10"]


def test_a_resumed_run_has_the_same_id(logged, run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    copied = tmp_path / "run"
    shutil.copytree(logged, copied, symlinks=True)
    assert main(["resume", str(copied), "--trainer.rounds=3"]) == 0
    first, second = read_runs(copied)
    assert first.id == second.id == run.id
    metrics = rows(copied, "metrics.csv")
    assert [row["round"] for row in metrics] == ["1", "2", "3"]
    assert second.history[3]["global/acc"] == pytest.approx(float(metrics[2]["global/acc"]), abs=1e-6)
    assert len(second.table(second.history[3]["per_client"])) == 20
    assert [row["step"] for row in rows(copied, "csv/metrics.csv")] == ["1", "2", "3"]
    before = sorted(copied.rglob("*.wandb"))
    assert main(["resume", str(copied)]) == 0  # it is finished: nothing is logged again
    assert sorted(copied.rglob("*.wandb")) == before


def test_the_csv_logger_begins_with_the_rounds_done(logged):
    written = rows(logged, "csv/metrics.csv")
    assert [row["step"] for row in written] == ["1", "2"]
    logger = tracking.csv_logger(RunFolder(logged))
    logger.log_metrics({"global/acc": 0.5}, step=3)
    logger.finalize("success")
    assert [row["step"] for row in rows(logged, "csv/metrics.csv")] == ["1", "2", "3"]


def test_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tmp_path / "logged.yaml"
    settings = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    settings["trainer"]["logger"] = "tensorboard"
    config.write_text(yaml.safe_dump(settings))
    options = [*SHORT[:2], str(config), *SHORT[3:], f"--trainer.run_dir={tmp_path / 'run'}"]
    assert main(options) == 0
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("global/acc")]
    metrics = rows(tmp_path / "run", "metrics.csv")
    assert scalars == [(int(row["round"]), pytest.approx(float(row["global/acc"]), abs=1e-6)) for row in metrics]


def test_lightning_classes_work_too(tmp_path):
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'own'}"]
    assert main([*SHORT, *logger, f"--trainer.run_dir={tmp_path / 'run'}"]) == 0
    (written,) = (tmp_path / "own").rglob("metrics.csv")
    assert written.read_text().count("\n") == 3


def test_names_and_classes_together_in_yaml(tmp_path):
    settings = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    settings["trainer"]["logger"] = [
        "csv",
        {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "own")}},
    ]
    (tmp_path / "logged.yaml").write_text(yaml.safe_dump(settings))
    run = tmp_path / "run"
    assert main([*SHORT[:2], str(tmp_path / "logged.yaml"), *SHORT[3:], f"--trainer.run_dir={run}"]) == 0
    (own,) = (tmp_path / "own").rglob("metrics.csv")
    assert own.read_text() == (run / "csv" / "metrics.csv").read_text()
    assert main(["test", str(run)]) == 0  # the saved configuration says the same


def test_bad_loggers_get_one_line(tmp_path, capsys, monkeypatch):
    options = [*SHORT, f"--trainer.run_dir={tmp_path / 'run'}"]
    assert main([*options, "--trainer.logger=wandbb"]) == 2
    assert "trainer.logger='wandbb' is unknown. Choose one of wandb, tensorboard, csv" in capsys.readouterr().err
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for name in ("wandb", "tensorboard"):
        assert main([*options, f"--trainer.logger={name}"]) == 2
        error = capsys.readouterr().err
        assert f"needs the package {name}. Run `pip install {name}`." in error
        assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_wandb_refuses_gets_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.\nLog in.")

    monkeypatch.setattr(wandb, "init", refuse)
    assert main([*SHORT, "--trainer.logger=wandb", f"--trainer.run_dir={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err == (
        "fedloge: error: W&B: No API key configured. Log in. WANDB_MODE=offline needs no account.\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_wandb_can_be_used_without_it(logged, capsys):
    before = sorted(logged.rglob("*.wandb"))
    assert main(["test", str(logged)]) == 0
    assert sorted(logged.rglob("*.wandb")) == before


def test_wandb_is_imported_only_when_used(tmp_path):
    code = f"import sys; from fedloge.cli import main; main({[*SHORT, '--trainer.logger=csv']!r}); " + (
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0


def test_names_and_lightning_loggers_from_python(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    own = CSVLogger(tmp_path)
    trainer = FederatedTrainer(accelerator="cpu", logger=["csv", own])
    assert trainer.loggers == [own]
    assert FederatedTrainer(accelerator="cpu").loggers == []
    with pytest.raises(ConfigError, match="unknown"):
        FederatedTrainer(accelerator="cpu", logger="tensorbord")


def test_every_run_of_a_sweep_agent_has_a_folder_of_its_own(monkeypatch):
    assert tracking.agent_options([]) == []
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r2")
    assert tracking.agent_options(["--config", "x"]) == ["--trainer.run_dir=runs/sweep-s1/r2"]
    assert tracking.agent_options(["--trainer.run_dir=mine"]) == []


def test_what_an_agent_starts(tmp_path):
    """W&B's agent passes the ids of the run and its sweep in the environment."""
    pytest.importorskip("wandb")
    variables = {"MODE": "offline", "SILENT": "true", "SWEEP_ID": "s1", "RUN_ID": "r2", "PROJECT": "mine"}
    environment = {**os.environ, **{f"WANDB_{name}": value for name, value in variables.items()}}
    command = [sys.executable, "-m", "fedloge", *SHORT, "--trainer.logger=wandb", "--model.gamma=0.5"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    (run,) = read_runs(tmp_path / "runs" / "sweep-s1" / "r2")
    assert (run.id, run.project) == ("r2", "mine")
    assert run.history[2]["global/acc"] is not None


def test_colours_of_a_heat_map():
    picture = tracking.heat_map(torch.tensor([[1.0, -1.0], [0.0, 1.0]]), size=2)
    assert [picture.getpixel(place) for place in ((0, 0), (1, 0), (0, 1))] == [(255, 0, 0), (0, 0, 255), (255,) * 3]
