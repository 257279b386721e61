"""Ray gives what the serial executor gives, to the bit, also when a node is lost in the middle of a round."""

import socket
import threading
import time

import pytest
import torch

from fedloge.errors import ConfigError
from fedloge.executors import ClientTask, LocalSettings, Ray, Serial
from fedloge.methods import FedLoGe
from harness import build, initial, same


@pytest.fixture
def data(make_data):
    module = make_data(num_clients=6)
    module.setup()
    return module


def one_round(executor, data, after_first=lambda: None):
    method = build(FedLoGe, beta=0.3, gamma=1.0)
    method.prepare(torch.Generator().manual_seed(1))
    executor.start(method, data, LocalSettings(7))
    state = initial(method, data.num_clients)
    results = []
    tasks = [ClientTask(client, 1, method.phases(30)) for client in range(data.num_clients)]
    for result in executor.run(state.shared, state.clients, tasks):
        results.append(result)
        if len(results) == 1:
            after_first()
    executor.close()
    changed = method.aggregate((result.update for result in results), state, torch.Generator())
    return changed, [result.personal for result in results]


def test_without_ray_the_extra_is_named(data, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedloge\[ray\]'"):
        Ray().start(build(FedLoGe, beta=0.3), data, LocalSettings(0))


def test_an_address_without_a_cluster_fails_in_seconds(data):
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, but nobody listens
        began = time.monotonic()
        with pytest.raises(ConfigError, match=rf"trainer\.executor\.address='{address}' cannot be reached"):
            Ray(address).start(build(FedLoGe, beta=0.3), data, LocalSettings(0))
        assert time.monotonic() - began < 10


def test_what_answers_must_be_ray(data):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        executor = Ray(address)
        threading.Thread(target=lambda: other.accept()[0].sendall(b"SSH-2.0-OpenSSH_9.6\r\n")).start()
        with pytest.raises(ConfigError, match="what answers there is not Ray"):
            executor.start(build(FedLoGe, beta=0.3), data, LocalSettings(0))
        with pytest.raises(ConfigError, match=rf"trainer\.executor\.address='{address}' cannot be reached: timed out"):
            executor.start(build(FedLoGe, beta=0.3), data, LocalSettings(0))


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"trainer\.executor\.gpus=-1"):
        Ray(gpus=-1)
    with pytest.raises(ConfigError, match=r"trainer\.executor\.cpus=0"):
        Ray(cpus=0)


@pytest.mark.slow
def test_a_cluster_without_room_is_refused_before_the_run(data):
    pytest.importorskip("ray", reason="needs the extra fedloge[ray]")
    with pytest.raises(ConfigError, match="has no room for an actor of 1000 cores and 0 GPUs"):
        Ray(cpus=1000).start(build(FedLoGe, beta=0.3), data, LocalSettings(0))


@pytest.mark.slow
def test_ray_gives_what_serial_gives(data):
    pytest.importorskip("ray", reason="needs the extra fedloge[ray]")
    expected, personal = one_round(Serial(), data)
    changed, own = one_round(Ray(workers=2), data)
    assert same(expected, changed)
    assert all(same(one, other) for one, other in zip(personal, own, strict=True))


@pytest.mark.slow
def test_a_node_that_dies_in_a_round_changes_nothing(data):
    pytest.importorskip("ray", reason="needs the extra fedloge[ray]")
    from ray.cluster_utils import Cluster

    expected, personal = one_round(Serial(), data)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    try:
        executor = Ray(cluster.address)
        changed, own = one_round(executor, data, lambda: cluster.remove_node(node, allow_graceful=False))
    finally:
        cluster.shutdown()
    assert same(expected, changed)
    assert all(same(one, other) for one, other in zip(personal, own, strict=True))
