import json

import pytest

from benchmarks import run as runner
from benchmarks.first_gpu import __main__ as command
from benchmarks.first_gpu.plan import SECONDS, Part, Stage, marked, stages
from benchmarks.machine import ROOT
from uninstalled import without

LATER = "import time; print('begun', flush=True); time.sleep(60)"


def python(name, code, seconds=60.0, **options):
    return Part(name, ("-c", code), seconds, **options)


@pytest.fixture
def result(tmp_path, monkeypatch, capsys):
    """Runs some stages; returns exit status, the parts of the report by name, the report, and what was printed."""

    def run(*planned, arguments=()):
        monkeypatch.setattr(command, "stages", lambda profile: planned)
        code = command.main(["--output", str(tmp_path), "--stages", f"0-{len(planned) - 1}", *arguments])
        (path,) = tmp_path.glob("first-gpu-*.json")
        report = json.loads(path.read_text())
        parts = {part["name"]: part for stage in report["stages"] for part in stage["parts"]}
        return code, parts, report, capsys.readouterr()

    return run


def test_parts_print_and_leave_their_measurements(result):
    writes = (
        "import json, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps(sys.argv[2:])); print('measured')"
    )
    places = ("{file}", "{profile}", "{seconds}", "{minutes}")
    code, parts, report, printed = result(Stage("a thing", 60, ((Part("one", ("-c", writes, *places), 42.0),),)))
    assert code == 0
    assert report["workload"] == "first-gpu"
    assert report["complete"]
    assert (parts["one"]["outcome"], parts["one"]["passed"], parts["one"]["output"]) == ("passed", True, ["measured"])
    assert parts["one"]["result"] == ["full", "30.0", "0.5"]
    assert "== stage 0: a thing\none: measured\n" in printed.out


def test_parts_of_a_group_run_at_the_same_time_and_the_next_group_after_them(result):
    """The first waits for a file of the second, and the third for none."""
    wait = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)"
    touch = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
    there = "import pathlib, sys; sys.exit(not pathlib.Path(sys.argv[1]).exists())"
    waits, touches, sees = (
        Part(name, ("-c", code, "{folder}/mark"), 60.0) for name, code in {"a": wait, "b": touch, "c": there}.items()
    )
    code, parts, _, _ = result(Stage("", 60, ((waits, touches), (sees,))))
    assert (code, list(parts)) == (0, ["a", "b", "c"])


def test_a_part_that_hangs_is_stopped_at_its_limit_and_the_next_runs(result):
    hangs, next_one = python("hangs", LATER, seconds=2.0), python("next", "print('here')")
    code, parts, _, printed = result(Stage("", 60, ((hangs,), (next_one,))))
    assert code == 1
    assert parts["hangs"]["outcome"] == "stopped at its limit of 2 s"
    assert (parts["hangs"]["passed"], parts["next"]["passed"]) == (False, True)
    assert "  hangs: stopped at its limit of 2 s, " in printed.out


def test_smaller_tries_come_after_one_that_failed(result):
    small = python("small", "print('small')", after="whole")
    _, parts, _, _ = result(Stage("", 60, ((python("whole", "raise SystemExit(1)"),), (small,))))
    assert {name: part["outcome"] for name, part in parts.items()} == {"whole": "failed (1)", "small": "passed"}
    _, parts, _, _ = result(Stage("", 60, ((python("whole", "pass"),), (small,))))
    assert list(parts) == ["whole"]


def test_stages_are_dropped_from_the_end(result):
    """Ten seconds suffice for the first, which asks for five at least, and not for the others."""
    short, long = (Stage("", seconds, ((python("part", "print('here')"),),)) for seconds in (10, 1000))
    code, _, report, printed = result(short, long, long, arguments=["--seconds", "20"])
    assert code == 0
    assert [len(stage["parts"]) for stage in report["stages"]] == [1, 0, 0]
    assert "and it needs 500" in report["stages"][1]["dropped"]
    assert printed.out.count("dropped: ") == 2


def test_without_a_gpu_nothing_further_is_tried(result):
    refuses = Stage("", 60, ((python("part", "raise SystemExit(40)"),),))
    code, _, report, printed = result(refuses, refuses)
    assert (code, len(report["stages"])) == (2, 1)
    assert "error: there is no CUDA device; --profile quick shows the stages on the CPU." in printed.err


@pytest.mark.parametrize(
    ("text", "chosen"), [("0-6", range(7)), ("3", [3]), ("0,2,5-6", [0, 2, 5, 6]), ("1-2,2", [1, 2])]
)
def test_stages_can_be_chosen(text, chosen):
    assert command.numbers(text) == {*chosen}


@pytest.mark.parametrize("text", ["7", "", "a", "5-", "3-1"])
def test_stages_that_do_not_exist_are_refused(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--stages", text])
    assert stopped.value.code == 2
    assert "argument --stages: invalid numbers value" in capsys.readouterr().err


def test_all_stages_fit_into_the_time():
    assert sum(stage.seconds for stage in stages("full")) == SECONDS
    for stage in stages("full"):
        usual = [part for group in stage.groups for part in group[:1] if not part.after]
        assert sum(part.seconds for part in usual) <= stage.seconds


def test_every_file_with_gpu_tests_is_run():
    files = marked()
    assert {"tests/data/test_augment.py", "tests/executors/cuda/test_executor.py", "tests/test_trainer.py"} <= {*files}
    first, *_ = stages("full")[2].groups
    assert len(first) == 4
    assert all({*files} <= {*part.command} for part in first)


@pytest.mark.parametrize("number", [5, 6])
def test_the_workloads_are_measured_alone_and_in_time(number, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "measure", lambda workload, pythons, options: asked.append((workload, options)) or True)
    ((part,),) = stages("quick")[number].groups
    words = [word.format(profile="quick", minutes=1.4, folder=tmp_path) for word in part.command]
    assert runner.main(words[2:]) == 0
    ((workload, options),) = asked
    assert [(c.ours, c.other) for c in workload.comparisons] == [("fedloge@4", None)]
    assert (workload.name, options.pairs, options.minutes, options.results) == (part.name, 1, 1.4, tmp_path)


@pytest.mark.slow
def test_a_checkout_that_is_not_installed_will_do(tmp_path, monkeypatch):
    """A fit by the command line and the gpu tests, with neither plotly nor wandb, and without fedloge's metadata."""
    hidden = without(tmp_path, ROOT / "src", modules={"plotly", "wandb"}, distributions={"fedloge"})
    monkeypatch.setenv("PYTHONPATH", hidden["PYTHONPATH"])
    folder = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    assert command.main(["--profile", "quick", "--stages", "0,2", "--output", str(folder)]) == 0
    report = json.loads(next(folder.glob("first-gpu-*.json")).read_text())
    parts = {part["name"]: part for stage in report["stages"] for part in stage["parts"]}
    assert list(parts) == ["ceilings", "tests-1", "sanitized"]
    measured = {entry["name"]: entry for entry in parts["ceilings"]["result"]["measurements"]}
    assert measured["fedloge fit"]["exit_status"] == 0
    assert "fedloge" not in parts["ceilings"]["result"]["versions"]
    assert any("no report: format='html' needs the package plotly" in line for line in parts["ceilings"]["output"])
    assert " in " in parts["tests-1"]["output"][-1]
