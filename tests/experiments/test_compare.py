import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from fedloge.cli import main
from fedloge.errors import FedlogeError
from fedloge.experiments.compare import (
    Comparison,
    best_note,
    comparison_markdown,
    comparison_rows,
    load_comparison,
)
from fedloge.experiments.plan import Plan
from fedloge.experiments.runner import Cell
from fedloge.experiments.tables import Row
from fedloge.options import override_value

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "configs" / "studies" / "compare_quick.yaml"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Four methods of which one cannot work, two seeds, two rounds."""
    folder = tmp_path_factory.mktemp("study")
    content = yaml.safe_load(QUICK.read_text())
    content["output_dir"], content["jobs"] = str(folder / "out"), 2
    content["trainer"] |= {"rounds": 2, "local_epochs": 1, "evaluate_every": 1, "accelerator": "cpu"}
    content["methods"] = {
        "FedAvg": None,
        "FedPer": {},
        "no head epochs": {"class_path": "FedRep", "head_epochs": 0},
        "FedLoGe": {"gamma": 1.0},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    assert main(["compare", "--config", str(path)]) == 1
    return path


def output(study):
    return study.parent / "out"


def test_a_failed_cell_is_named_and_the_others_continue(study):
    text = (output(study) / "comparison.md").read_text()
    assert "no head epochs, seed 0, failed: model.head_epochs=0 must be at least 1" in text
    assert "| no head epochs | failed |" in text
    for name in ("FedAvg", "FedPer", "FedLoGe"):
        assert all((output(study) / name / f"seed-{seed}" / "summary.json").is_file() for seed in (0, 1))


def test_conditions_are_the_same(study):
    text = (output(study) / "comparison.md").read_text()
    assert "DIFFER" not in text
    assert text.count("all methods start from the same backbone") == 2
    hashes = {
        seed: json.loads((output(study) / "FedAvg" / f"seed-{seed}" / "environment.json").read_text())[
            "initial_backbone_sha256"
        ]
        for seed in (0, 1)
    }
    assert hashes[0] != hashes[1]


def test_the_table_has_the_runs_numbers(study):
    with (output(study) / "comparison.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    summaries = [
        json.loads((output(study) / "FedLoGe" / f"seed-{seed}" / "summary.json").read_text()) for seed in (0, 1)
    ]
    accuracies = [summary["global"]["acc"] for summary in summaries]
    assert float(rows["FedLoGe"]["GM mean"]) == pytest.approx(sum(accuracies) / 2, abs=1e-6)
    assert float(rows["FedLoGe"]["GM std"]) == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5, abs=1e-6)
    before = [summary["before_realignment"]["personal"]["acc_mean"] for summary in summaries]
    assert float(rows["FedLoGe, not realigned"]["PM mean"]) == pytest.approx(sum(before) / 2, abs=1e-6)
    assert rows["FedPer"]["GM mean"] == ""
    megabytes = (summaries[0]["bytes_up"] + summaries[0]["bytes_down"]) / 2e6
    assert float(rows["FedLoGe"]["MB/round mean"]) == pytest.approx(megabytes)
    assert float(rows["FedAvg"]["masked mean"]) >= float(rows["FedAvg"]["PM mean"])


def test_done_cells_are_skipped_and_failed_ones_run_again(study):
    path = output(study) / "FedAvg" / "seed-0" / "summary.json"
    before = path.stat().st_mtime_ns
    log = (output(study) / "no_head_epochs" / "seed-0.log").stat().st_mtime_ns
    assert main(["compare", "--config", str(study)]) == 1
    assert path.stat().st_mtime_ns == before
    assert (output(study) / "no_head_epochs" / "seed-0.log").stat().st_mtime_ns > log


def test_other_options_are_not_mixed_into_a_study(study, capsys):
    assert main(["compare", "--config", str(study), "--data.alpha=0.1"]) == 2
    message = capsys.readouterr().err
    assert "data.alpha: 0.5 there, 0.1 now" in message
    assert "--output_dir" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--methods={}", "methods={} has no entry"),
        ("--methods=3", "methods=3 must be a mapping"),
        ("--seeds=x", "seeds='x' must be a whole number or a list"),
        ("--jobs=0", "jobs=0 must be at least 1"),
        ("--trainr.rounds=2", "trainr={'rounds': 2} is not supported. Known keys are output_dir"),
        ("rounds", "'rounds' is not an option"),
        ("--trainer.rounds.x=2", "rounds is not a section"),
        ("--methods.FedAvg=3", "methods.FedAvg=3 must be a mapping"),
    ],
)
def test_bad_studies_get_one_line(override, message, capsys):
    assert main(["compare", "--config", str(QUICK), override]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_missing_file_is_named(capsys, tmp_path):
    assert main(["compare", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml' cannot be read" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(FedlogeError, match="is not YAML"):
        load_comparison(tmp_path / "bad.yaml")


def test_overrides_go_where_they_belong():
    content = {"model": {"init_args": {"lr": 1.0}}}
    override_value(content, "--model.gamma=0.5")
    override_value(content, "--trainer.rounds=2")
    assert content == {"model": {"init_args": {"lr": 1.0, "gamma": 0.5}}, "trainer": {"rounds": 2}}


@pytest.mark.parametrize("study", sorted(QUICK.parent.glob("compare_*.yaml")), ids=lambda path: path.stem)
def test_comparisons_have_every_method(study):
    import fedloge.methods

    methods = {name for name in fedloge.methods.__all__ if name not in ("Client", "Method", "Phase")}
    assert methods == {cell.options["model"]["class_path"] for cell in load_comparison(study).cells()}


@pytest.mark.parametrize("seeds", ["1,2", "[1,2]", "[1, 2, 1]"])
def test_seeds_may_be_written_with_or_without_brackets(seeds):
    assert [cell.seed for cell in load_comparison(QUICK, ["--methods={FedAvg: null}", f"--seeds={seeds}"]).cells()] == [
        1,
        2,
    ]


def test_a_null_option_replaces_the_common_one():
    plan = load_comparison(QUICK, ["--methods.FedPer.lr=null", "--seeds=2"])
    options = {cell.name: cell.options["model"]["init_args"]["lr"] for cell in plan.cells()}
    assert (options["FedPer"], options["FedAvg"]) == (None, 0.03)


def test_nothing_done_yet_is_a_table_too(tmp_path):
    plan = Plan(rows=[Row("FedAvg", [Cell("FedAvg", 0, {}, tmp_path)])], output_dir=tmp_path)
    rows = comparison_rows(plan)
    assert rows[0].done == []
    assert "no run is done" in comparison_markdown(plan, rows)


def finished(folder, name, column, values):
    """A row with a finished run for each value, which is the last of a column of its metrics."""
    cells = [Cell(name, seed, {}, folder / name) for seed in range(len(values))]
    for cell, value in zip(cells, values, strict=True):
        cell.run.mkdir(parents=True)
        (cell.run / "summary.json").write_text("{}")
        (cell.run / "metrics.csv").write_text(f"round,{column}\n1,0.99\n2,{value}\n")
    return Row(name, cells)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("val/global/acc", "Best val/global/acc: 0.6 with B, chosen on validation images."),
        ("val/personal/acc_std", "Best val/personal/acc_std: 0.3 with A, chosen on validation images."),
        ("global/acc", "Best global/acc: 0.6 with B, chosen on the test set: optimistic."),
    ],
)
def test_the_best_method_by_a_metric(metric, words, tmp_path):
    """The means of the last values are 0.3 and 0.6; of a deviation the smaller is better."""
    rows = [finished(tmp_path, "A", metric, [0.2, 0.4]), finished(tmp_path, "B", metric, [0.6, 0.6])]
    assert best_note(Comparison(rows=rows, output_dir=tmp_path, metric=metric)) == words
    missing = Comparison(rows=rows, output_dir=tmp_path, metric="val/global/f1")
    assert best_note(missing) == "No run has val/global/f1."


def test_a_comparison_takes_its_metric_from_the_file_or_the_command_line():
    assert load_comparison(QUICK).metric is None
    assert load_comparison(QUICK, ["--metric=val/global/acc"]).metric == "val/global/acc"


@pytest.mark.slow
def test_the_quick_comparison_runs(tmp_path):
    short = ["--trainer.rounds=2", "--trainer.local_epochs=1", "--seeds=[0]", "--jobs=2"]
    assert main(["compare", "--config", str(QUICK), *short, f"--output_dir={tmp_path / 'out'}"]) == 0
    assert "failed" not in (tmp_path / "out" / "comparison.md").read_text()


def test_an_interrupted_run_resumes(study, tmp_path):
    content = yaml.safe_load(study.read_text())
    content["methods"], content["seeds"], content["output_dir"] = {"FedAvg": {}}, [0], str(tmp_path / "out")
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(content))
    shutil.copytree(output(study) / "FedAvg", tmp_path / "out" / "FedAvg")
    run = tmp_path / "out" / "FedAvg" / "seed-0"
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "final")
    assert main(["compare", "--config", str(path)]) == 0
    assert "round 1/" not in (tmp_path / "out" / "FedAvg" / "seed-0.log").read_text()
    before = output(study) / "FedAvg" / "seed-0" / "checkpoints" / "final" / "shared.safetensors"
    assert (run / "checkpoints" / "final" / "shared.safetensors").read_bytes() == before.read_bytes()
