import math
from types import SimpleNamespace

import pytest
import torch

from fedloge.federation.state import ClientStore, ClientUpdate, FederatedState, SharedState
from fedloge.federation.traffic import Traffic

METHOD = SimpleNamespace(renewed=("prototypes",), server=("bank",))


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
