"""What comes out of sweeps that are run."""

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest
import yaml
from PIL import Image

from fedloge.cli import main
from fedloge.experiments.figures import sweep_figure
from fedloge.experiments.sweep import load_sweep
from fedloge.experiments.sweep_report import sweep_rows

ROOT = Path(__file__).parents[2]
FILE = ROOT / "configs" / "sweeps" / "gamma_beta.yaml"
SHORT = ["--trainer.rounds=2", "--trainer.local_epochs=1", "--trainer.evaluate_every=1", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """γ × β, two values each, of which one pair cannot work; two seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    content = yaml.safe_load(FILE.read_text())
    content["parameters"] = {
        "model.gamma": {"values": [0.5, 1.0]},
        "model.beta": {"values": [0.6, 1.5]},
        "trainer.seed": {"values": [0, 1]},
    }
    content["command"][3] = str(ROOT / "configs" / "quickstart.yaml")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["sweep", str(path), f"--output_dir={folder / 'out'}", "--jobs=2", *SHORT]) == 1
    return path


def summary(swept, name, seed):
    return json.loads((swept.parent / "out" / name / f"seed-{seed}" / "summary.json").read_text())


def test_the_table_has_the_runs_numbers(swept):
    with (swept.parent / "out" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model.gamma"], row["model.beta"]) for row in rows] == [
        ("0.5", "0.6"),
        ("0.5", "1.5"),
        ("1.0", "0.6"),
        ("1.0", "1.5"),
    ]
    seeds = [summary(swept, "gamma_1.0_beta_0.6", seed) for seed in (0, 1)]
    for column, path in {"GM": ("global", "acc"), "PM": ("personal", "acc_mean")}.items():
        values = [one[path[0]][path[1]] for one in seeds]
        assert float(rows[2][f"{column} mean"]) == pytest.approx(statistics.fmean(values), abs=1e-6)
        assert float(rows[2][f"{column} std"]) == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert (rows[1]["seeds"], rows[1]["GM mean"]) == ("0", "")
    assert "model.beta=1.5 must lie in [0, 1)" in rows[1]["failed"]


def test_the_settings_arrive(swept):
    config = yaml.safe_load((swept.parent / "out" / "gamma_0.5_beta_0.6" / "seed-1" / "config.yaml").read_text())
    assert config["model"]["init_args"]["gamma"] == 0.5
    assert config["trainer"]["seed"] == 1
    assert config["trainer"]["rounds"] == 2
    assert config["trainer"]["logger"] is None


def test_the_markdown_says_which_was_best_and_what_failed(swept):
    text = (swept.parent / "out" / "sweep.md").read_text()
    assert text.startswith("| γ | β | GM |")
    assert "Best global/acc" in text
    assert "chosen on the test set" in text
    assert "- model.gamma=0.5, model.beta=1.5: seed 0: model.beta=1.5 must lie in [0, 1)" in text


def test_the_picture(swept):
    path = swept.parent / "out" / "sweep.png"
    with Image.open(path) as image:
        assert image.width > 2 * image.height > 400  # two panels
    assert path.stat().st_size < 100_000


def test_done_runs_are_skipped_and_others_not_mixed_in(swept, capsys):
    out = swept.parent / "out"
    path = out / "gamma_0.5_beta_0.6" / "seed-0" / "summary.json"
    shutil.rmtree(out / "gamma_1.0_beta_0.6")
    before = path.stat().st_mtime_ns
    again = ["sweep", str(swept), f"--output_dir={out}", *SHORT]
    assert main(again) == 1
    assert path.stat().st_mtime_ns == before
    assert (out / "gamma_1.0_beta_0.6" / "seed-1" / "summary.json").is_file()
    assert main([*again, "--data.alpha=0.1"]) == 2
    assert "data.alpha: 0.5 there, 0.1 now" in capsys.readouterr().err


def test_one_parameter_is_a_curve_and_none_no_picture(swept, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = load_sweep(swept, output_dir=swept.parent / "out")
    rows = [row for row in sweep_rows(plan) if row.values["GM"]]
    figure = sweep_figure(plan, rows)
    assert [ax.get_xlabel() for ax in figure.axes] == ["γ", "γ"]
    assert all(len(ax.lines[0].get_xdata()) == 2 for ax in figure.axes)
    assert sweep_figure(plan, rows[:1]) is None


def test_the_metric_is_one_that_runs_have(swept):
    plan = load_sweep(swept)
    metrics = next((swept.parent / "out").rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    assert plan.metric in metrics
    assert plan.maximize


def test_random_sweeps_run_and_are_drawn_as_dots(swept, tmp_path):
    content = yaml.safe_load(swept.read_text())
    content["method"] = "random"
    content["parameters"] = {"model.gamma": {"min": 0.5, "max": 1.5}, "model.beta": {"values": [0.0, 0.6]}}
    path = tmp_path / "random.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    options = [f"--output_dir={tmp_path / 'out'}", "--runs=2", "--jobs=2", *SHORT]
    assert main(["sweep", str(path), *options]) == 0
    assert (tmp_path / "out" / "sweep.png").is_file()
