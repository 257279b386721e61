"""``fedloge analyze`` on runs of two rounds."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import fedloge
from fedloge.analysis import analyze_run
from fedloge.analysis.features import open_subject
from fedloge.analysis.figures import FIGURES, head_symbol
from fedloge.cli import main
from fedloge.collapse import measure_module

ROOT = Path(__file__).parents[2]
FILES = {"analysis.json", "analysis.md"}
TABLES = {f"{name}.csv" for name in ("classes", "collapse", "degeneration", "frames", "norms", "pruning", "tsne")}
PICTURES = {f"{name}.png" for name in FIGURES}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes a run of a method, once."""
    folder = tmp_path_factory.mktemp("runs")
    settings = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    settings["trainer"] |= {"rounds": 2, "local_epochs": 1, "accelerator": "cpu", "executor": "serial"}
    settings["data"] |= {"num_clients": 3}
    settings |= {"report": False}
    del settings["model"]["init_args"]["beta"], settings["model"]["init_args"]["gamma"]

    def make(method, *options, name=None):
        run = folder / (name or method)
        if not run.exists():
            settings["model"]["class_path"] = method
            config = folder / "config.yaml"
            config.write_text(yaml.safe_dump(settings))
            assert main(["fit", "--config", str(config), f"--trainer.run_dir={run}", "--quiet", *options]) == 0
        return run

    return make


@pytest.fixture
def sparse(runs):
    return runs("FedLoGe", "--model.gamma=1", "--model.beta=0.6", name="sparse")


@pytest.fixture
def dense(runs):
    return runs("FedLoGe", "--model.gamma=1", "--model.beta=0", name="dense")


@pytest.fixture
def undrawn(monkeypatch):
    """Without figures, which take most of the time."""
    monkeypatch.setattr("fedloge.analysis.analyze.FIGURES", {})


def fail(capsys, *args):
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fedloge: error: ")
    assert error.count("\n") == 1
    return error


def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_the_command_leaves_everything_and_says_where(sparse, capsys):
    before = {path: path.read_bytes() for path in (sparse / "checkpoints").rglob("*.*")}
    capsys.readouterr()
    assert main(["analyze", str(sparse)]) == 0
    assert f"everything is in {sparse / 'analysis'}" in capsys.readouterr().out
    assert {path.name for path in (sparse / "analysis").iterdir()} == FILES | TABLES | PICTURES
    for name in PICTURES:
        with Image.open(sparse / "analysis" / name) as image:
            image.verify()
    assert {path: path.read_bytes() for path in before} == before
    text = (sparse / "analysis" / "analysis.md").read_text()
    assert all(f"]({name})" in text for name in PICTURES)
    assert "nan" not in text


@pytest.mark.usefixtures("undrawn")
def test_the_result_is_the_file_and_twice_the_same(sparse, tmp_path):
    first, again = (analyze_run(sparse, tmp_path / name) for name in ("first", "second"))
    assert first == again
    assert json.loads((tmp_path / "first" / "analysis.json").read_text()) == first
    assert analyze_run(sparse, tmp_path / "first") == first  # an older analysis is replaced


@pytest.mark.usefixtures("undrawn")
def test_unpruned_accuracy_is_that_of_the_run(sparse, tmp_path):
    """As trained by SSE-C, after realignment by ψ: the generic model's accuracy in ``summary.json``."""
    trained = analyze_run(sparse, tmp_path / "a")["pruning"]
    assert trained["head"] == "sse"
    assert trained["ascending"][0] == pytest.approx(summary(sparse)["before_realignment"]["global"]["acc"])
    assert trained["descending"][-1] == pytest.approx(0.1)  # no bias: all scores are zero
    final = analyze_run(sparse, tmp_path / "b", state="final")["pruning"]
    assert final["head"] == "psi"
    assert final["ascending"][0] == pytest.approx(summary(sparse)["global"]["acc"])


@pytest.mark.usefixtures("undrawn")
def test_collapse_is_that_of_the_lab(sparse, tmp_path):
    """The realigned generic model measured by a hook on its ψ."""
    found = analyze_run(sparse, tmp_path / "out", state="final")["collapse"]["test"]
    run = fedloge.load_run(sparse)
    run.data.setup()
    labels = run.data.test_labels
    values = measure_module(
        run.generic(), "method.psi", [(run.data.dataset.test.gather(torch.arange(len(labels))), labels)]
    )
    assert found == pytest.approx(values, rel=1e-4)


