"""Lightning Trainers that use one process and one device, whatever a cluster or a launcher has set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from fedloge.errors import ConfigError

PREFIX = "PL_"
"""Beginning of the variables from which Lightning takes arguments of a Trainer that are not given."""


class OneProcess(LightningEnvironment):
    """One process of rank 0: the variables of SLURM, torchrun, LSF and MPI are not read."""

    @property
    def creates_processes_externally(self) -> bool:
        """No."""
        return False

    def local_rank(self) -> int:
        """0."""
        return 0

    def node_rank(self) -> int:
        """0."""
        return 0

    def teardown(self) -> None:
        """Leave the variables as they are."""


@contextmanager
def one_process() -> Iterator[dict[str, Any]]:
    """Yield further arguments for a Trainer that is made inside; variables that begin with ``PL_`` are hidden there.

    Loggers write in the process of rank 0 only, which is this one.
    """
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)}
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    try:
        yield {"plugins": [OneProcess()]}
    finally:
        os.environ.update(hidden)


def check_one_device(devices: Any) -> None:
    """Require Lightning's ``devices`` to stand for one device: 1, ``auto``, or a list with the number of a GPU.

    Raises:
        ConfigError: If it stands for another number of devices.
    """
    number = len(devices) if isinstance(devices, list | tuple) else devices
    if isinstance(number, bool) or number not in (1, "1", "auto"):
        remedy = "Take 1, or [2] for the third GPU; --trainer.executor trains several clients at once."
        raise ConfigError("trainer.devices", devices, "is not one device, and a run uses one", remedy)
