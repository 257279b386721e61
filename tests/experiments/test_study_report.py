"""What comes out of studies that are run."""

import csv
import json
import re
from pathlib import Path

import pytest

from fedloge.cli import main
from fedloge.experiments.runner import run_cells
from fedloge.experiments.study import load_study
from fedloge.experiments.study_report import study_rows, write_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def done(tmp_path_factory, written):
    """The study above, run from the command line."""
    folder = tmp_path_factory.mktemp("study")
    arguments = ["study", str(written(folder)), "--output_dir", str(folder / "out"), "--jobs=2"]
    assert main(arguments) == 1
    return folder, arguments


def rows(folder):
    with (folder / "out/tiny/mine/study.csv").open() as file:
        return {(row["row"], row["measure"]): row for row in csv.DictReader(file)}


def test_ours_stand_beside_the_paper(done):
    folder, _ = done
    row = rows(folder)["FedAvg", "GM"]
    accuracies = [json.loads(Path(run, "summary.json").read_text())["global"]["acc"] for run in row["runs"].split()]
    mean, deviation = sum(accuracies) / 2, abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert float(row["mean"]) == pytest.approx(mean, rel=1e-5)
    assert float(row["std"]) == pytest.approx(deviation, rel=1e-4)
    text = (folder / "out/tiny/mine/study.md").read_text()
    assert f"| FedAvg | {100 * mean:.1f} ± {100 * deviation:.1f} (12.34) |" in text
    assert "**Not the paper's setting**, which is somewhere else. Scale `tiny`: a test. In parentheses" in text
    assert "Not at this scale: full only." in text
    last = [
        json.loads(Path(run, "summary.json").read_text())["last10"]["global"]["mean"] for run in row["runs"].split()
    ]
    steady = text.partition("last 10 rounds")[2]
    assert f"| FedAvg | {100 * sum(last) / 2:.1f} ± " in steady
    assert "no GA-FR" not in steady


def test_what_has_no_number_says_why(done):
    folder, _ = done
    lines = (folder / "out/tiny/mine/study.md").read_text().splitlines()
    assert re.match(r"\| FedPer \| none \| \d", next(line for line in lines if line.startswith("| FedPer")))
    assert (
        next(line for line in lines if line.startswith("| broken")) == "| broken | failed | failed | failed | failed |"
    )
    assert any("seed 0, failed: model.head_epochs=0 must be at least 1" in line for line in lines)


def test_realigned_rows_share_the_training(done):
    folder, _ = done
    found = rows(folder)
    assert found["no GA-FR", "GM"]["mean"] == found["FedLoGe", "GM as trained"]["mean"]
    assert found["no GA-FR", "PM"]["mean"] == found["FedLoGe", "PM"]["mean"]
    trained, realigned = (found[row, "GM"]["runs"].split()[0] for row in ("FedLoGe", "no GA-FR"))
    first, second = (Path(run, "checkpoints/last/shared.safetensors").read_bytes() for run in (trained, realigned))
    assert first == second


def test_the_first_round_is_the_first_good_one(done):
    folder, _ = done
    row = rows(folder)["FedAvg", "first round"]
    for run in row["runs"].split():
        with Path(run, "metrics.csv").open() as file:
            assert next(int(each["round"]) for each in csv.DictReader(file) if float(each["global/acc"]) >= 0.05) == 1
    assert float(row["mean"]) == 1


def test_what_is_done_is_not_done_again(done):
    folder, arguments = done
    summaries = {path: path.stat().st_mtime_ns for path in (folder / "out/tiny/cells").glob("*/seed-*/summary.json")}
    assert len(summaries) == 8
    assert main([*arguments, "--trainer.executor=serial"]) == 1
    assert summaries == {path: path.stat().st_mtime_ns for path in summaries}


def test_an_interrupted_realignment_is_done_again(done, tmp_path):
    folder, _ = done
    study = load_study(folder / "mine.yaml", output_dir=folder / "out")
    cell = next(cell for cell in study.cells() if cell.source)
    (cell.run / "summary.json").unlink()
    run_cells([cell])
    assert cell.error is None
    assert cell.done


def test_a_run_that_cannot_be_analysed_is_named_and_the_others_continue(done, written):
    folder, _ = done
    changes = {"measures": ["ρ(m, v)"], "rows": {"FedPer": {"method": "FedPer"}, "FedLoGe": {}}}
    study = load_study(written(folder, **changes), output_dir=folder / "out")
    text = write_study(study, study_rows(study)).read_text()
    assert "| FedPer | failed |" in text
    assert re.search(r"\| FedLoGe \| -?0\.\d{3} ± ", text)
    assert "FedPer has no generic model" in text


def test_an_output_folder_that_is_a_file_is_refused(tmp_path, capsys, written):
    (tmp_path / "file").touch()
    assert main(["study", str(written(tmp_path)), "--output_dir", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": ["precision"]}, "measures='precision' is not a measure of a table"),
        ({"measures": ["angle"]}, "measures='angle' is not a measure of a table"),
        ({"reach": {}}, "reach=None is missing"),
    ],
)
def test_bad_measures_are_refused_before_anything_is_run(tmp_path, capsys, changes, message, written):
    assert main(["study", str(written(tmp_path, **changes)), "--output_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_frames_need_no_training(tmp_path):
    study = load_study(ROOT / "configs/studies/table6.yaml", output_dir=tmp_path)
    text = write_study(study, study_rows(study)).read_text()
    assert study.cells() == []
    assert "C = 10, d = 64; nothing is trained" in text
    angles = [row.values["angle"][0] for row in study_rows(study)]
    assert angles == pytest.approx([96.379] * 6, abs=1e-3)


def test_a_curve_is_drawn(tmp_path, written):
    rows = {"0.0": {"options": {"beta": 0.0}, "printed": {"GM": 0.5}}}
    path = written(tmp_path, kind="curve", x="β", settings={"": {}}, measures=["GM"], rows=rows)
    study = load_study(path, output_dir=tmp_path / "out", overrides=["--seeds=[0]"])
    study.run()
    assert write_study(study, study_rows(study)).with_name("study.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table3", "table7", "table10", "fig5", "table6", "fig1", "fig3", "fig6", "fig7"])
def test_tiny_studies_run(name, tmp_path_factory, capsys):
    folder = tmp_path_factory.getbasetemp() / "tiny_studies"  # they share runs
    assert main(["study", str(ROOT / f"configs/studies/{name}.yaml"), "--output_dir", str(folder), "--jobs=2"]) == 0
    assert "Not the paper's setting" in capsys.readouterr().out
    assert "failed" not in (folder / "tiny" / name / "study.md").read_text()
    assert (folder / "tiny" / name / "study.png").is_file() == name.startswith("fig")
