"""The live view of ``fedloge fit`` and the table at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from fedloge.callbacks import FederatedCallback
from fedloge.markup import rich_text
from fedloge.report.tables import accuracy_table
from fedloge.runs.measures import headline_text
from fedloge.system.live import suspend, text
from fedloge.system.storage import without_nan
from fedloge.trainer import FederatedTrainer


def redraws(console: Console) -> bool:
    """Whether printed lines can be redrawn: FORCE_COLOR, which Jupyter sets, asks for colours alone."""
    return console.is_terminal and console.file.isatty()


def _clients(trainer: FederatedTrainer) -> str:
    everyone, cohort = trainer.data.num_clients, trainer.parts.info()["clients_per_round"]
    return f"{everyone} clients" + (f" ({cohort} in a round)" if cohort < everyone else "")


class _Doing(ProgressColumn):
    """What else is being done, beside the bar of clients."""

    def render(self, task: Task) -> Text:
        """The open lines of :mod:`fedloge.system.live`."""
        return Text(text() if task.description == "clients" else "", style="dim")


class RunProgress(FederatedCallback):
    """Shows rounds, clients, current accuracies and the time left, and at the end the table of accuracies.

    Without a terminal it prints a line at every tenth of the run instead.

    Args:
        console: Console to print to; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._rounds: TaskID = TaskID(0)
        self._clients: TaskID = TaskID(0)
        self._accuracy = ""

    def on_run_start(self, trainer: FederatedTrainer) -> None:
        """Print what will run, and start the bars."""
        data, method, cost, self._accuracy = trainer.data, trainer.method, trainer.cost, ""
        about = (
            f" on {data.source.name}: {_clients(trainer)}, {int(sum(data.class_counts)):,} training images, "
            f"{data.partition.imbalance}, {cost.parameters:,} parameters, partition {data.partition.sha256[:12]}"
        )
        self.console.print(rich_text(type(method).__name__, "bold") + rich_text(about))
        self.console.print(rich_text(cost.line(trainer.rounds - trainer.progress.first_round), "dim"))
        for note in trainer.parts.notes:
            self.console.print(rich_text(note))
        self._progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            _Doing(),
            console=self.console,
            disable=not redraws(self.console),
        )
        done = trainer.progress.first_round
        suspend(redraws(self.console))
        self._rounds = self._progress.add_task("rounds", total=trainer.rounds, completed=done, note="")
        self._clients = self._progress.add_task("clients", total=1, note="")
        self._progress.start()

    def on_round_start(self, trainer: FederatedTrainer, round: int, cohort: list[int]) -> None:
        """Reset the bar of clients."""
        self._progress.reset(self._clients, total=len(cohort))

    def on_client_end(self, trainer: FederatedTrainer, round: int, client: int) -> None:
        """Advance the bar of clients."""
        self._progress.advance(self._clients)

    def on_round_end(self, trainer: FederatedTrainer, round: int, metrics: Mapping[str, float]) -> None:
        """Advance the bar of rounds and show the latest accuracies."""
        if metrics:
            self._accuracy = "  ".join(headline_text(metrics))
        self._progress.update(self._rounds, advance=1, note=self._accuracy)
        if not redraws(self.console) and round % max(trainer.rounds // 10, 1) == 0:
            self.console.print(rich_text(f"round {round}/{trainer.rounds}  {self._accuracy}"))

    def on_run_end(self, trainer: FederatedTrainer, summary: Mapping[str, Any]) -> None:
        """Stop the bars, and print the table and the path of the run folder."""
        self.stop()
        self.console.print(accuracy_table(summary))
        lowered = lowered_models(summary)
        if lowered and trainer.method.advice:
            what = f"{' and '.join(lowered)} accuracy is lower once {summary['finalized']}"
            self.console.print(rich_text(f"{what}: {trainer.method.advice}"), soft_wrap=True)
        done = f"{summary['seconds']:.1f} s; everything is in {trainer.folder.path}"
        self.console.print(rich_text(done), soft_wrap=True)

    def stop(self) -> None:
        """Stop the live view if it is running."""
        if hasattr(self, "_progress"):
            self._progress.stop()
            suspend(False)


def lowered_models(summary: Mapping[str, Any]) -> list[str]:
    """The models, generic or personal, whose accuracy the last stage of a run lowered."""
    before, keys = (
        summary["before_realignment"] or {},
        {"generic": ("global", "acc"), "personal": ("personal", "acc_mean")},
    )
    pairs = [(name, summary.get(view) or {}, before.get(view) or {}, key) for name, (view, key) in keys.items()]
    return [name for name, after, trained, key in pairs if after.get(key, 0) < trained.get(key, 0)]


class JsonProgress(FederatedCallback):
    """A JSON object per line on standard output: the start, every round, the end."""

    def on_run_start(self, trainer: FederatedTrainer) -> None:
        """Write what runs and its estimated cost."""
        about: dict[str, Any] = {"method": type(trainer.method).__name__, "dataset": trainer.data.source.name}
        about |= {"rounds": trainer.rounds, "run_dir": str(trainer.folder.path), "notes": list(trainer.parts.notes)}
        self._write("start", {**about, **asdict(trainer.cost)})

    def on_round_end(self, trainer: FederatedTrainer, round: int, metrics: Mapping[str, float]) -> None:
        """Write the round, with its row of ``metrics.csv`` if it was evaluated."""
        self._write("round", {"round": round, **metrics})

    def on_run_end(self, trainer: FederatedTrainer, summary: Mapping[str, Any]) -> None:
        """Write the content of ``summary.json``."""
        self._write("end", summary)

    def stop(self) -> None:
        """Do nothing: no live view is running."""

    def _write(self, event: str, content: Mapping[str, Any]) -> None:
        print(json.dumps(without_nan({"event": event, **content})), flush=True)
