import math
from types import SimpleNamespace

import pytest
import torch

from fedloge.federation.state import ClientStore, ClientUpdate, FederatedState, SharedState
from fedloge.federation.traffic import Traffic

METHOD = SimpleNamespace(renewed=("prototypes",), server=("bank",), downlink=lambda state, client: {})


def state(round):
    """Four bytes of everything: an entry that is averaged, one made once, one renewed, and one of the server."""
    fixed = {name: torch.zeros(1) for name in ("frame.weight", "prototypes.weight", "bank.weight")}
    return FederatedState(round, SharedState({"w": torch.zeros(1)}, fixed), ClientStore(5, lambda k: {}))


def update(client, examples, loss):
    report = {"mean": torch.zeros(2)}
    return ClientUpdate(client, {"w": torch.zeros(1)}, examples, (examples,), {"loss": loss}, report, {"data": 0.5})


@pytest.mark.parametrize(("round", "broadcast"), [(0, 5 * 4), (1, 0)])
def test_two_of_five_clients(round, broadcast):
    """Down: w and prototypes, 8 bytes a client, and the frame to all five before the first round. Up: w and a report,
    12 bytes a client. Loss: (3·1 + 1·5) / 4 = 2.
    """
    traffic = Traffic(METHOD, state(round))
    for one in (update(0, 3, 1.0), update(3, 1, 5.0)):
        traffic.count(one)
    assert traffic.scalars() == {"train/loss": 2.0, "comm/bytes_up": 2 * 12, "comm/bytes_down": 2 * 8 + broadcast}
    assert traffic.client_seconds == {"client/data": 1.0}


def test_without_updates_there_is_no_loss():
    assert math.isnan(Traffic(METHOD, state(1)).scalars()["train/loss"])


def test_what_a_client_alone_receives_takes_the_place_of_the_common_entry():
    """Down: a w of its own (12 bytes instead of 4) and the prototypes, 16 bytes for client 2; 8 for client 0."""
    own = lambda state, client: {"w": torch.zeros(3)} if client == 2 else {}  # noqa: E731
    traffic = Traffic(SimpleNamespace(renewed=("prototypes",), server=("bank",), downlink=own), state(1))
    for client in (0, 2):
        traffic.count(update(client, 1, 1.0))
    assert traffic.bytes_down == 8 + 16


def test_two_exchanges_send_common_entries_once():
    """First w and prototypes down (8 bytes) and a report up (8); then the changed prototypes down (4), and 12 up."""
    traffic = Traffic(METHOD, state(1))
    traffic.count_survey(update(0, 3, 1.0))
    traffic.answered({"prototypes.weight": torch.zeros(1)})
    traffic.count(update(0, 3, 1.0))
    assert (traffic.bytes_down, traffic.bytes_up) == (8 + 4, 8 + 12)
    assert traffic.scalars()["train/loss"] == 1.0
