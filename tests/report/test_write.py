import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from fedloge.cli import main
from fedloge.report.tables import accuracy_table
from fedloge.report.write import write_report

QUICKSTART = ["fit", "--config", str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")]
SHORT = ["--trainer.rounds=2", "--trainer.local_epochs=1", "--trainer.accelerator=cpu"]


def fail(capsys, *args):
    assert main(list(args)) == 2
    error = capsys.readouterr().err
    assert error.startswith("fedloge: error: ")
    assert error.count("\n") == 1
    return error


def test_markdown(run_folder, tmp_path, capsys):
    assert main(["report", str(run_folder), "--output", str(tmp_path / "deep" / "r.md")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "deep" / "r.md")
    text = (tmp_path / "deep" / "r.md").read_text()
    assert "| after realignment |" in text
    assert "## Accuracy by class, first" in text
    assert "Worst tenth: client" in text
    lengths = {line.count("|") for line in text.partition("## Accuracy by class")[2].splitlines() if "|" in line}
    assert len(lengths) == 1


def test_a_round_that_was_chosen_by_validation_stands_beside_the_last(make_run, tmp_path):
    groups = {"acc_many": 0.5, "acc_medium": 0.5, "acc_few": 0.5}
    part = {"acc": 0.4321, **groups}
    about = {"metric": "val/global/acc", "round": 3, "value": 0.65}
    run = make_run(selected={**about, "global": part, "personal": None}, val={"global": part, "personal": None})
    text = write_report([run], tmp_path / "r.md").read_text()
    assert "rounds 4; round 3 was chosen on validation images (val/global/acc 0.65)" in text
    assert "| round 3, chosen on validation images | 43.2" in text
    assert "| validation images, last round | 43.2" in text
    summary = json.loads((run / "summary.json").read_text())
    shown = Console(width=120, record=True, file=io.StringIO())
    shown.print(accuracy_table(summary))
    assert "round 3 was chosen on validation images" in " ".join(shown.export_text().split())


def test_csv_holds_the_numbers_of_the_summary(run_folder, tmp_path):
    path = write_report([run_folder], tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    summary = json.loads((run_folder / "summary.json").read_text())
    found = {(row["model"], row["stage"], row["item"], row["measure"]): float(row["value"]) for row in rows}
    assert found["generic", "final", "", "acc"] == summary["global"]["acc"]
    assert found["personal", "trained", "", "acc_mean"] == summary["before_realignment"]["personal"]["acc_mean"]
    assert len([key for key in found if key[2].startswith("client ")]) == 12


@pytest.mark.parametrize("count", [1, 2])
def test_png(count, make_run, tmp_path):
    runs = [make_run(f"run-{k}", realigned=k == 0) for k in range(count)]
    picture = write_report(runs, tmp_path / "r.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


@pytest.mark.parametrize("views", [("global",), ("personal",)])
@pytest.mark.parametrize("format", ["html", "md", "csv", "png"])
def test_methods_with_one_kind_of_model(views, format, make_run):
    run = make_run(views=views, realigned=False)
    content = write_report([run], format=format).read_bytes()
    if format == "html":
        assert (b"This method has no personal models." in content) == (views == ("global",))
        assert (b"This method has no generic model." in content) == (views == ("personal",))


def test_html_is_written_into_the_run(make_run):
    run = make_run()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_several_runs_go_to_the_current_folder(make_run, tmp_path, monkeypatch):
    runs = [make_run("a"), make_run("b")]
    monkeypatch.chdir(tmp_path)
    assert write_report(runs, format="md") == Path("report.md")
    assert (tmp_path / "report.md").is_file()


def test_a_page_of_100_classes_and_100_clients_stays_small(make_run):
    page = write_report([make_run(num_classes=100, num_clients=100, rounds=500, dim=128)])
    assert page.stat().st_size < 8_000_000


def test_names_cannot_break_out_of_the_page(make_run):
    evil = "</script><script>alert(1)</script>"
    page = write_report([make_run(names=[evil, *map(str, range(9))])]).read_text()
    assert "<script>alert(1)" not in page


def test_bad_input_gets_one_line(run_folder, make_run, tmp_path, capsys):
    assert "is not a run" in fail(capsys, "report", str(tmp_path))
    assert "is not a run" in fail(capsys, "report", str(tmp_path / "absent"))
    assert "given twice" in fail(capsys, "report", str(run_folder), str(run_folder))
    assert "Choose one of html, md, csv, png" in fail(capsys, "report", str(run_folder), "--format=pdf")
    assert "Give --format too" in fail(capsys, "report", str(run_folder), f"--output={tmp_path / 'x.pdf'}")
    (tmp_path / "folder.md").mkdir()
    assert "cannot be written" in fail(capsys, "report", str(run_folder), f"--output={tmp_path / 'folder.md'}")
    unfinished = make_run()
    (unfinished / "summary.json").unlink()
    assert "is not finished" in fail(capsys, "report", str(unfinished))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert main([*QUICKSTART, *SHORT, f"--trainer.run_dir={folder}"]) == 0
    return folder


def test_a_run_ends_with_its_report(trained):
    assert "FedLoGe on digits" in (trained / "report.html").read_text()


def test_a_run_realigned_again_has_a_report_too(trained, tmp_path):
    assert main(["realign", str(trained), f"--output_dir={tmp_path / 'again'}", "--pm_rule=phi+la"]) == 0
    assert "after realignment" in write_report([tmp_path / "again"], format="md").read_text()
    assert "No learning curves" in write_report([tmp_path / "again"]).read_text()


def test_the_report_can_be_switched_off(tmp_path, capsys):
    assert main([*QUICKSTART, *SHORT, f"--trainer.run_dir={tmp_path / 'run'}", "--report=false"]) == 0
    assert not (tmp_path / "run" / "report.html").exists()
    assert "report:" not in capsys.readouterr().out


def test_a_report_that_fails_does_not_fail_the_run(tmp_path, capsys, monkeypatch):
    def broken(paths):
        raise ZeroDivisionError("no figure")

    monkeypatch.setattr("fedloge.report.write.write_report", broken)
    assert main([*QUICKSTART, *SHORT, f"--trainer.run_dir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "summary.json").is_file()
    assert "no report: ZeroDivisionError('no figure')" in capsys.readouterr().out
