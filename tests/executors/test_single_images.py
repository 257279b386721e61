"""No client is lost to a batch of one image."""

import pytest
import torch

from fedloge.executors import ClientFailure, ClientTask, LocalSettings, Processes, Ray, Serial
from fedloge.federation.checks import settle_last_batch
from fedloge.methods import FedAvg, FedETF, FedLoGe
from fedloge.models import SmallCNN
from harness import dealt, initial, population, same
from tiny_runs import run_tiny

SIZES = [9, 5, 1, 8, 4]
MERGED = "Clients whose last batch is one image, merged with the batch before"
ALONE = "Clients with batches of one image, for which BatchNorm takes its running statistics"
DEEP = (4, 4, 4)
"""Channels of a net whose last map has one pixel on images of 4 x 4."""


def make(method=FedAvg, channels=DEEP, **options):
    torch.manual_seed(0)
    return method(SmallCNN(channels, in_channels=1), 3, **options)


NETS = [make(), make(FedETF, (4,), projection="batchnorm"), make(FedLoGe, (4, 4, 8), beta=0.3, gamma=1.0)]


@pytest.mark.parametrize("method", NETS)
@pytest.mark.parametrize(
    ("batch_size", "asked", "chosen", "notes"),
    [
        (
            4,
            None,
            "merge",
            [f"{MERGED}: 2.", f"{ALONE}: 1."],
        ),
        (4, "keep", "keep", [f"{ALONE}: 3."]),
        (1, None, "merge", [f"{ALONE}: 5."]),
        (3, None, "keep", []),
    ],
)
def test_the_choice(method, batch_size, asked, chosen, notes):
    sizes = SIZES if batch_size != 3 else [9, 6, 3]
    data = dealt(sizes, batch_size=batch_size, last_batch=asked)
    assert settle_last_batch(method, data, population(data)) == notes
    assert data.last_batch == chosen


def test_a_net_that_trains_on_one_image_keeps_it():
    data = dealt(SIZES, batch_size=4)
    assert settle_last_batch(make(channels=(4, 4)), data, population(data)) == []
    assert data.last_batch == "keep"


def test_the_choice_is_made_anew_for_another_method():
    data = dealt(SIZES, batch_size=4)
    for channels, chosen in ((DEEP, "merge"), ((4,), "keep"), (DEEP, "merge")):
        settle_last_batch(make(channels=channels), data, population(data))
        assert data.last_batch == chosen


def outcomes(executor, method, data):
    method.prepare(torch.Generator().manual_seed(1))
    executor.start(method, data, LocalSettings(7))
    state = initial(method, data.num_clients)
    tasks = [ClientTask(client, 1, method.phases(2)) for client in range(data.num_clients)]
    found = list(executor.run(state.shared, state.clients, tasks))
    executor.close()
    assert not [outcome for outcome in found if isinstance(outcome, ClientFailure)]
    return found


@pytest.mark.parametrize("method", NETS)
@pytest.mark.parametrize(("batch_size", "last_batch"), [(4, "merge"), (4, "keep"), (4, "drop"), (1, "keep")])
def test_every_client_is_trained(method, batch_size, last_batch):
    for outcome in outcomes(Serial(), method, dealt(SIZES, batch_size=batch_size, last_batch=last_batch)):
        assert all(entry.isfinite().all() for entry in outcome.update.tensors.values() if entry.is_floating_point())


def ray_of_two():
    pytest.importorskip("ray", reason="needs the extra fedloge[ray]")
    return Ray(workers=2)


@pytest.mark.parametrize("executor", [lambda: Processes(2), pytest.param(ray_of_two, marks=pytest.mark.slow)])
def test_workers_give_the_same(executor):
    data = dealt(SIZES, batch_size=4, last_batch="merge")
    pairs = zip(outcomes(Serial(), make(), data), outcomes(executor(), make(), data), strict=True)
    assert all(same(one.update.tensors, other.update.tensors) for one, other in pairs)


def test_a_run_says_what_it_does_and_loses_nobody(tmp_path):
    data = dealt(SIZES, batch_size=4)
    trainer = run_tiny(tmp_path / "run", method=make(), data=data, rounds=1, participation=1.0)
    assert trainer.parts.notes == [f"{MERGED}: 2.", f"{ALONE}: 1."]
    assert not (tmp_path / "run" / "faults.csv").exists()
    assert trainer.folder.read_json("environment.json")["last_batch"] == "merge"
