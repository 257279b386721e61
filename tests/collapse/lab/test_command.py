"""``fedloge collapse`` on the real command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from fedloge.cli import main
from fedloge.collapse.lab import output
from fedloge.collapse.lab.command import VERBS, parse
from fedloge.collapse.lab.deep_linear import DeepLinear
from fedloge.collapse.lab.language import Language
from fedloge.collapse.lab.norms import Norms, slope
from fedloge.errors import ConfigError

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs" / "collapse").glob("*.yaml"))


@pytest.fixture
def deep_linear(tmp_path):
    config = str(ROOT / "configs" / "collapse" / "mse_small.yaml")
    return ["collapse", "deep-linear", "--config", config, f"--output={tmp_path / 'out'}", "--figure=false"]


def fail(capsys, *args):
    assert main(list(args)) == 2
    error = capsys.readouterr().err
    assert error.startswith("fedloge: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_accepted(config):
    settings = yaml.safe_load(config.read_text())
    kind = Language if "widths" in settings else DeepLinear
    options = parse(kind, ["--config", str(config), "--steps=[3]" if kind is Language else "--steps=3"], "test")
    assert options.output == f"runs/collapse/{config.stem}"
    assert options.steps == ([3] if kind is Language else 3)


@pytest.mark.parametrize("config", [path for path in CONFIGS if path.stem != "language"], ids=lambda path: path.stem)
def test_every_deep_linear_config_runs(config, tmp_path):
    small = ["--steps=4", "--points=2", "--seeds=[0]", "--figure=false", f"--output={tmp_path / 'out'}"]
    assert main(["collapse", "deep-linear", "--config", str(config), *small]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]["steps"] == 4


def test_the_final_table_is_plain_text_in_a_pipe(deep_linear):
    """In a pipe: no escape codes, nothing cut off, nothing on standard error."""
    command = [sys.executable, "-m", "fedloge", *deep_linear, "--layers=[1]", "--steps=1500"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "n = [20, 10, 5, 5], free features, against the orthogonal frame" in done.stdout
    assert "collapsed" in done.stdout


def test_help_needs_no_torch():
    code = "import sys; from fedloge.cli import main; main(['collapse', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_lists_its_options(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["collapse", verb, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--config" in text
    assert "--output" in text


def test_bad_options_get_one_line(deep_linear, capsys, tmp_path):
    for option, message in {
        "--lambda_w=-1": "lambda_w=-1.0 must be positive",
        "--layers=[0]": "layers=0 must be at least 1",
        "--width=0": "width=0 must be at least 1",
        "--counts=[5]": "fewer than two classes",
        "--stepz=3": "no option 'stepz'. Did you mean 'steps'?",
        "--steps=abc": "steps",
        "--loss=hinge": "loss",
    }.items():
        assert message in fail(capsys, *deep_linear, option)
    (tmp_path / "key.yaml").write_text("countz: [3, 3]\n")
    assert "no option 'countz'. Did you mean 'counts'?" in fail(
        capsys, "collapse", "deep-linear", "--config", str(tmp_path / "key.yaml")
    )
    assert "absent.yaml" in fail(capsys, "collapse", "deep-linear", "--config", str(tmp_path / "absent.yaml"))
    assert "counts" in fail(capsys, "collapse", "deep-linear")
    assert "stands before --config" in fail(capsys, "collapse", "deep-linear", "--steps=3", *deep_linear[2:])
    assert "no verb 'collapse deep'" in fail(capsys, "collapse", "deep")
    assert not (tmp_path / "out").exists()


def test_an_older_folder_is_kept(deep_linear, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "--overwrite=true" in fail(capsys, *deep_linear)


def test_figures_are_written(deep_linear, tmp_path):
    assert main([*deep_linear, "--steps=20", "--figure=true"]) == 0
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    small = ["--widths=[8]", "--steps=[0,1,2]", "--vocabulary=20", f"--output={tmp_path / 'text'}"]
    assert main(["collapse", "language", *small]) == 0
    assert (tmp_path / "text" / "language.png").is_file()


# Norms -------------------------------------------------------------------------------------------------------


def test_slope_of_a_power_law():
    sizes = torch.tensor([1, 10, 100, 1000, 5])
    norms = 3 * sizes.double() ** 0.4
    norms[4] = 0
    assert slope(sizes, norms) == pytest.approx(0.4)


def test_norms_of_a_run(tmp_path, capsys):
    config = str(ROOT / "configs" / "quickstart.yaml")
    short = ["--trainer.rounds=2", "--trainer.local_epochs=1", "--trainer.accelerator=cpu"]
    assert main(["fit", "--config", config, *short, f"--trainer.run_dir={tmp_path / 'run'}"]) == 0
    command = ["collapse", "norms", f"--run={tmp_path / 'run'}"]
    out = tmp_path / "out"
    assert main([*command, "--figure=false", f"--output={out}"]) == 0
    rows = (out / "psi.csv").read_text().splitlines()
    assert rows[0] == "class,n,norm"
    assert sum(int(row.split(",")[1]) for row in rows[1:]) == 477
    summary = json.loads((out / "summary.json").read_text())
    assert summary["run"]["theory"] == 0.25
    assert -1 <= summary["run"]["spearman"] <= 1
    aligned = [*command, "--state=final", "--figure=false", f"--output={tmp_path / 'final'}"]
    assert main(aligned) == 0
    assert json.loads((tmp_path / "final" / "summary.json").read_text())["run"]["exponent"] == pytest.approx(
        0, abs=1e-6
    )
    capsys.readouterr()
    assert "head='phi'" in fail(capsys, *command, "--head=phi", "--figure=false", f"--output={tmp_path / 'x'}")
    assert "is not a run" in fail(
        capsys, "collapse", "norms", f"--run={tmp_path}", "--figure=false", f"--output={tmp_path / 'x'}"
    )
    assert main([*command, f"--output={out}", "--overwrite=true"]) == 0
    assert {"frame.png", "psi.png"} <= {path.name for path in out.iterdir()}


def test_json_has_no_nan(tmp_path):
    output.Output(str(tmp_path / "out")).json("x.json", {"a": [float("nan"), 1.5], "b": {"c": float("inf")}})
    assert json.loads((tmp_path / "out" / "x.json").read_text()) == {"a": [None, 1.5], "b": {"c": None}}


def test_bad_norms():
    for name, value in {"head": "phi", "state": "final"}.items():
        with pytest.raises(ConfigError, match=f"{name}={value!r} has no effect with run=null"):
            Norms(**{name: value})
    with pytest.raises(ConfigError, match="lambdas=-1"):
        Norms(lambdas=[-1.0])
    with pytest.raises(ConfigError, match="empty class"):
        Norms(counts=[3, 0])
