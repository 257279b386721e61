"""Studies as files: what they hold, the runs they share, and what comes out."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from fedloge.cli import main
from fedloge.config import build
from fedloge.errors import FedlogeError
from fedloge.experiments.plan import Row
from fedloge.experiments.runner import Cell, run_cells
from fedloge.experiments.study import SCALES, load_study
from fedloge.experiments.study_report import study_results, value_text, write_study
from fedloge.experiments.tables import Result

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path for pattern in ("table*.yaml", "fig*.yaml") for path in (ROOT / "configs/studies").glob(pattern))
PAPER = ROOT.parent / "shared" / "spec" / "fedloge_paper.txt"

MINE = """
title: Mine
paper: somewhere else
scales: {tiny: scale.yaml}
reach: {tiny: 0.05}
measures: [GM, PM, GM as trained, first round]
settings:
  mild: {options: {data.imbalance_factor: 5}}
  full only: {scales: {tiny: null, full: scale.yaml}}
rows:
  FedAvg: {method: FedAvg, printed: {mild: {GM: 0.1234}}}
  FedPer: {method: FedPer}
  broken: {method: FedRep, options: {head_epochs: 0}}
  FedLoGe: {}
  no GA-FR: {realign: {ga: false}}
"""
SCALE = """
about: a test
seeds: [0, 1]
trainer: {rounds: 2, local_epochs: 1, threads: 1, accelerator: cpu}
model: {init_args: {backbone: {class_path: SmallCNN, init_args: {channels: [32], in_channels: 1}}}}
data: {source: Digits, num_clients: 3, batch_size: 32, augment: none}
methods: {FedLoGe: {gamma: 1.0}}
"""


def written(folder, **changes):
    (folder / "scale.yaml").write_text(SCALE)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(MINE) | changes, allow_unicode=True, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
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


def test_what_has_no_number_is_told_apart(done):
    folder, _ = done
    lines = (folder / "out/tiny/mine/study.md").read_text().splitlines()
    assert re.match(r"\| FedPer \| – \| \d", next(line for line in lines if line.startswith("| FedPer")))
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


def test_a_realignment_whose_training_failed_is_told(tmp_path):
    trained = Cell("broken", 0, {"model": {"class_path": "Nothing"}}, tmp_path / "a")
    realigned = Cell("again", 0, {"ga": False}, tmp_path / "b", trained)
    run_cells([trained, realigned], jobs=2)
    assert "no class 'Nothing'" in trained.error
    assert realigned.error == "the run that it realigns failed"


def test_a_realignment_that_was_cut_off_is_done_again(done, tmp_path):
    folder, _ = done
    study = load_study(folder / "mine.yaml", output_dir=folder / "out")
    cell = next(cell for cell in study.cells() if cell.source)
    (cell.run / "summary.json").unlink()
    run_cells([cell])
    assert cell.error is None
    assert cell.done


def shipped(name, scale="tiny"):
    return load_study(ROOT / f"configs/studies/{name}.yaml", scale)


def test_studies_share_runs():
    plain = {cell.run for cell in shipped("fig6").cells()}
    assert len(plain) == 4
    assert plain < {cell.run for cell in shipped("table3").cells()}
    for name in ("table7", "fig5"):
        assert len(plain & {cell.run for cell in shipped(name).cells()}) == 2


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_options_of_a_study_exist(path, tmp_path):
    without_small = {"table2", "fig4c"}
    for scale in SCALES if path.stem not in without_small else ("tiny", "full"):
        study = load_study(path, scale)
        for cell in {str(cell.options["model"]): cell for cell in study.cells() if cell.source is None}.values():
            cell.folder = tmp_path
            options = cell.options | {"data": cell.options["data"] | {"source": "Digits"}}  # images may be absent
            cell.config.write_text(yaml.safe_dump(options))
            assert type(build(["--config", str(cell.config)]).model).__name__ == cell.options["model"]["class_path"]


def test_every_printed_number_is_the_papers():
    if not PAPER.is_file():
        pytest.skip("the paper's text is not here")
    text = PAPER.read_text()
    for path in STUDIES:
        if path.stem == "fig4a":  # of the released logs, as its note says
            continue
        for entry in load_study(path, "full").rows if path.stem != "table6" else ():
            for value in entry.printed.values():
                assert re.search(rf"(?<![\d.]){re.escape(f'{value:g}')}0*(?!\d)", text), (
                    f"{path.stem} {entry.name} {value}"
                )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "picture"}, "kind='picture'"),
        ({"kind": "curve"}, "of a curve must be numbers"),
        ({"kind": "frames"}, r"at\.tiny=\{\} must hold num_classes and dim"),
        ({"kind": "frames", "at": {"tiny": {"num_classes": 3, "dim": "x"}}}, "dim='x' must be a whole number"),
        (
            {"kind": "frames", "at": {"tiny": {"num_classes": 3, "dim": 8}}, "rows": {"a": {"options": {"x": 1}}}},
            "x=1 is no option of SSE-C",
        ),
        ({"rows": {}}, r"rows=\{\} has no entry"),
        ({"rows": [1]}, r"rows=\[1\] must be a mapping"),
        ({"rows": {"a": 3}}, r"rows\.a=3 must be a mapping"),
        ({"rows": {"a": {"methd": 1}}}, r"rows\.a: methd=1 is not supported"),
        ({"rows": {"a": {"options": [1]}}}, r"options=\[1\] must be a mapping"),
        ({"rows": {"a": {"realign": [1]}}}, r"realign=\[1\] must be a mapping"),
        ({"rows": {"a": {"printed": {"mild": {"GM": "42.3"}}}}}, "printed.GM='42.3' must be a number"),
        ({"notes": "hello"}, "notes='hello' must be a list"),
        ({"at": 3}, "at=3 must be a mapping"),
        ({"at": {"tiny": 3}}, r"at\.tiny=3 must be a mapping"),
        ({"notes": [{"a": "b"}]}, r"notes=\{'a': 'b'\} must be a string. Quote the note"),
        ({"at": {"tiny": {"seeds": "x"}}}, "seeds='x' must be a whole number or a list"),
        ({"settings": {"mild": {"options": [1]}}}, r"settings\.mild: options=\[1\] must be a mapping"),
        ({"colour": 1}, "colour=1 is not supported"),
        ({"scales": {"full": "scale.yaml"}, "settings": None}, "scale='tiny' is not one of"),
        ({"scales": {"tiny": "none.yaml"}}, "none.yaml' cannot be read"),
    ],
)
def test_bad_studies_are_told(tmp_path, changes, message):
    with pytest.raises(FedlogeError, match=message):
        load_study(written(tmp_path, **changes))


@pytest.mark.parametrize("override", ["--model=FedAvg", "--model.class_path=FedAvg", "--methods=3", "--trainer=5", "x"])
def test_bad_overrides_are_told(tmp_path, override):
    with pytest.raises(FedlogeError, match="cannot be given to a study"):
        load_study(written(tmp_path), overrides=[override])
    with pytest.raises(FedlogeError, match="nothing is trained"):
        load_study(ROOT / "configs/studies/table6.yaml", overrides=["--trainer.rounds=2"])


def test_the_command_line_stands_above_the_scale_and_below_the_row(tmp_path):
    rows = {"a": {}, "b": {"options": {"gamma": 0.3}}}
    source = "{class_path: ImageFolder, init_args: {root: here}}"
    overrides = ["--model.gamma=0.5", "--model.lr=0.1", f"--data.source={source}", "--seeds=[7]"]
    study = load_study(written(tmp_path, rows=rows), overrides=overrides)
    arguments = [entry.cells[0].options["model"]["init_args"] for entry in study.rows]
    assert [(each["gamma"], each["lr"]) for each in arguments] == [(0.5, 0.1), (0.3, 0.1)]
    assert study.cells()[0].options["data"]["source"]["init_args"] == {"root": "here"}
    assert [cell.seed for cell in study.cells()] == [7, 7]
    assert "with model.gamma=0.5 model.lr=0.1" in study.about


def test_other_images_are_other_runs(tmp_path):
    runs = [
        load_study(written(tmp_path), overrides=[f"--data.source.init_args.root={root}"]).cells()[0].run
        for root in ("here", "there")
    ]
    assert runs[0] != runs[1]


def test_numbers_of_some_seeds_say_so():
    cells = [Cell("a", seed, {}, Path("nowhere")) for seed in (0, 1)]
    result = Result(Row("a", cells, printed={"first round": 83}), {"first round": [2.0]})
    assert value_text(result, "first round") == "2.0, 1 of 2 seeds (83)"


def test_a_run_that_cannot_be_analysed_is_told_and_the_others_go_on(done):
    folder, _ = done
    changes = {"measures": ["ρ(m, v)"], "rows": {"FedPer": {"method": "FedPer"}, "FedLoGe": {}}}
    study = load_study(written(folder, **changes), output_dir=folder / "out")
    text = write_study(study, study_results(study)).read_text()
    assert "| FedPer | failed |" in text
    assert re.search(r"\| FedLoGe \| -?0\.\d{3} ± ", text)
    assert "FedPer has no generic model" in text


def test_no_jobs_are_refused(tmp_path, capsys):
    assert main(["study", str(written(tmp_path)), "--jobs=-1", "--output_dir", str(tmp_path / "out")]) == 2
    assert "jobs=-1 must be at least 1" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_is_told(tmp_path, capsys):
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
def test_bad_measures_are_told_before_anything_is_run(tmp_path, capsys, changes, message):
    assert main(["study", str(written(tmp_path, **changes)), "--output_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bad_scale_is_one_line(capsys):
    assert main(["study", str(STUDIES[0]), "--scale=huge"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "scale='huge'" in error


def test_frames_need_no_training(tmp_path):
    study = load_study(ROOT / "configs/studies/table6.yaml", output_dir=tmp_path)
    text = write_study(study, study_results(study)).read_text()
    assert study.cells() == []
    assert "C = 10, d = 64; nothing is trained" in text
    angles = [result.values["angle"][0] for result in study_results(study)]
    assert angles == pytest.approx([96.379] * 6, abs=1e-3)


def test_a_curve_is_drawn(tmp_path):
    rows = {"0.0": {"options": {"beta": 0.0}, "printed": {"GM": 0.5}}}
    path = written(tmp_path, kind="curve", x="β", settings={"": {}}, measures=["GM"], rows=rows)
    study = load_study(path, output_dir=tmp_path / "out", overrides=["--seeds=[0]"])
    study.run()
    assert write_study(study, study_results(study)).with_name("study.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table3", "table7", "table10", "fig5", "table6", "fig1", "fig3", "fig6", "fig7"])
def test_tiny_studies_run(name, tmp_path_factory, capsys):
    folder = tmp_path_factory.getbasetemp() / "tiny_studies"  # they share runs
    assert main(["study", str(ROOT / f"configs/studies/{name}.yaml"), "--output_dir", str(folder), "--jobs=2"]) == 0
    assert "Not the paper's setting" in capsys.readouterr().out
    assert "failed" not in (folder / "tiny" / name / "study.md").read_text()
    assert (folder / "tiny" / name / "study.png").is_file() == name.startswith("fig")
