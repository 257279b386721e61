"""Who takes part: a module per contender, whose ``run`` does a problem's work.

``run(problem, options, repetitions, clock)`` does ``repetitions`` rounds, evaluations, exchanges or solves, calls
``clock.tick()`` after each, and returns what it computed, which the correctness gate compares with the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contender:
    """A way to do a workload.

    Args:
        module: Under ``benchmarks.contenders``.
        options: Handed to its ``run``.
        peer: The package that it needs an environment of its own for; None runs in this one.
        ranks: Whether it runs as one process per core, one thread each.
        compares: What its gate compares where that is not the whole result.
    """

    module: str
    options: Mapping[str, str] = field(default_factory=dict)
    peer: str | None = None
    ranks: bool = False
    compares: str | None = None


_PFL = "trainable parameters; pfl averages no BatchNorm statistics, so these are not compared"

CONTENDERS: dict[str, Contender] = {
    "reference": Contender("reference"),
    "fedloge": Contender("fedloge", {"executor": "auto"}),
    "fedloge-serial": Contender("fedloge", {"executor": "serial"}),
    "fedloge-processes": Contender("fedloge", {"executor": "processes"}),
    "fedloge-ray": Contender("fedloge", {"executor": "ray"}),
    "naive": Contender("naive"),
    "per-client": Contender("per_client"),
    "adam": Contender("adam"),
    "pfl": Contender("pfl", peer="pfl", compares=_PFL),
    "pfl-processes": Contender("pfl", peer="pfl", ranks=True, compares=_PFL),
    "flwr": Contender("flwr", peer="flwr"),
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
