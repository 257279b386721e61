from pathlib import Path

import pytest
import yaml

from fedloge.cli import main
from fedloge.config import build
from fedloge.errors import FedlogeError
from fedloge.experiments.sweep import command_words, load_sweep, read_parameter, read_parameters

ROOT = Path(__file__).parents[2]
FILE = ROOT / "configs" / "sweeps" / "gamma_beta.yaml"
SHORT = ["--trainer.rounds=2", "--trainer.local_epochs=1", "--trainer.evaluate_every=1", "--trainer.accelerator=cpu"]


@pytest.fixture
def content(monkeypatch):
    """The shipped file, from where its --config is found."""
    monkeypatch.chdir(ROOT)
    return yaml.safe_load(FILE.read_text())


def write(tmp_path, content):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "study.yaml"


def test_a_grid_has_every_combination_once(content):
    names = [cell.name for cell in load_sweep(FILE).cells()]
    assert len(names) == len(set(names)) == 16
    assert names[:2] == ["gamma=0.1 beta=0.0", "gamma=0.1 beta=0.3"]
    assert len(load_sweep(FILE, run_cap=3).cells()) == 3


def test_random_draws_come_from_the_seed(content, tmp_path):
    content["method"] = "random"
    content["parameters"] = {
        "model.gamma": {"distribution": "log_uniform_values", "min": 0.1, "max": 10.0},
        "model.beta": {"values": [0.0, 0.6], "probabilities": [0.0, 1.0]},
        "trainer.local_epochs": {"min": 1, "max": 3},
        "model.momentum": {"distribution": "q_uniform", "min": 0.0, "max": 0.9, "q": 0.3},
    }
    path = write(tmp_path, content)
    first, again, other = ([row.options for row in load_sweep(path, run_cap=20, seed=seed).rows] for seed in (1, 1, 2))
    assert first == again != other
    assert all(0.1 <= draw["model.gamma"] <= 10 for draw in first)
    assert {draw["model.beta"] for draw in first} == {0.6}
    assert {draw["trainer.local_epochs"] for draw in first} == {1, 2, 3}
    assert {draw["model.momentum"] for draw in first} <= {0.0, 0.3, 0.6, 0.9}
    content["parameters"] = {"model.beta": {"values": [0.0, 0.6]}}
    assert len(load_sweep(write(tmp_path, content), run_cap=20).rows) == 2  # there are no more


def test_seeds_are_combined_with_every_setting(content, tmp_path):
    expected = [("gamma=0.1 beta=0.0", 0), ("gamma=0.1 beta=0.3", 0)]
    for seeds in ("--seeds=0,1", "--seeds=[0,1]"):
        sweep = load_sweep(FILE, [seeds])
        assert [(cell.name, cell.seed) for cell in sweep.cells()][:2] == expected
        assert [len(row.cells) for row in sweep.rows] == [2] * 16
        assert {cell.options["trainer"]["seed"] for cell in sweep.cells()} == {0, 1}
    assert {cell.seed for cell in load_sweep(FILE, ["--seeds=5"]).cells()} == {5}
    content["method"] = "random"
    drawn = load_sweep(write(tmp_path, content), ["--seeds=0,1"], run_cap=6)
    assert [len(row.cells) for row in drawn.rows] == [2, 2, 2]


def test_the_command_that_the_agent_runs_is_understood(content):
    """W&B's own code makes the command line from the file; fedloge must read it."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    drawn = {"args": {"model.gamma": {"value": 0.3}, "model.beta": {"value": 0.9}}}
    said = utils.create_sweep_command_args(drawn)
    command = utils.create_sweep_command(content["command"])
    words = [part for word in command for part in (said["args"] if word == "${args}" else [word])]
    assert words[:2] == ["fedloge", "fit"]
    cli = build([*words[2:], "--trainer.accelerator=cpu"])
    assert (cli.model.gamma, cli.model.beta) == (0.3, 0.9)
    assert cli.trainer.callbacks[0].names == ("wandb",)


BAD = {
    "method": ("bayes", "method='bayes' is not supported by `fedloge sweep`. Choose grid or random"),
    "parameters": ({}, "parameters={} has no entry"),
    "early_terminate": ({"type": "hyperband"}, "early_terminate={'type': 'hyperband'} is not supported"),
    "run_cap": (0, "runs=0 must be at least 1"),
    "command": (["fedloge", "fit", "${args}", "--config", "x"], "has options before --config"),
}


@pytest.mark.parametrize("key", BAD)
def test_bad_files_get_one_line(key, content, tmp_path, capsys):
    content[key], message = BAD[key]
    assert main(["sweep", str(write(tmp_path, content))]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_other_bad_files(content, tmp_path, capsys):
    assert main(["sweep", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml' cannot be read" in capsys.readouterr().err
    content["parameters"]["model.gamma"] = {"min": 0.1, "max": 1.0}
    assert main(["sweep", str(write(tmp_path, content))]) == 2
    assert "has no grid" in capsys.readouterr().err
    content["method"] = "random"
    assert main(["sweep", str(write(tmp_path, content))]) == 2
    assert "Pass --runs=20" in capsys.readouterr().err
    assert main(["sweep", str(FILE), "--jobs=0"]) == 2
    assert "jobs=0 must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "said",
    [
        *({"values": []}, {"values": 3}, {"values": [None]}, {"value": None}, {"parameters": 3}),
        *({"min": 1}, {"min": 2, "max": 1}, {"min": "a", "max": "b"}, {"min": False, "max": True}),
        *({"min": 0.0, "max": float("inf")}, {"min": 0, "max": 1, "distribution": "q_uniform", "q": 0}),
        *({"values": [1], "probabilities": weights} for weights in ([0.5, 0.5], 3, ["a"], [0], [-1])),
    ],
)
def test_bad_parameters(said):
    with pytest.raises(FedlogeError, match=r"parameters[.:] ?x"):
        list(read_parameters({"parameters": {"x": said}}, "FILE"))


def test_bad_ranges_and_entries():
    with pytest.raises(FedlogeError, match=r"FILE: parameters\.x=3 must be a mapping"):
        list(read_parameters({"parameters": {"x": 3}}, "FILE"))
    with pytest.raises(FedlogeError, match="must be positive"):
        read_parameter("x", {"min": 0.0, "max": 1.0, "distribution": "log_uniform_values"})
    with pytest.raises(FedlogeError, match="distribution='beta'"):
        read_parameter("x", {"min": 0.0, "max": 1.0, "distribution": "beta"})


def test_words_before_and_after_in_a_command(monkeypatch):
    monkeypatch.setenv("CONFIG", "with a space.yaml")
    python = ["${env}", "python", "-m", "fedloge", "fit", "--config", "${envvar:CONFIG}", "--model=FedAvg", "${args}"]
    assert command_words(python) == (["--config=with a space.yaml", "--model=FedAvg"], [])
    shown = ["fedloge", "fit", "--quiet", "--config=x", "${args}", "--trainer.logger", "wandb", "--trainer.rounds", 3]
    assert command_words(shown) == (["--config=x"], ["--trainer.rounds=3"])
    for bad in (None, ["fedloge", "fit", "--config", "x"], ["fedloge", "test", "${args}"]):
        with pytest.raises(FedlogeError, match="is not a `fedloge fit`"):
            command_words(bad)
