"""From command line and YAML to objects: LightningCLI with the sections ``trainer``, ``model`` and ``data``."""

from __future__ import annotations

import difflib
import inspect
import os
import re
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
from fedloge.errors import FedlogeError, RunError
from fedloge.executors import BY_NAME
from fedloge.executors.client import quiet_lightning
from fedloge.methods.base import Method
from fedloge.models.base import Backbone
from fedloge.options import HARMLESS, flatten, refuse_lost_overrides
from fedloge.trainer import FederatedTrainer

CLASSES = (*fedloge.methods.__all__, *fedloge.models.__all__, *fedloge.data.sources.__all__, *BY_NAME)
"""The names that YAML may use without a module."""


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
            parser_kwargs={"prog": "fedloge fit", "exit_on_error": False, "allow_abbrev": False},
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The number of classes comes from the data; ``report`` says whether a run ends with a report page."""
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

    def on_resume(self, trainer: FederatedTrainer) -> None:
        """A run that goes on keeps the meaning that it had.

        Raises:
            RunError: If it would not, naming the options.
        """
        path = trainer.folder.path / "config.yaml"
        if path.is_file():
            old, new = (flatten(yaml.safe_load(text)) for text in (path.read_text(encoding="utf-8"), self.text))
            changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            changed = [key for key in changed if not key.startswith(HARMLESS)]
            if changed:
                told = ", ".join(f"{key} ({old.get(key)!r} before, {new.get(key)!r} now)" for key in changed)
                raise RunError(
                    f"{str(trainer.folder.path)!r} cannot go on with another meaning: {told}. Choose another "
                    "--trainer.run_dir, or take these options back."
                )

    def on_run_start(self, trainer: FederatedTrainer) -> None:
        """Write it before anything else happens."""
        trainer.folder.write_text("config.yaml", self.text)


def build(args: Sequence[str]) -> FedlogeCLI:
    """Parse arguments and make the objects.

    Raises:
        FedlogeError: With one line on what is wrong, and the closest valid name where a key is unknown.
    """
    refuse_lost_overrides(args)
    args = _executor_class(args)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a class_path may name a file of the user's folder
    try:
        with warnings.catch_warnings():
            # Lightning expects one of the two; `args` is the same without the verb.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            return FedlogeCLI(args)
    except ArgumentError as error:
        raise FedlogeError(one_line(str(error))) from error
    except ValueError as error:  # jsonargparse's, around a FedlogeError that a class raised
        if "Does not validate" not in str(error):
            raise
        raise FedlogeError(one_line(str(error))) from error


def _executor_class(args: Sequence[str]) -> list[str]:
    """``--trainer.executor=processes`` as its class, which has options, where one of them is given."""
    option = "--trainer.executor"
    if not any(arg.startswith(f"{option}.") for arg in args):
        return list(args)
    names = {f"{option}={name}": f"{option}={kind.__name__}" for name, kind in BY_NAME.items()}
    return [names.get(arg, arg) for arg in args]


def one_line(message: str, names: Sequence[str] | None = None) -> str:
    """jsonargparse's message as one line: what was wrong, and the closest of the valid names (those of `fit`)."""
    message, whole = _of_the_union(message), message
    unknown = re.search(r"(?:[Oo]ption|[Kk]ey) '([\w.]+)' is not (?:accepted|expected)", message)
    unknown = unknown or re.search(r"does not accept (?:option|nested key) '([\w.]+)'", message)
    unknown = unknown or re.search(r"[Uu]nrecognized arguments: --([\w.]+)", message)
    if unknown:
        owner = re.findall(r"given class_path '([\w.]+)'", message)
        where = f" in {owner[-1]}" if owner else ""
        closest = _closest(unknown[1].rpartition(".")[2], names or _option_names())
        return f"there is no option {unknown[1]!r}{where}.{closest}"
    keys = ".".join(re.findall(r'Parser key "([\w.]+)"', whole))
    missing = re.search(r"Expected a dot import path string: (\S+)", whole)
    if missing:
        literal = re.search(r"Expected a typing\.Literal\[(.+)\]", whole)
        choices = literal[1].replace("'", "").split(", ") if literal else []
        if missing[1] in choices:
            others = ", ".join(choice for choice in choices if choice != missing[1])
            return f"{keys}={missing[1]} has no options of its own. Name one of {others}, before its options."
        listed = f" Choose one of {', '.join(choices)}." if choices else ""
        closest = _closest(missing[1], CLASSES)
        return f"{keys}: there is no class {missing[1]!r}.{closest}{listed} A class of your own is module.Class."
    mismatch = re.search(r"Expected an? (.+)\. Got value: (.*)", message)
    if mismatch:
        return f"{keys}={mismatch[2]} is not of the expected type, {mismatch[1].replace('typing.', '')}."
    problem = re.sub(r"\s*\n\s*", " ", re.split(r'Parser key "[\w.]+":', message)[-1]).strip()
    return f"{keys}: {problem}" if keys else problem


def _of_the_union(message: str) -> str:
    """jsonargparse takes `model` for "a Method or nothing": of its two complaints, the one about the Method."""
    if "Does not validate against any of the Union" not in message or "Errors:" not in message:
        return message
    complaints = re.split(r"\n\s*Given value type:", message.partition("Errors:")[2])[0]
    told = [part for part in re.split(r"\n\s*- ", complaints) if part.strip() and "'NoneType'" not in part]
    return told[0] if told else message


def _closest(name: str, valid: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, [other for other in valid if other != name], n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""


def _option_names() -> list[str]:
    """The names of all options of trainer, data, and the classes that come with fedloge."""
    classes: list[type] = [FederatedTrainer, FederatedDataModule, Method]
    for module in (fedloge.methods, fedloge.models, fedloge.data.sources):
        kinds = Method, Backbone, Source
        classes += [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, kinds)]
    names = {name for cls in classes for name in inspect.signature(cls).parameters}
    return sorted(names | {"trainer", "model", "data", "config", "seed_everything", "class_path", "init_args"})
