import json

import pytest

from fedloge.experiments.runner import Cell
from fedloge.experiments.study_report import KNOWN
from fedloge.experiments.tables import Row, coverages, csv_values, failures, table
from fedloge.runs.measures import GM, MEGABYTES, PM


def row(tmp_path, done=(0, 1), **fields):
    """Two seeds, of which some are finished."""
    cells = [Cell("a", seed, {}, tmp_path) for seed in (0, 1)]
    for seed in done:
        cells[seed].run.mkdir(parents=True)
        (cells[seed].run / "summary.json").write_text("{}")
    return Row("a", cells, **fields)


def test_a_text_has_our_value_and_the_papers(tmp_path):
    values = {"GM": [0.4, 0.5], "first round": [2.0], "PM": []}
    both = row(tmp_path, printed={"GM": 0.435, "first round": 83}, values=values)
    assert both.text(GM) == "45.0 ± 7.1 (43.50)"
    assert both.text(KNOWN["first round"][0]) == "2.0, 1 of 2 seeds (83)"
    assert both.text(PM) == "none"
    assert both.text(MEGABYTES) == ""  # not a column of this row


def test_why_there_is_no_value(tmp_path):
    waiting = row(tmp_path, done=(), values={"GM": []})
    assert waiting.text(GM) == ""
    waiting.cells[0].error = "broken"
    assert waiting.text(GM) == "failed"
    assert waiting.failed == "seed 0: broken"
    assert failures(waiting.cells) == [f"a, seed 0, failed: broken (see {waiting.cells[0].log})"]


def test_runs_whose_means_leave_clients_out_are_named(tmp_path):
    everyone = {"count": 8, "tested": 8, "tested_by_group": {}, "not_tested": [], "failed": []}
    some = everyone | {"tested": 7, "not_tested": [2]}
    failed = [{"client": 3, "failures": 1, "rounds": 9, "reason": "ValueError: no loss"}]
    cells = [Cell("a", seed, {}, tmp_path) for seed in range(5)]
    for cell, clients in zip(cells, [None, everyone, some, some, everyone | {"failed": failed}], strict=True):
        cell.run.mkdir(parents=True)
        (cell.run / "summary.json").write_text(json.dumps({"clients": clients} if clients else {}))
    missing = "PM: mean over 7 of 8 clients. 1 of 8 clients has no test images and is not tested: 2."
    assert coverages(cells) == [
        f"a, seed 2; a, seed 3: {missing}",
        "a, seed 4: Client 3 failed in 1 of its 9 rounds: ValueError: no loss.",
    ]


def test_a_failed_run_shows_no_number_of_its_folder(tmp_path):
    """Its folder may hold a summary all the same, of a run that failed after it or of another one."""
    both = row(tmp_path)
    both.cells[1].error = "broken"
    assert [cell.seed for cell in both.done] == [0]
    both.cells[0].error = "broken too"
    failed = both.measured(both.summaries, [GM])
    assert failed.values == {"GM": []}
    assert failed.text(GM) == "failed"
    assert csv_values(failed, [GM]) == ["", ""]
    assert failed.failed == "seed 0: broken too; seed 1: broken"


def test_rows_with_the_same_label_stay_two():
    rows = [Row(name, values={"GM": [value]}) for name, value in (("a", 0.5), ("a", 0.25))]
    assert [line[1] for line in table(rows, [GM], ["x"], lambda row: [row.name]).rows] == ["50.0", "25.0"]


def test_costs_are_means_and_csv_has_megabytes(tmp_path):
    both = row(tmp_path, values={"MB/round": [1e6, 2e6], "GM": [0.25]})
    assert both.text(MEGABYTES) == "1.50"
    assert csv_values(both, [MEGABYTES, GM]) == ["1.500000", "0.707107", "0.250000", ""]


@pytest.mark.parametrize(
    ("settings", "head"), [(("",), "| x | GM |"), (("mild", "hard"), "| x | mild: GM | hard: GM |")]
)
def test_settings_stand_side_by_side(settings, head):
    rows = [Row(name, setting=setting, values={"GM": [0.5]}) for name in ("a", "b") for setting in settings]
    text = table(rows, [GM], ["x"], lambda row: [row.name]).markdown()
    assert text.splitlines()[0] == head
    assert text.splitlines()[3] == "| b |" + " 50.0 |" * len(settings)
