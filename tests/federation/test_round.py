import pytest
import torch

from fedloge.errors import RunError
from fedloge.executors import ClientFailure, ClientResult
from fedloge.federation.round import Faults, receive
from fedloge.federation.state import ClientStore, ClientUpdate
from fedloge.runs.folder import RunFolder


def result(client):
    return ClientResult(ClientUpdate(client, {}, 1, (1,)), {"w": torch.tensor(float(client))})


@pytest.fixture
def make_faults(tmp_path):
    return lambda on_client_failure="skip", min_clients=0.5: Faults(
        RunFolder(tmp_path), on_client_failure, 1, min_clients
    )


def test_an_update_is_passed_on_before_the_next_outcome_is_asked_for():
    events = []

    def outcomes():
        for client in range(3):
            events.append(("trained", client))
            yield result(client)

    for update in receive(outcomes(), ClientStore(3, lambda k: {}), events.append):
        events.append(("aggregated", update.client))
    assert events == [(event, client) for client in range(3) for event in ("trained", "aggregated")]


def test_personal_states_are_stored_and_failures_reported():
    clients, failures = ClientStore(3, lambda k: {"w": torch.tensor(-1.0)}), []
    failure = ClientFailure(1, "too bad")
    updates = list(receive([result(0), failure, result(2)], clients, failures.append))
    assert [update.client for update in updates] == [0, 2]
    assert [own["w"].item() for own in clients] == [0, -1, 2]
    assert failures == [failure]


def test_a_failure_is_recorded_and_the_run_continues(make_faults):
    faults = make_faults()
    with pytest.warns(UserWarning, match="round 2 continues without client 1: too bad"):
        faults.record(ClientFailure(1, "too bad", "Traceback"), 2)
    assert faults.folder.rows("faults.csv") == [{"round": "2", "client": "1", "reason": "too bad", "attempts": "1"}]
    assert (faults.folder.path / "faults.log").read_text() == "round 2, client 1: too bad\nTraceback\n"


def test_abort_ends_the_run_at_the_first_failure(make_faults):
    with pytest.raises(RunError, match=r"client 1 failed: too bad.*=retry or skip would continue without it"):
        make_faults("abort").record(ClientFailure(1, "too bad"), 2)


@pytest.mark.filterwarnings("ignore:round 1 continues without client")
@pytest.mark.parametrize(("survivors", "min_clients", "enough"), [(2, 0.5, True), (1, 0.5, False), (0, 0.0, False)])
def test_how_many_clients_must_survive(make_faults, survivors, min_clients, enough):
    faults = make_faults(min_clients=min_clients)
    faults.record(ClientFailure(3, "too bad"), 1)
    if enough:
        faults.check_survivors(survivors, 4, 1)
    else:
        with pytest.raises(RunError, match=rf"{survivors} of 4 clients survived.*requires more. Client 3: too bad"):
            faults.check_survivors(survivors, 4, 1)