@pytest.mark.usefixtures("undrawn")
def test_heads_and_norms(sparse, tmp_path):
    found = analyze_run(sparse, tmp_path / "out")
    assert list(found["frames"]) == ["sse", "psi", "phi_k"]
    assert found["frames"]["sse"]["norm_mean"] == pytest.approx(1, abs=1e-5)
    assert found["frames"]["sse"]["angle_mean"] == pytest.approx(found["equiangular"]["angle"], abs=1e-3)
    assert found["run"]["zeros_of_frozen_head"] == pytest.approx(0.6, abs=1e-3)
    partition = json.loads((sparse / "partition.json").read_text())
    with (tmp_path / "out" / "norms.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["head"] == "phi_k"]
    assert sum(int(row["n"]) for row in rows) == sum(len(client["train"]) for client in partition["clients"])
    assert all(int(row["n"]) > 0 for row in rows)


@pytest.mark.usefixtures("undrawn")
def test_a_dense_head_masks_nothing_and_is_not_called_sparse(dense, tmp_path):
    found = analyze_run(dense, tmp_path / "out")
    assert "mean_masked" not in found["degeneration"]
    assert any("no coordinates are masked" in why for why in found["left_out"])
    assert head_symbol("sse", found) == "dense fixed head"
    assert "SSE‑C" not in (tmp_path / "out" / "analysis.md").read_text()


def test_side_by_side(sparse, dense, tmp_path, monkeypatch):
    monkeypatch.setattr("fedloge.analysis.analyze.FIGURES", {"tsne": FIGURES["tsne"]})
    output = tmp_path / "both"
    assert main(["analyze", str(sparse), str(dense), f"--output={output}"]) == 0
    assert {path.name for path in output.iterdir()} == FILES | {"tsne.png", "comparison.csv"}
    both = json.loads((output / "analysis.json").read_text())
    assert list(both) == ["sparse", "dense"]
    assert both["dense"] == json.loads((dense / "analysis" / "analysis.json").read_text())
    for figure in FIGURES.values():
        alone, together = (len(figure(results).axes) for results in ({"sparse": both["sparse"]}, both))
        assert together in (2 * alone, 2 * alone - 1)  # the colour bar of the cosines is shared
    assert "| sparse |" in (output / "analysis.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_the_classes_that_are_drawn(sparse, tmp_path):
    groups = summary(sparse)["shots"]["groups"]
    shown = [curve["class"] for curve in analyze_run(sparse, tmp_path / "a")["degeneration"]["curves"]]
    assert [groups[c] for c in shown] == ["many", "medium", "few"]
    asked = analyze_run(sparse, tmp_path / "b", classes=["8", 3])["degeneration"]["curves"]
    assert [curve["class"] for curve in asked] == [8, 3]
    assert len(asked[0]["mean"]) == 64


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "method",
    ["FedBN", "FedETF", "FedNH", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Ditto", "FedRep"))],
)
def test_other_methods(runs, method, tmp_path):
    """Personal bodies by the generic model; projected and normalised features as the classifier sees them."""
    run = runs(method)
    found = analyze_run(run, tmp_path / "out")
    expected = (summary(run)["before_realignment"] or summary(run))["global"]["acc"]
    assert found["pruning"]["ascending"][0] == pytest.approx(expected)
    assert found["run"]["classifier"] in found["frames"]
    assert not any("does more than" in why for why in found["left_out"])


def test_features_are_those_that_the_classifier_sees(runs):
    for method, dim in (("FedETF", 10), ("FedNH", 64)):
        values = open_subject(runs(method)).test.values
        assert values.shape == (400, dim)
        torch.testing.assert_close(values.norm(dim=1), torch.ones(400))


@pytest.mark.usefixtures("undrawn")
def test_a_model_that_does_more_than_its_head(runs, tmp_path):
    """τ-normalisation applies weights of its own: the head as trained is measured, and that is said."""
    found = analyze_run(runs("FedAvg", "--model.tau_norm=1", name="tau"), tmp_path / "out")
    assert found["run"]["classifier"] == "head"
    assert "does more than head" in found["left_out"][0]


@pytest.mark.usefixtures("undrawn")
def test_bad_input(sparse, runs, tmp_path, capsys):
    personal = runs("FedPer")
    assert "FedPer has no generic model" in fail(capsys, "analyze", personal)
    assert "is not a run" in fail(capsys, "analyze", tmp_path)
    assert "Give --output=DIR" in fail(capsys, "analyze", sparse, personal)
    assert "cannot change a trained run" in fail(capsys, "analyze", sparse, "--model.beta=0.0")
    assert "given twice" in fail(capsys, "analyze", sparse, sparse, f"--output={tmp_path / 'x'}")
    assert "class='cat' is neither" in fail(capsys, "analyze", sparse, "--class=cat")
    assert "state='best' is unknown" in fail(capsys, "analyze", sparse, "--state=best")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    assert "holds something other than an analysis" in fail(capsys, "analyze", sparse, f"--output={tmp_path / 'notes'}")
    (tmp_path / "file").touch()
    assert "cannot be written" in fail(capsys, "analyze", sparse, f"--output={tmp_path / 'file'}")
    unfinished = shutil.copytree(sparse, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "checkpoints" / "final")
    assert "no checkpoint 'final'" in fail(capsys, "analyze", unfinished, "--state=final")
    assert main(["analyze", str(unfinished)]) == 0
