"""One client per actor of a Ray cluster, for more than one machine."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from fedloge.checks import check_least, check_not_negative, check_positive
from fedloge.errors import ConfigError, RunError
from fedloge.executors.base import ClientTask, Executor, FederatedData, LocalSettings, Outcome, largest_first
from fedloge.executors.client import attempt_client
from fedloge.federation.state import ClientStore, SharedState, Tensors
from fedloge.methods.base import Method
from fedloge.system.cpu import configure_cpu

CONNECT_SECONDS = 5
HTTP2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS
"""Ray's servers answer with their settings: a header of the same length, with type 4 in its fourth byte."""


class Ray(Executor):
    """Actors, each with a copy of the data, on this machine or a cluster (``pip install 'fedloge[ray]'``).

    When an actor or its node is lost, another actor trains its client again, with the same result; new actors are
    requested in the next round.

    Args:
        address: ``host:port`` of a running cluster, or ``auto``; None starts one on this machine.
        workers: Number of actors; None takes as many as the cluster has room for.
        cpus: Cores of an actor.
        gpus: GPUs of an actor; 0.25 puts four actors on one.

    Raises:
        ConfigError: If an argument is out of range, Ray is not installed, there is no cluster at the address, or it has
            no room for an actor.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, cpus: float = 1, gpus: float = 0
    ) -> None:
        check_least("trainer.executor.workers", workers, 1)
        check_positive("trainer.executor.cpus", cpus, "One core is best for small networks.")
        check_not_negative("trainer.executor.gpus", gpus, "0 leaves the actors on the CPU.")
        self.address, self.asked_workers, self.cpus, self.gpus = address, workers, cpus, gpus
        self._ray: ModuleType | None = None
        self._actors: list[Any] = []
        self._equipment: Any = None

    @property
    def workers(self) -> int:
        """Number of actors if it was given, else 1: the room in the cluster is known when it is connected."""
        return self.asked_workers or 1

    def start(self, method: Method, data: FederatedData, settings: LocalSettings) -> None:
        """Set method, data and settings, and connect to the cluster."""
        super().start(method, data, settings)
        self._room(self._connect())

    def run(self, shared: SharedState, clients: ClientStore, tasks: Sequence[ClientTask]) -> Iterator[Outcome]:
        """Yield the outcome of every task in order."""
        ray = self._connect()
        self._hire(ray, len(tasks))
        broadcast = ray.put(shared)
        sizes = [sum(self.data.client_counts(task.client)) * sum(p.epochs for p in task.phases) for task in tasks]
        pending: dict[Any, tuple[int, Any]] = {}
        lost: list[int] = []

        def idle() -> Any | None:
            busy = [actor for _, actor in pending.values()]
            return next((actor for actor in self._actors if actor not in busy), None)

        def submit(actor: Any, position: int) -> None:
            task = tasks[position]
            future = actor.train.remote(task, broadcast, dict(clients[task.client]))
            pending[future] = position, actor

        def collect() -> tuple[int, Outcome]:
            while True:
                while lost and (actor := idle()) is not None:
                    submit(actor, lost.pop())
                (future,), _ = ray.wait(list(pending), num_returns=1)
                position, actor = pending.pop(future)
                try:
                    return position, ray.get(future)
                except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                    self._actors.remove(actor)
                    lost.append(position)
                    if not self._actors:
                        raise RunError(f"all Ray actors are lost: {error}") from error
                except ray.exceptions.RayTaskError as error:
                    raise RunError(f"client {tasks[position].client} failed in an actor:\n{error}") from error

        yield from largest_first(tasks, sizes, 4 * len(self._actors), idle, submit, collect)

    def close(self) -> None:
        """Stop the actors, and the cluster if it was started here."""
        if self._ray is None:
            return
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._equipment = [], None
        self._ray.shutdown()
        self._ray = None

    def _connect(self) -> ModuleType:
        if self._ray is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                import ray
            except ImportError as error:
                problem = "needs a package that is not installed"
                raise ConfigError("trainer.executor", "ray", problem, "pip install 'fedloge[ray]'") from error
            if self.address not in (None, "auto"):
                _check_reachable(self.address)
            try:
                ray.init(
                    address=self.address,
                    log_to_driver=False,
                    logging_level="ERROR",
                    include_dashboard=False if self.address is None else None,
                    ignore_reinit_error=True,
                    runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}},
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                problem = f"is no cluster that can be used: {' '.join(str(error).split())}"
                raise ConfigError("trainer.executor.address", self.address, problem, "Is it running?") from error
            self._ray = ray
        return self._ray

    def _hire(self, ray: ModuleType, tasks: int) -> None:
        """Request actors, in the first round and after some were lost."""
        if self._equipment is None:
            with self.method.without_server_entries():
                self._equipment = ray.put((self.method, self.data, self.settings))
        room = self._room(ray)
        wanted = min(self.asked_workers or room, room, tasks)
        actor_class = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(Actor)
        while len(self._actors) < wanted:
            self._actors.append(actor_class.remote(self._equipment))

    def _room(self, ray: ModuleType) -> int:
        """Number of actors that the cluster has room for."""
        resources = ray.cluster_resources()
        room = int(resources.get("CPU", 0) / self.cpus)
        if self.gpus:
            room = min(room, int(resources.get("GPU", 0) / self.gpus))
        if room == 0:
            self.close()
            problem = f"has no room for an actor of {self.cpus} cores and {self.gpus} GPUs"
            raise ConfigError("trainer.executor.address", self.address, problem, "Ask for less, or add nodes.")
        return room


class Actor:
    """A worker of the cluster.

    Args:
        equipment: Method, data and settings.
    """

    def __init__(self, equipment: tuple[Method, FederatedData, LocalSettings]) -> None:
        self.method, self.data, self.settings = equipment
        configure_cpu(self.settings.threads)

    def train(self, task: ClientTask, shared: SharedState, personal: Tensors) -> Outcome:
        """Train one client."""
        return attempt_client(self.method, self.data, self.settings, task, shared, personal)


def _check_reachable(address: str | None) -> None:
    """Fail within seconds, since Ray would wait for minutes."""
    host, _, port = str(address).removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as server:
            if os.environ.get("RAY_USE_TLS", "0") != "1":
                server.sendall(HTTP2_GREETING)
                answer = server.recv(len(HTTP2_SETTINGS))
                if answer[3:4] != HTTP2_SETTINGS[3:4]:
                    raise ValueError("what answers there is not Ray")
    except (OSError, ValueError) as error:
        problem = f"cannot be reached: {error}"
        raise ConfigError(
            "trainer.executor.address", address, problem, "Give host:port of a running cluster."
        ) from error
