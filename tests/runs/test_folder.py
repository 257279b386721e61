import pytest

from fedloge.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_a_column_that_comes_later_is_empty_in_the_rows_before(folder):
    folder.append("m.csv", [{"round": 1, "acc": 0.5}])
    folder.append("m.csv", [{"round": 2, "acc": 0.6, "before": 0.4}])
    folder.append("m.csv", [{"round": 3, "acc": 0.7}])
    assert folder.rows("m.csv") == [
        {"round": "1", "acc": "0.500000", "before": ""},
        {"round": "2", "acc": "0.600000", "before": "0.400000"},
        {"round": "3", "acc": "0.700000", "before": ""},
    ]


def test_no_rows_make_no_file(folder):
    folder.append("none.csv", [])
    assert folder.rows("none.csv") == []
    assert not (folder.path / "none.csv").exists()
