from pathlib import Path

import pytest

from fedloge.errors import ConfigError
from fedloge.experiments.plan import Plan, check_plans, named, read_seeds, seeds_of, slug, typed
from fedloge.experiments.runner import Cell
from fedloge.experiments.tables import Row


def test_a_name_becomes_a_folder():
    assert slug("FedLoGe, γ 0.1") == "FedLoGe_γ_0.1"
    long = slug("x" * 300)
    assert len(long) < 100
    assert long != slug("x" * 301)


@pytest.mark.parametrize("name", ["", "***", ".", "..", "_", "comparison.csv", "Comparison.md"])
def test_names_of_no_folder_are_refused(name):
    with pytest.raises(ConfigError, match="cannot be the name of a folder"):
        slug(name)


@pytest.mark.parametrize("pair", [("FedAvg", "FedAvg*"), ("FedAvg", "fedavg"), ("Straße", "STRASSE"), ("a b", "a_b")])
def test_names_that_need_the_same_folder_are_refused(pair):
    folder = Path("nowhere")
    rows = [Row(name, [Cell(name, 0, {}, folder / slug(name))]) for name in pair]
    with pytest.raises(ConfigError, match="needs the same folder as"):
        Plan(rows=rows, output_dir=folder)


def test_plans_that_write_the_same_tables_are_refused():
    first, second = (Plan(rows=[], output_dir=Path(name)) for name in ("out/table1", "out/Table1"))
    with pytest.raises(ConfigError, match="would be written by two of the files"):
        check_plans([first, second])


def test_seeds_come_from_one_place():
    assert seeds_of({}, None) == [0]
    assert seeds_of({"trainer": {"seed": 5}}, None) == [5]
    assert seeds_of({"seed_everything": 6, "trainer": {"seed": 5}}, None) == [6]
    assert seeds_of({"seed_everything": False}, "1,2") == [1, 2]
    with pytest.raises(ConfigError, match=r"trainer\.seed=5 has no effect beside seeds=0"):
        seeds_of({"trainer": {"seed": 5}}, 0)


@pytest.mark.parametrize(
    ("value", "seeds"), [(1, [1]), ("0,1", [0, 1]), ("0, 1", [0, 1]), ([0, 1], [0, 1]), ([2, 0, 2], [2, 0])]
)
def test_seeds_are_a_number_or_a_list(value, seeds):
    assert read_seeds(value) == seeds


@pytest.mark.parametrize("value", [None, [], "", "x", "0,", True, 1.5, ["0"], [0, None]])
def test_other_seeds_are_refused(value):
    with pytest.raises(ConfigError, match=r"^seeds=.* must be a whole number or a list of them"):
        read_seeds(value)


def test_sections_have_known_keys_of_their_type():
    keys = {"jobs": int, "methods": dict}
    assert typed({"jobs": 2, "methods": None}, keys, "file") == {"jobs": 2}
    assert typed({"lr": None}, {}, "file") == {"lr": None}
    for content, message in {
        "no mapping": "file='no mapping' must be a mapping",
        "wrong key": "file: job=1 is not supported. Known keys are jobs, methods",
        "wrong type": "file: jobs='a' must be a whole number",
    }.items():
        given = {"wrong key": {"job": 1}, "wrong type": {"jobs": "a"}}.get(content, content)
        with pytest.raises(ConfigError, match=message):
            typed(given, keys, "file")
    assert named({"rows": {1: None}}, "rows", keys, "file") == {"1": {}}
    with pytest.raises(ConfigError, match="file: rows=None has no entry"):
        named({}, "rows", keys, "file")
    with pytest.raises(ConfigError, match="has a name twice"):
        named({"rows": {1: None, "1": None}}, "rows", keys, "file")
    with pytest.raises(ConfigError, match="jobs=True must be a whole number"):
        typed({"jobs": True}, keys, "file")


def test_cells_go_seed_by_seed_with_realignments_last():
    folder = Path("nowhere")
    trained = [Cell("a", seed, {}, folder / "a") for seed in (3, 1)]
    again = [Cell("a again", cell.seed, {}, folder / "again", cell) for cell in trained]
    other = [Cell("b", seed, {}, folder / "b") for seed in (3, 1)]
    plan = Plan(rows=[Row("a again", again), Row("a", trained), Row("b", other)], output_dir=folder)
    assert [(cell.name, cell.seed) for cell in plan.cells()] == [
        *(("a", 3), ("b", 3), ("a", 1), ("b", 1)),
        *(("a again", 3), ("a again", 1)),
    ]
