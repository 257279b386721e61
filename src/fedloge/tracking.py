"""Loggers of a run's metrics: W&B, TensorBoard or a CSV file, with the round as the step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from fedloge.callbacks import FederatedCallback
from fedloge.errors import ConfigError, FedlogeError
from fedloge.runs.folder import LOCK, RunFolder
from fedloge.runs.measures import MODELS

if TYPE_CHECKING:
    from fedloge.trainer import FederatedTrainer

PACKAGES = {"wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX"), "csv": ()}
"""Names that ``trainer.logger`` accepts beside Lightning's classes; each needs one of its packages."""

TRACKING = "tracking.json"
"""File of the run folder with the id of its W&B run."""


class RoundLogger(WandbLogger):
    """Lightning's W&B logger with the round as W&B's own step."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics of a round; metrics of the same round share a row."""
        self.experiment.log(dict(metrics), step=step)


class Tracking(FederatedCallback):
    """Opens the loggers that are given by name, and logs more than scalars.

    Every logger gets the resolved configuration. A W&B logger, including Lightning's own class, also gets the tables
    per class and per client, a bar chart of the classes, the method's figures and the summary.

    Args:
        names: Loggers to open once the run folder exists; their files go into it.

    Raises:
        ConfigError: If a name is unknown or its package is not installed.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        for name in names:
            check_installed(name)
        self.names = tuple(dict.fromkeys(names))
        self._opened: list[Logger] = []
        self._started = False

    def on_run_start(self, trainer: FederatedTrainer) -> None:
        """Open the loggers; a resumed run continues in the same files and the same W&B run."""
        folder = trainer.folder
        others = [logger for logger in trainer.loggers if logger not in self._opened]  # of an earlier run
        self._opened = [_open(name, folder) for name in self.names]
        trainer.loggers = [*others, *self._opened]
        self._started = True
        config = folder.path / "config.yaml"
        options = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
        for logger in trainer.loggers:
            logger.log_hyperparams(options)
        if not folder.rows("metrics.csv"):
            for name, (matrix, caption) in trainer.method.figures().items():
                for board in wandb_loggers(trainer.loggers):
                    board.log_image(name, [heat_map(matrix)], step=0, caption=[caption])

    def on_run_end(self, trainer: FederatedTrainer, summary: Mapping[str, Any]) -> None:
        """Log tables and charts of the final models, and close the loggers."""
        if not self._started:
            return
        boards = wandb_loggers(trainer.loggers)
        for board in boards:
            board.log_metrics(final_tables(trainer.folder, summary), step=summary["rounds"])
            board.experiment.summary.update({"run": dict(summary)})
        for logger in trainer.loggers:
            logger.finalize("success")
        for board in boards:
            board.experiment.finish()
        self._started = False


def split_names(loggers: Any) -> tuple[list[str], Any]:
    """Split ``trainer.logger`` into names and the value for Lightning's Trainer."""
    if isinstance(loggers, str):
        return [loggers], False
    if isinstance(loggers, list):
        return [item for item in loggers if isinstance(item, str)], [x for x in loggers if not isinstance(x, str)]
    return [], False if loggers is None else loggers


def check_installed(name: str) -> None:
    """Check before a run that a logger is known and its package installed.

    Raises:
        ConfigError: If not; names what to choose or install.
    """
    if name not in PACKAGES:
        remedy = f"Choose one of {', '.join(PACKAGES)}, or the class path of a Lightning logger."
        raise ConfigError("trainer.logger", name, "is unknown", remedy)
    if PACKAGES[name] and not any(find_spec(package) for package in PACKAGES[name]):
        package = PACKAGES[name][0]
        raise ConfigError("trainer.logger", name, f"needs the package {package}", f"Run `pip install {package}`.")


def _open(name: str, folder: RunFolder) -> Logger:
    makers = {"wandb": wandb_logger, "tensorboard": tensorboard_logger, "csv": csv_logger}
    try:
        return makers[name](folder)
    except FedlogeError:
        if not (folder.path / "checkpoints").exists():  # the run never began: leave no files that would block the next
            for path in folder.path.iterdir():
                if path.is_file() and path.name != LOCK:
                    path.unlink()
        raise


