"""Executors train the clients of a round: one at a time, or several at once."""

from __future__ import annotations

import multiprocessing
import warnings

from fedloge.errors import ConfigError
from fedloge.executors.base import (
    ClientFailure,
    ClientResult,
    ClientTask,
    Executor,
    FederatedData,
    LocalSettings,
    Outcome,
)
from fedloge.executors.cuda.executor import Cohort, obstacle
from fedloge.executors.processes import Processes, num_cores
from fedloge.executors.ray import Ray
from fedloge.executors.serial import Serial
from fedloge.executors.shared_memory import refuse_unguarded, room_for_workers
from fedloge.methods.base import Method
from fedloge.system.devices import is_accelerator

__all__ = [
    "ClientFailure",
    "ClientResult",
    "ClientTask",
    "Cohort",
    "Executor",
    "LocalSettings",
    "Outcome",
    "Processes",
    "Ray",
    "Serial",
    "make_executor",
]

PAYS_FROM = 1e10
"""Least work, in image passes times parameters, that is worth some seconds for starting workers: about a minute."""

BY_NAME: dict[str, type[Executor]] = {"serial": Serial, "processes": Processes, "ray": Ray, "cuda": Cohort}


def make_executor(
    asked: Executor | str, work: float, method: Method, settings: LocalSettings, data: FederatedData | None = None
) -> Executor:
    """The configured executor, an instance or a name; ``auto`` chooses by device and amount of work."""
    refuse_unguarded()
    if isinstance(asked, Executor):
        return asked
    if asked == "auto":
        if is_accelerator(settings.device):
            asked = "serial" if obstacle(method, settings) else "cuda"
        else:
            pays = settings.device.type == "cpu" and work >= PAYS_FROM
            asked = "processes" if pays and _workers_help(method, data) else "serial"
    return BY_NAME[asked]()


def _workers_help(method: Method, data: FederatedData | None) -> bool:
    """Whether more than one worker can start."""
    if num_cores() == 1 or multiprocessing.parent_process() is not None:
        return False
    try:
        return room_for_workers(method, data) > 1
    except ConfigError as error:
        warnings.warn(f"clients are trained one at a time: {error}", stacklevel=2)
        return False
