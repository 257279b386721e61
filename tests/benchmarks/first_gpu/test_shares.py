from types import SimpleNamespace

from benchmarks.first_gpu.shares import pytest_collection_modifyitems


def test_shares_are_disjoint_and_complete():
    kept, dropped = [], []
    for share in ("1/2", "2/2"):
        items, hook = [*"abcde"], SimpleNamespace(pytest_deselected=lambda items: dropped.append(items))
        pytest_collection_modifyitems(SimpleNamespace(getoption={"--share": share}.get, hook=hook), items)
        kept.append(items)
    assert kept == [["a", "c", "e"], ["b", "d"]]
    assert dropped == kept[::-1]
