"""A word that an option does not know is refused, also from Python; none falls back to another."""

import inspect
import typing
from pathlib import Path

import pytest

import fedloge.data.sources
import fedloge.methods
import fedloge.models
from conftest import tiny_source
from fedloge.data import FederatedDataModule
from fedloge.errors import ConfigError
from fedloge.inference.predict import print_predictions
from fedloge.methods import Method
from fedloge.models import SmallCNN
from fedloge.report.write import write_report
from fedloge.runs.folder import RunFolder
from fedloge.trainer import FederatedTrainer

REQUIRED = {
    "backbone": lambda: SmallCNN((6,), in_channels=1),
    "num_classes": lambda: 3,
    "source": tiny_source,
    "root": lambda: str(Path(__file__).parent),
    "weights": lambda: None,
    "name": lambda: "resnet18",
    "train_list": lambda: "train.txt",
    "test_list": lambda: "test.txt",
}


def own_classes():
    for module in (fedloge.methods, fedloge.models, fedloge.data.sources):
        for name in module.__all__:
            kind = getattr(module, name)
            optional = getattr(kind, "__name__", "").startswith("Timm")  # needs a package
            if inspect.isclass(kind) and not inspect.isabstract(kind) and kind is not Method and not optional:
                yield kind
    yield from (FederatedTrainer, FederatedDataModule)


def words(annotation):
    """The words of a literal type, in unions too."""
    if typing.get_origin(annotation) is typing.Literal:
        return [value for value in typing.get_args(annotation) if isinstance(value, str)]
    return [word for part in typing.get_args(annotation) for word in words(part)]


SET = {("FedALA", "pm"), ("FedPAC", "pm")}
"""Options of a base class that a method sets itself. Lightning checks ``precision``."""


def choices():
    """Every option of words, with the class whose constructor has it."""
    for kind in own_classes():
        for base in kind.__mro__:
            if "__init__" in vars(base) and base.__module__.startswith("fedloge"):
                for name, annotation in typing.get_type_hints(base.__init__).items():
                    if words(annotation) and name != "precision" and (kind.__name__, name) not in SET:
                        yield pytest.param(kind, name, id=f"{kind.__name__}.{name}")


@pytest.mark.parametrize(("kind", "name"), list(choices()))
def test_an_unknown_word_is_refused(kind, name):
    parameters = inspect.signature(kind).parameters
    needed = {
        key: REQUIRED[key]() for key, item in parameters.items() if item.default is item.empty and key in REQUIRED
    }
    with pytest.raises(ConfigError, match=rf"{name}='upside-down' is unknown\. Choose one of"):
        kind(**needed | {name: "upside-down"})


def test_there_are_many_choices():
    assert len(list(choices())) > 40


def test_checkpoints_and_formats(tmp_path):
    (tmp_path / "environment.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"ckpt_path='best' is unknown\. Choose one of None, last, previous"):
        RunFolder(tmp_path).find_checkpoint("best")
    with pytest.raises(ConfigError, match="format='yaml' is unknown"):
        print_predictions([], [], "yaml")
    with pytest.raises(ConfigError, match="format='yaml' is unknown"):
        write_report([tmp_path], format="yaml")
