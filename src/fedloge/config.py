"""From command line and YAML to objects: LightningCLI with the sections ``trainer``, ``model`` and ``data``."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning import seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import fedloge.data.sources
import fedloge.methods
import fedloge.models  # noqa: F401  the names of these classes may be written without their module
from fedloge.callbacks import FederatedCallback
from fedloge.data.datamodule import FederatedDataModule
from fedloge.errors import FedlogeError
from fedloge.executors.base import quiet_lightning
from fedloge.methods.base import Method
from fedloge.trainer import FederatedTrainer


class FedlogeCLI(LightningCLI):
    """Builds trainer, method and data from arguments, without running anything.

    Args:
        args: Arguments as after ``fedloge fit``.
    """

    trainer: FederatedTrainer
    model: Method
    datamodule: FederatedDataModule

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(
            model_class=Method,
            datamodule_class=FederatedDataModule,
            trainer_class=FederatedTrainer,
            subclass_mode_model=True,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=False,
            parser_kwargs={"prog": "fedloge fit", "exit_on_error": False, "default_env": False},
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The number of classes comes from the data."""
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Draw the initial weights from the run's seed."""
        asked = self.config.get("seed_everything")
        if isinstance(asked, int) and not isinstance(asked, bool):
            self.config.trainer.seed = asked
        self.config.seed_everything = False
        with quiet_lightning():
            seed_everything(self.config.trainer.seed, verbose=False)

    def _set_seed(self) -> None:
        """Seeding is done by :meth:`before_instantiate_classes`."""

    def resolved(self) -> str:
        """The whole configuration as YAML, defaults included; it repeats the run."""
        config: Namespace = self.config.clone()
        config.pop("config", None)
        text: str = self.parser.dump(config, skip_none=False)
        return text


class SaveConfig(FederatedCallback):
    """Writes ``config.yaml`` into the run folder."""

    def __init__(self, text: str) -> None:
        self.text = text

    def on_run_start(self, trainer: FederatedTrainer) -> None:
        """Write it before anything else happens."""
        trainer.folder.write_text("config.yaml", self.text)


def build(args: Sequence[str]) -> FedlogeCLI:
    """Parse arguments and make the objects.

    Raises:
        FedlogeError: With one line on what is wrong, and the closest valid name where a key is unknown.
    """
    _refuse_lost_overrides(args)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a class_path may name a file of the user's folder
    try:
        return FedlogeCLI(args)
    except ArgumentError as error:
        raise FedlogeError(_one_line(error, args)) from error


def _refuse_lost_overrides(args: Sequence[str]) -> None:
    """A value given before --config would silently be replaced by the file's."""
    position = next((i for i, arg in enumerate(args) if arg == "--config" or arg.startswith("--config=")), 0)
    for arg in args[:position]:
        if arg.startswith("--"):
            raise FedlogeError(f"{arg} stands before --config, whose values would replace it. Put it after --config.")


def _one_line(error: ArgumentError, args: Sequence[str]) -> str:
    """jsonargparse's message on one line, with the closest valid key where one was unknown."""
    message = re.sub(r"\s*\n\s*", " ", str(error)).strip()
    return message