def wandb_logger(folder: RunFolder) -> RoundLogger:
    """The W&B run of a run folder: the same one whenever it is opened.

    ``WANDB_MODE``, ``WANDB_PROJECT`` and W&B's other environment variables apply.

    Raises:
        FedlogeError: If W&B raises an error, about a missing key for example.
    """
    import wandb

    known = folder.read_json(TRACKING) if (folder.path / TRACKING).is_file() else {}
    try:
        run = wandb.init(
            project=known.get("project") or os.environ.get("WANDB_PROJECT") or "fedloge",
            id=known.get("id"),
            name=folder.path.name[:128],  # W&B refuses longer ones
            dir=str(folder.path.resolve()),
            resume="allow",
            settings=wandb.Settings(console="off"),  # the live view would fill W&B's log with its redrawings
        )
    except wandb.Error as error:
        message = " ".join(str(error).split()).rstrip(".")
        raise FedlogeError(f"W&B: {message}. WANDB_MODE=offline needs no account.") from error
    folder.write_json(TRACKING, {"logger": "wandb", "id": run.id, "project": run.project})
    return RoundLogger(experiment=run)


def tensorboard_logger(folder: RunFolder) -> TensorBoardLogger:
    """Event files in ``RUN/tensorboard``."""
    return TensorBoardLogger(folder.path, name="tensorboard", version="", default_hp_metric=False)


def csv_logger(folder: RunFolder) -> CSVLogger:
    """Lightning's ``metrics.csv`` in ``RUN/csv``, starting with the rounds that are already done."""
    shutil.rmtree(folder.path / "csv", ignore_errors=True)
    logger = CSVLogger(folder.path, name="csv", version="", flush_logs_every_n_steps=1)
    for row in folder.rows("metrics.csv"):
        step = int(row.pop("round"))
        logger.log_metrics({name: float(value) for name, value in row.items() if value}, step)
    return logger


def wandb_loggers(loggers: Iterable[Logger]) -> list[WandbLogger]:
    """The loggers that log to W&B."""
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


def final_tables(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The last round's ``per_class.csv`` and ``per_client.csv`` as W&B tables, and bar charts of the classes."""
    import wandb

    last = str(summary["rounds"])
    groups = dict(enumerate(summary["shots"]["groups"]))
    classes, clients = (_rows(folder, name, last) for name in ("per_class.csv", "per_client.csv"))
    classes = [row | {"group": groups[int(row["class"])]} for row in classes]
    logged: dict[str, Any] = {"per_class": _table(classes), "per_client": _table(clients)}
    for view, model in MODELS.items():
        own = [row for row in classes if row["view"] == view]
        if own:
            logged[f"per_class_accuracy/{view}"] = wandb.plot.bar(
                _table(own), "name", "accuracy", title=f"Accuracy by class, {model}"
            )
    return logged


def _rows(folder: RunFolder, name: str, round: str) -> list[dict[str, str]]:
    return [row for row in folder.rows(name) if row["round"] == round]


def _table(rows: Sequence[Mapping[str, str]]) -> Any:
    import wandb

    columns: list[str | int] = list(rows[0]) if rows else []
    return wandb.Table(columns=columns, data=[[_value(key, text) for key, text in row.items()] for row in rows])


def _value(column: str, text: str) -> Any:
    if column in ("view", "name", "group"):
        return text
    return None if text == "" else float(text) if "." in text else int(text)


def heat_map(matrix: Tensor, size: int = 400) -> Image.Image:
    """A square matrix [C, C] as colours: blue for -1, white for 0, red for 1.

    Args:
        matrix: Values in [-1, 1].
        size: Width and height in pixels, rounded down to a multiple of C.
    """
    colours = torch.stack([1 + matrix.clamp(max=0), 1 - matrix.abs(), 1 - matrix.clamp(min=0)], dim=2)
    pixels = (255 * colours.clamp(0, 1)).round().to(torch.uint8).numpy()
    scale = max(size // len(matrix), 1)
    return Image.fromarray(pixels).resize((len(matrix) * scale,) * 2, Image.Resampling.NEAREST)


def agent_options(args: Sequence[str]) -> list[str]:
    """A run folder of its own for each run that ``wandb agent`` starts, unless one is given."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if not sweep or not run or any(arg.startswith("--trainer.run_dir") for arg in args):
        return []
    return [f"--trainer.run_dir=runs/sweep-{sweep}/{run}"]
