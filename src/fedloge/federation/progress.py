"""Progress of a run: its state, and what a checkpoint stores beside the state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedloge.errors import ConfigError, RunError
from fedloge.federation.state import ClientStore, FederatedState, Tensors
from fedloge.federation.traffic import Traffic
from fedloge.runs.folder import RunFolder
from fedloge.runs.summary import Result


@dataclass
class Progress:
    """Progress of a run.

    Args:
        state: State after the last completed round.
        exchanged: Bytes that clients sent and received in all rounds.
        row: Columns of ``metrics.csv`` that come from the training of the last round.
        tables: Sizes of the tables before the last round was evaluated; a resumed run cuts them back to these.
        seconds_before: Seconds that earlier processes spent on the run.
        saved_round: Round of the newest checkpoint; -1 without any.
        first_round: Number of rounds that were done when this process began to train.
        whole: False while :meth:`complete_round` changes the state, which must not be saved then.
        final: Final models with their test results, once the last round is evaluated.
        started: Clock when this process began to train; None before.
    """

    state: FederatedState
    exchanged: dict[str, int] = field(default_factory=lambda: {"bytes_up": 0, "bytes_down": 0})
    row: dict[str, float] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    seconds_before: float = 0.0
    saved_round: int = -1
    first_round: int = 0
    whole: bool = True
    final: Result | None = None
    started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, in all processes."""
        return self.seconds_before + (0.0 if self.started is None else time.perf_counter() - self.started)

    def complete_round(
        self, clients: ClientStore, entries: Tensors, traffic: Traffic, tables: Mapping[str, Any], started: float
    ) -> None:
        """Make the state after a round the current one.

        Args:
            clients: Fork of the personal states that the round changed.
            entries: Shared and fixed entries that the round changed.
            traffic: Traffic of the round.
            tables: Sizes of the tables.
            started: Clock when the round began.
        """
        old, self.whole = self.state, False
        old.clients.adopt(clients)
        self.state = FederatedState(old.round + 1, old.shared, old.clients).with_shared(entries)
        self.exchanged["bytes_up"] += traffic.bytes_up
        self.exchanged["bytes_down"] += traffic.bytes_down
        self.row = {**traffic.scalars(), "time/round_s": time.perf_counter() - started}
        self.tables, self.whole = tables, True

    def info(self) -> dict[str, Any]:
        """Entries of ``state.json`` beside the state."""
        return {"tables": self.tables, "exchanged": self.exchanged, "row": self.row, "seconds": self.seconds}


def resume(
    folder: RunFolder, checkpoint: str, start: FederatedState, identity: Mapping[str, Any], rounds: int
) -> Progress:
    """Load the progress of a run from a checkpoint, after checking that it belongs to this run.

    Args:
        folder: Run folder.
        checkpoint: Name of the checkpoint.
        start: State before the first round, for names, shapes and types of the entries.
        identity: Method, seed and partition of this run, as in ``state.json``.
        rounds: Number of rounds that this run will have.

    Raises:
        RunError: If the checkpoint is damaged or belongs to another run.
        ConfigError: If the run has done more rounds.
    """
    info = folder.checkpoints.read_info(checkpoint)
    for key, value in identity.items():
        if info[key] != value:
            raise RunError(
                f"Cannot resume {str(folder.path)!r}: the run was started with {key}={info[key]!r}, this one has "
                f"{key}={value!r}. Choose another --trainer.run_dir, or use the options in its config.yaml."
            )
    state = folder.checkpoints.load(checkpoint)
    for part in ("tensors", "fixed"):
        old, new = getattr(state.shared, part), getattr(start.shared, part)
        if {name: tensor.shape for name, tensor in old.items()} != {name: tensor.shape for name, tensor in new.items()}:
            raise RunError(f"Cannot resume {str(folder.path)!r}: its model has other layers than this one.")
    if state.round > rounds:
        problem = f"but the run has done {state.round}"
        raise ConfigError("trainer.rounds", rounds, problem, "Choose at least as many.")
    return Progress(
        _converted(state, start),
        exchanged=info["exchanged"],
        row=info["row"],
        tables=info["tables"],
        seconds_before=info["seconds"],
        saved_round=state.round,
        first_round=state.round,
    )


def _converted(state: FederatedState, start: FederatedState) -> FederatedState:
    """The state in the types of ``start``: a run may resume in another precision."""
    types = {name: tensor.dtype for name, tensor in {**start.shared.tensors, **start.shared.fixed}.items()}
    entries = {**state.shared.tensors, **state.shared.fixed}
    return state.with_shared({name: tensor.to(types[name]) for name, tensor in entries.items()})
