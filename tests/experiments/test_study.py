"""Studies as files: what they hold, the runs they share, and what comes out."""

import re
from pathlib import Path

import pytest
import yaml

from fedloge.cli import main
from fedloge.config import build
from fedloge.errors import FedlogeError
from fedloge.experiments.study import SCALES, load_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path for pattern in ("table*.yaml", "fig*.yaml") for path in (ROOT / "configs/studies").glob(pattern))
PAPER = ROOT.parent / "shared" / "spec" / "fedloge_paper.txt"


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
        ({"rows": {"a": {"printed": {"mild": {"GM": "42.3"}}}}}, "printed: GM='42.3' must be a number"),
        ({"notes": "hello"}, "notes='hello' must be a list"),
        ({"at": 3}, "at=3 must be a mapping"),
        ({"at": {"tiny": 3}}, r"at\.tiny=3 must be a mapping"),
        ({"notes": [{"a": "b"}]}, r"notes=\{'a': 'b'\} must be a string. Quote it"),
        ({"reach": {"tiny": "a"}}, "reach: tiny='a' must be a number"),
        ({"at": {"tiny": {"colour": 1}}}, "no option 'colour'"),
        ({"at": {"tiny": {"data.alpha": "x"}}}, "data.alpha=x is not of the expected type"),
        ({"at": {"tiny": {"seeds": "x"}}}, "seeds='x' must be a whole number or a list"),
        ({"settings": {"mild": {"options": [1]}}}, r"settings\.mild: options=\[1\] must be a mapping"),
        ({"colour": 1}, "colour=1 is not supported"),
        ({"scales": {"full": "scale.yaml"}, "settings": None}, "scale='tiny' is not one of"),
        ({"scales": {"tiny": "none.yaml"}}, "none.yaml' cannot be read"),
    ],
)
def test_bad_studies_are_refused(tmp_path, changes, message, written):
    with pytest.raises(FedlogeError, match=message):
        load_study(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--model=FedAvg", "has no effect here: the rows name the methods"),
        ("--model.class_path=FedAvg", "has no effect here"),
        ("--methods=3", "no option 'methods'"),
        ("--trainer=5", "trainer"),
        ("x", "is not an option"),
    ],
)
def test_bad_overrides_are_refused(tmp_path, override, message, written):
    with pytest.raises(FedlogeError, match=message):
        load_study(written(tmp_path), overrides=[override])
    with pytest.raises(FedlogeError, match="nothing is trained"):
        load_study(ROOT / "configs/studies/table6.yaml", overrides=["--trainer.rounds=2"])


def test_the_command_line_stands_above_the_scale_and_below_the_row(tmp_path, written):
    rows = {"a": {}, "b": {"options": {"gamma": 0.3}}}
    source = "{class_path: ImageFolder, init_args: {root: here}}"
    overrides = ["--model.gamma=0.5", "--model.lr=0.1", f"--data.source={source}", "--seeds=[7]"]
    study = load_study(written(tmp_path, rows=rows), overrides=overrides)
    arguments = [entry.cells[0].options["model"]["init_args"] for entry in study.rows]
    assert [(each["gamma"], each["lr"]) for each in arguments] == [(0.5, 0.1), (0.3, 0.1)]
    assert study.cells()[0].options["data"]["source"]["init_args"] == {"root": "here"}
    assert [cell.seed for cell in study.cells()] == [7, 7]
    assert "with model.gamma=0.5 model.lr=0.1" in study.about


def test_other_images_are_other_runs(tmp_path, written):
    roots = [f"--data.source={{class_path: ImageFolder, init_args: {{root: {root}}}}}" for root in ("here", "there")]
    runs = {load_study(written(tmp_path), overrides=[root]).cells()[0].run for root in roots}
    assert len(runs) == 2


def test_studies_of_one_name_are_refused_before_anything_runs(tmp_path, capsys, written):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    files = [str(written(tmp_path / name)) for name in ("a", "b")]
    assert main(["study", *files, "--output_dir", str(tmp_path / "out")]) == 2
    assert "would be written by two of the files" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_rows_are_checked_before_anything_runs(tmp_path, written):
    for row in ({"options": {"gama": 1}}, {"realign": {"gama": 1}}):
        with pytest.raises(FedlogeError, match=r"no option 'gama'.*Did you mean 'gamma'"):
            load_study(written(tmp_path, rows={"a": row}))


def test_no_jobs_are_refused(tmp_path, capsys, written):
    assert main(["study", str(written(tmp_path)), "--jobs=-1", "--output_dir", str(tmp_path / "out")]) == 2
    assert "jobs=-1 must be at least 1" in capsys.readouterr().err


def test_a_bad_scale_is_one_line(capsys):
    assert main(["study", str(STUDIES[0]), "--scale=huge"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "scale='huge'" in error
