"""Who takes part: a module per contender, whose ``run`` does a problem's work.

``run(problem, options, repetitions, clock)`` does ``repetitions`` rounds, evaluations, exchanges or solves, calls
``clock.tick()`` after each, and returns what it computed, which the correctness gate compares with the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class UnavailableError(Exception):
    """A contender cannot take part here, for the reason given."""


@dataclass(frozen=True)
class Contender:
    """A way to do a workload.

    Args:
        module: Under ``benchmarks.contenders``.
        options: Handed to its ``run``.
        peer: The package that it needs an environment of its own for; None runs in this one.
        processes: Whether it uses its cores by as many processes of one thread, not by threads.
        torchrun: Whether torchrun starts these processes.
        lacks: Endings of the names of the entries that it does not compute; the gate leaves them out, and says so.
    """

    module: str
    options: Mapping[str, str] = field(default_factory=dict)
    peer: str | None = None
    processes: bool = False
    torchrun: bool = False
    lacks: tuple[str, ...] = ()

    def threads(self, cores: int) -> int:
        """Threads of each of its processes."""
        return 1 if self.processes else cores


_STATISTICS = ("running_mean", "running_var")
"""Entries of BatchNorm, which pfl does not average."""

CONTENDERS: dict[str, Contender] = {
    "reference": Contender("reference"),
    "fedloge": Contender("fedloge", {"executor": "auto", "profile": "true"}),
    "fedloge-serial": Contender("fedloge", {"executor": "serial"}),
    "fedloge-processes": Contender("fedloge", {"executor": "processes"}, processes=True),
    "fedloge-ray": Contender("fedloge", {"executor": "ray"}, processes=True),
    "local-step": Contender("fedloge", {"executor": "steps"}),
    "plain": Contender("plain"),
    "naive": Contender("naive"),
    "per-client": Contender("per_client"),
    "adam": Contender("adam"),
    "pfl": Contender("pfl", peer="pfl", lacks=_STATISTICS),
    "pfl-processes": Contender("pfl", peer="pfl", processes=True, torchrun=True, lacks=_STATISTICS),
    "flwr": Contender("flwr", peer="flwr"),
    "flwr-simulation": Contender("flwr_simulation", peer="flwr", processes=True),
}


def parse(spelled: str) -> tuple[str, int]:
    """Name and cores of ``name@cores``.

    Raises:
        ValueError: If there is no such contender, or the cores are no positive number.
    """
    name, _, cores = spelled.partition("@")
    if name not in CONTENDERS:
        raise ValueError(f"there is no contender {name!r}. There are: {', '.join(CONTENDERS)}.")
    if not cores.isdigit() or int(cores) < 1:
        raise ValueError(f"{spelled!r} does not say how many cores: {name}@4, for example.")
    return name, int(cores)
