"""Objects from the command line and YAML: LightningCLI with the sections ``trainer``, ``model`` and ``data``."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
import warnings
from collections.abc import Sequence

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning import seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import fedloge.data.sources
import fedloge.methods
import fedloge.models
from fedloge.callbacks import FederatedCallback
from fedloge.data.datamodule import FederatedDataModule
from fedloge.data.sources.base import Source
from fedloge.errors import FedlogeError, RunError, one_line
from fedloge.executors import BY_NAME
from fedloge.executors.client import quiet_lightning
from fedloge.methods.base import Method
from fedloge.models.base import Backbone
from fedloge.options import HARMLESS, flatten, refuse_lost_overrides
from fedloge.trainer import FederatedTrainer

CLASSES = (*fedloge.methods.__all__, *fedloge.models.__all__, *fedloge.data.sources.__all__, *BY_NAME)
"""Class names that need no module in YAML."""


class FedlogeCLI(LightningCLI):
    """Trainer, method and data built from arguments; nothing is run.

    Args:
        args: Arguments of ``fedloge fit``.
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
            parser_kwargs={
                "prog": "fedloge fit",
                "description": "Options of fedloge fit.",
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``report``, and take the number of classes from the data."""
        parser.add_argument("--report", type=bool, default=True, help="write report.html when the run ends")
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
        """Do nothing: :meth:`before_instantiate_classes` sets the seed."""

    def resolved(self) -> str:
        """The configuration as YAML, including defaults; it repeats the run."""
        config: Namespace = self.config.clone()
        config.pop("config", None)
        text: str = self.parser.dump(config, skip_none=False)
        return text


class SaveConfig(FederatedCallback):
    """Writes ``config.yaml`` into the run folder."""

    def __init__(self, text: str) -> None:
        self.text = text

    def on_resume(self, trainer: FederatedTrainer) -> None:
        """Require the options of the run to resume, except those that do not change the meaning of its result.

        Raises:
            RunError: If one differs; it names the options.
        """
        path = trainer.folder.path / "config.yaml"
        if path.is_file():
            old, new = (flatten(yaml.safe_load(text)) for text in (path.read_text(encoding="utf-8"), self.text))
            changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            changed = [key for key in changed if key in old or new[key]]  # an older version lacked options that are off
            changed = [key for key in changed if not key.startswith(HARMLESS)]
            if changed:
                changes = "; ".join(f"{key}={old.get(key)!r} (now {new.get(key)!r})" for key in changed)
                raise RunError(
                    f"Cannot resume {str(trainer.folder.path)!r}: the run was started with {changes}. Restore these "
                    "options, or choose another --trainer.run_dir."
                )

    def on_run_start(self, trainer: FederatedTrainer) -> None:
        """Write the file before anything else happens."""
        trainer.folder.write_text("config.yaml", self.text)


def build(args: Sequence[str]) -> FedlogeCLI:
    """Parse arguments and make the objects.

    Raises:
        FedlogeError: If an argument is wrong; one line, with the closest valid name where a key is unknown.
    """
    refuse_lost_overrides(args)
    args = _executor_class(args)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # class_path may name a module in the current folder
    try:
        return _cli(args)
    except ArgumentError as error:
        raise FedlogeError(one_line(str(error), _option_names(), CLASSES)) from error
    except ValueError as error:  # jsonargparse raises it from the FedlogeError of a class
        if "Does not validate" not in str(error):
            raise
        raise FedlogeError(one_line(str(error), _option_names(), CLASSES)) from error


def help_text() -> str:
    """Help of all options, as jsonargparse formats it."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        _cli(["--help"])
    return text.getvalue()


def _cli(args: Sequence[str]) -> FedlogeCLI:
    with warnings.catch_warnings():
        # Lightning warns of `args` beside sys.argv, although they differ in the verb only.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        return FedlogeCLI(args)


def _executor_class(args: Sequence[str]) -> list[str]:
    """Replace the name in ``--trainer.executor=processes`` by its class if options of the executor are given."""
    option = "--trainer.executor"
    if not any(arg.startswith(f"{option}.") for arg in args):
        return list(args)
    names = {f"{option}={name}": f"{option}={kind.__name__}" for name, kind in BY_NAME.items()}
    return [names.get(arg, arg) for arg in args]


def _option_names() -> list[str]:
    """Names of the options of the trainer, the data module and the classes of fedloge."""
    classes: list[type] = [FederatedTrainer, FederatedDataModule, Method]
    for module in (fedloge.methods, fedloge.models, fedloge.data.sources):
        kinds = Method, Backbone, Source
        classes += [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, kinds)]
    names = {name for cls in classes for name in inspect.signature(cls).parameters}
    return sorted(names | {"trainer", "model", "data", "config", "seed_everything", "class_path", "init_args"})
