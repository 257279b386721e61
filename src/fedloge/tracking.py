"""Where a run's metrics go besides its folder: W&B, TensorBoard or a CSV file, with the round as the step."""

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
from torch.nn import functional

from fedloge.callbacks import FederatedCallback
from fedloge.errors import ConfigError, FedlogeError
from fedloge.runs.folder import LOCK, RunFolder

if TYPE_CHECKING:
    from fedloge.trainer import FederatedTrainer

PACKAGES = {"wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX"), "csv": ()}
"""The names that ``trainer.logger`` takes beside Lightning's classes, and the packages one of which each needs."""

TRACKING = "tracking.json"
"""Where the run folder keeps the id of its W&B run."""


class RoundLogger(WandbLogger):
    """Lightning's W&B logger with the round as W&B's own step."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log what belongs to a round; what is logged for the same round joins one row."""
        self.experiment.log(dict(metrics), step=step)


class Tracking(FederatedCallback):
    """Opens the loggers that were asked for by name, and gives all of them more than scalars.

    Every logger gets the resolved configuration. A W&B logger, Lightning's own class included, gets the tables per
    class and per client, a bar chart of the classes, the cosines of SSE-C and the summary too.

    Args:
        names: Loggers to make once the run folder exists; their files go into it.

    Raises:
        ConfigError: If a name is unknown or its package is not installed.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        for name in names:
            check_installed(name)
        self.names = tuple(dict.fromkeys(names))
        self._started = False

    def on_run_start(self, trainer: FederatedTrainer) -> None:
        """Open the loggers; a run that goes on goes on in the same places."""
        folder = trainer.folder
        trainer.loggers = [*trainer.loggers, *(_open(name, folder) for name in self.names)]
        self._started = True
        config, done = folder.path / "config.yaml", folder.rows("metrics.csv")
        options = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
        for logger in trainer.loggers:
            logger.log_hyperparams(options)
        heat_map = sse_c_heat_map(trainer.method)
        if heat_map is not None and not done:
            for board in wandb_loggers(trainer.loggers):
                board.log_image("SSE-C", [heat_map[0]], step=0, caption=[heat_map[1]])

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


def split_names(loggers: Any) -> tuple[list[str], Any]:
    """The names among ``trainer.logger``, and the rest as Lightning's Trainer takes it."""
    if isinstance(loggers, str):
        return [loggers], False
    if isinstance(loggers, list):
        return [item for item in loggers if isinstance(item, str)], [x for x in loggers if not isinstance(x, str)]
    return [], False if loggers is None else loggers


def check_installed(name: str) -> None:
    """Refuse a logger that is unknown, or whose package is not installed, before a run begins.

    Raises:
        ConfigError: Naming what to choose or install.
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
        if not (folder.path / "checkpoints").exists():  # a run that could not begin leaves nothing in the way
            for path in folder.path.iterdir():
                if path.is_file() and path.name != LOCK:
                    path.unlink()
        raise


def wandb_logger(folder: RunFolder) -> RoundLogger:
    """A W&B run for this run folder: the same one whenever it is opened again.

    ``WANDB_MODE``, ``WANDB_PROJECT`` and W&B's other environment variables apply.

    Raises:
        FedlogeError: If W&B refuses, for want of a key for example.
    """
    import wandb

    known = folder.read_json(TRACKING) if (folder.path / TRACKING).is_file() else {}
    try:
        run = wandb.init(
            project=known.get("project") or os.environ.get("WANDB_PROJECT") or "fedloge",
            id=known.get("id"),
            name=folder.path.name,
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
    """Lightning's ``metrics.csv`` in ``RUN/csv``, begun with the rounds that are already done."""
    shutil.rmtree(folder.path / "csv", ignore_errors=True)
    logger = CSVLogger(folder.path, name="csv", version="", flush_logs_every_n_steps=1)
    for row in folder.rows("metrics.csv"):
        step = int(row.pop("round"))
        logger.log_metrics({name: float(value) for name, value in row.items() if value}, step)
    return logger


def wandb_loggers(loggers: Iterable[Logger]) -> list[WandbLogger]:
    """Those that log to W&B."""
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


def final_tables(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The last round's ``per_class.csv`` and ``per_client.csv`` as W&B tables, and bar charts of the classes."""
    import wandb

    last = str(summary["rounds"])
    groups = dict(enumerate(summary["shots"]["groups"]))
    classes, clients = (_rows(folder, name, last) for name in ("per_class.csv", "per_client.csv"))
    classes = [row | {"group": groups[int(row["class"])]} for row in classes]
    logged: dict[str, Any] = {"per_class": _table(classes), "per_client": _table(clients)}
    for view, model in (("global", "generic model"), ("personal", "personal models")):
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


def sse_c_heat_map(method: Any) -> tuple[Image.Image, str] | None:
    """The cosines between the vectors of a FedLoGe method's fixed classifier as a picture with its caption."""
    from fedloge.methods.fedloge import FedLoGe

    if not isinstance(method, FedLoGe):
        return None
    unit = functional.normalize(method.sse.weight.detach().cpu())
    cosines = unit @ unit.T
    apart = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
    caption = f"cosines of the {len(cosines)} class vectors; between classes {apart.min():.4f} to {apart.max():.4f}"
    return cosine_picture(cosines), caption


def cosine_picture(cosines: Tensor, size: int = 400) -> Image.Image:
    """A square matrix [C, C] of cosines as colours: blue for -1, white for 0, red for 1."""
    colours = torch.stack([1 + cosines.clamp(max=0), 1 - cosines.abs(), 1 - cosines.clamp(min=0)], dim=2)
    pixels = (255 * colours.clamp(0, 1)).round().to(torch.uint8).numpy()
    scale = max(size // len(cosines), 1)
    return Image.fromarray(pixels).resize((len(cosines) * scale,) * 2, Image.Resampling.NEAREST)


def agent_options(args: Sequence[str]) -> list[str]:
    """Under ``wandb agent`` each run of the sweep gets a folder of its own, unless one was given."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if not sweep or not run or any(arg.startswith("--trainer.run_dir") for arg in args):
        return []
    return [f"--trainer.run_dir=runs/sweep-{sweep}/{run}"]
