import re
from pathlib import Path

import pytest

from fedloge.cli import main
from fedloge.errors import FedlogeError
from fedloge.experiments.study import load_study
from fedloge.system.configs import copy, find, folder, names, resolved

ROOT = Path(__file__).parents[2]


def test_every_configuration_has_a_name(capsys):
    files = {path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "scales"}
    assert {find(name) for name in names()} == files
    assert folder() == ROOT / "configs"
    assert main(["configs"]) == 0
    lines = dict(re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines())
    assert set(lines) == set(names())
    assert lines["quickstart"].startswith("FedLoGe on the handwritten digits that scikit-learn ships")
    assert lines["studies/table3"] == "Table 3: SSE-C, GA-FR and LA-FR"


def test_the_last_part_of_a_name_is_enough_where_it_is_unique():
    assert find("table3") == find("studies/table3")
    with pytest.raises(FedlogeError, match=r"several configurations\. Choose one of cifar100_lt/fedloge, cifar10_lt/"):
        find("fedloge")
    with pytest.raises(FedlogeError, match=r"'quickstrat' is no file and no config.* Did you mean 'quickstart'"):
        find("quickstrat")


def test_names_stand_for_files_wherever_a_verb_takes_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = ROOT / "configs"
    quickstart = str(configs / "quickstart.yaml")
    assert resolved("fit", ["--config", "quickstart", "--model=FedAvg"]) == ["--config", quickstart, "--model=FedAvg"]
    assert resolved("fit", ["--config=quickstart", "--trainer.run_dir", "table3"]) == [
        f"--config={quickstart}",
        "--trainer.run_dir",
        "table3",
    ]
    table3, fig1 = (str(configs / "studies" / f"{name}.yaml") for name in ("table3", "fig1"))
    assert resolved("study", ["table3", "--scale", "small", "--jobs=2", "fig1"]) == [
        table3,
        "--scale",
        "small",
        "--jobs=2",
        fig1,
    ]
    assert resolved("predict", ["quickstart", "images"]) == ["quickstart", "images"]
    (tmp_path / "quickstart").write_text("trainer: {}")
    (tmp_path / "mine.yaml").write_text("trainer: {}")
    kept = ["--config", "quickstart", "-c", "mine.yaml", "--config=absent.yaml", "--config", "trainer: {rounds: 1}"]
    assert resolved("fit", kept) == kept
    with pytest.raises(FedlogeError, match=r"'configs/quickstart\.yaml' does not exist here\. The name quickstart"):
        resolved("fit", ["--config", "configs/quickstart.yaml"])


def test_copies_keep_their_places_and_replace_nothing(tmp_path, capsys):
    assert main(["configs", "copy", "quickstart", "table3", str(tmp_path)]) == 0
    scales = [f"studies/scales/{name}.yaml" for name in ("cifar100_lt", "small", "tiny")]
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.yaml"))
    assert written == ["quickstart.yaml", *scales, "studies/table3.yaml"]
    assert sorted(capsys.readouterr().out.split()) == sorted(str(tmp_path / name) for name in written)
    assert main(["configs", "copy", "quickstart", str(tmp_path)]) == 2
    assert "quickstart.yaml' exists already" in capsys.readouterr().err
    assert main(["configs", "copy", "--all", str(tmp_path / "all")]) == 0
    found, own = (
        {path.relative_to(base): path.read_bytes() for path in base.rglob("*.yaml")}
        for base in (tmp_path / "all", ROOT / "configs")
    )
    assert found.keys() <= own.keys()
    assert all(own[name] == content for name, content in found.items())


@pytest.mark.parametrize("args", [["copy"], ["copy", "quickstart"], ["copy", "--all"], ["copy", "x", "--all", "y"]])
def test_what_to_copy_must_be_clear(args, capsys):
    assert main(["configs", *args]) == 2
    assert "write `fedloge configs copy NAME DIR`" in capsys.readouterr().err


def test_a_study_that_was_copied_alone_finds_its_scale(tmp_path):
    (path,) = [path for path in copy(["table3"], tmp_path) if path.name == "table3.yaml"]
    (tmp_path / "mine.yaml").write_bytes(path.read_bytes())
    assert load_study(tmp_path / "mine.yaml", "tiny").about.startswith("handwritten digits")


def test_a_run_begins_from_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.rounds=1", "--trainer.local_epochs=1", "--data.num_clients=2", "--report=false", "--quiet"]
    assert main(["fit", "--config", "quickstart", *short]) == 0
    assert (tmp_path / "runs" / "quickstart" / "summary.json").is_file()
