import tempfile

import pytest
import torch

from fedloge.errors import RunError
from fedloge.federation.state import ClientStore


def test_a_store_beyond_its_limit_is_on_disk_and_the_same():
    small, large = (ClientStore(50, lambda k: {}, memory_limit=limit) for limit in (1000, 10**9))
    for store in (small, large):
        for k in range(50):
            store[k] = {"w": torch.full((3, 4), float(k)), "n": torch.tensor(k), "flag": torch.tensor(k % 2 == 0)}
        store[7] = {"w": torch.zeros(3, 4), "n": torch.tensor(-1), "flag": torch.tensor(True)}
        store[8] = {"other": torch.ones(2)}
    assert len(small._states) < 25
    for one, other in zip(small, large, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_store_that_fills_its_disk_gives_a_clear_error(small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    store = ClientStore(100, lambda k: {}, memory_limit=0)

    def fill():
        for k in range(100):
            store[k] = {"w": torch.full((5000,), float(k))}

    with pytest.raises(RunError, match=r"disk'.*\(set by TMPDIR\), cannot be written: No space left on device"):
        fill()
    assert [store[k]["w"][0].item() for k in range(15)] == list(range(15))


def test_a_fork_changes_its_store_only_when_adopted():
    store = ClientStore(3, lambda k: {"w": torch.tensor(float(k))})
    fork = store.fork()
    fork[1] = {"w": torch.tensor(9.0)}
    assert (store[1]["w"], fork[1]["w"], fork[2]["w"]) == (1, 9, 2)
    store.adopt(fork)
    assert [own["w"].item() for own in store] == [0, 9, 2]
