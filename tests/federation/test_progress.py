from types import SimpleNamespace

import pytest
import torch

from fedloge.federation.progress import Progress
from fedloge.federation.state import ClientStore, FederatedState, SharedState

TRAFFIC = SimpleNamespace(bytes_up=12, bytes_down=4, scalars=lambda: {"train/loss": 1.0})


@pytest.fixture
def progress():
    clients = ClientStore(2, lambda k: {"own": torch.tensor(0.0)})
    return Progress(FederatedState(0, SharedState({"w": torch.tensor(0.0)}), clients))


def complete(progress):
    clients = progress.state.clients.fork()
    clients[1] = {"own": torch.tensor(1.0)}
    progress.complete_round(clients, {"w": torch.tensor(2.0)}, TRAFFIC, {"metrics.csv": 7}, started=0.0)


def test_a_completed_round(progress):
    complete(progress)
    complete(progress)
    state = progress.state
    assert (state.round, state.shared.tensors["w"], state.clients[0]["own"], state.clients[1]["own"]) == (2, 2, 0, 1)
    assert progress.exchanged == {"bytes_up": 2 * 12, "bytes_down": 2 * 4}
    assert progress.row["train/loss"] == 1.0
    assert (progress.tables, progress.whole) == ({"metrics.csv": 7}, True)


def test_a_round_that_stops_half_way_is_not_whole(progress, monkeypatch):
    monkeypatch.setattr(ClientStore, "adopt", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        complete(progress)
    assert not progress.whole
    assert progress.state.round == 0


def test_seconds_of_all_processes(progress, monkeypatch):
    assert progress.seconds == 0.0
    monkeypatch.setattr("fedloge.federation.progress.time.perf_counter", lambda: 10.0)
    progress.seconds_before, progress.started = 5.0, 7.0
    assert progress.seconds == 8.0
