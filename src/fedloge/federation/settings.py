"""Settings of a new run that would have no effect, or another one than they say, are refused or named."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from fedloge.checks import check_choice, check_unused
from fedloge.data.datamodule import FederatedDataModule
from fedloge.data.partition import Partition
from fedloge.errors import ConfigError
from fedloge.evaluation.evaluator import MaskAbsent, PersonalShots
from fedloge.evaluation.shots import ShotRule
from fedloge.executors import BY_NAME, Executor
from fedloge.methods.base import Method

Idle = Mapping[tuple[str, Any], Sequence[str]]
"""Options that do nothing, by an option and the value of it with which they do nothing."""

TRAINER_IDLE: Idle = {("on_client_failure", "abort"): ("min_clients",)}

DATA_IDLE: Idle = {
    ("imbalance_factor", None): ("profile",),
    ("scheme", "iid"): ("alpha",),
    ("scheme", "natural"): ("alpha", "min_samples"),
    ("scheme", "dirichlet_paper"): ("min_samples",),
}


def check_words(executor: Any, mask_absent: Any, shot_rule: str, personal_shots: str) -> None:
    """Check the trainer's options that are words.

    Raises:
        ConfigError: If one is unknown; it names the known ones.
    """
    if not isinstance(executor, Executor):
        check_choice("trainer.executor", executor, ("auto", *BY_NAME))
    check_choice("trainer.mask_absent", mask_absent or "off", get_args(MaskAbsent))
    check_choice("trainer.shot_rule", shot_rule, get_args(ShotRule))
    check_choice("trainer.personal_shots", personal_shots, get_args(PersonalShots))


def refuse_idle(trainer: Any, method: Method, data: FederatedDataModule) -> None:
    """Refuse options of a new run that have no effect beside its other options.

    Raises:
        ConfigError: If one differs from its default; it names both options.
    """
    _refuse("trainer", trainer, TRAINER_IDLE)
    _refuse("model", method, method.idle)
    if data.partition_file is None:
        _refuse("data", data, DATA_IDLE)
    else:
        _refuse_replaced(data)
    if "personal" not in method.views:
        for name, default in (("mask_absent", "off"), ("personal_shots", "global")):
            beside = f"{type(method).__name__}, which has no personal models"
            check_unused(f"trainer.{name}", getattr(trainer, name), default, beside)


def _refuse(section: str, owner: Any, idle: Idle) -> None:
    defaults = _defaults(type(owner))
    for (option, value), names in idle.items():
        if getattr(owner, option) == value:
            for name in names:
                check_unused(f"{section}.{name}", getattr(owner, name), defaults[name], f"{section}.{option}={value}")


def _refuse_replaced(data: FederatedDataModule) -> None:
    """A saved partition replaces the options that would make one."""
    saved, defaults = Partition.load(str(data.partition_file)), _defaults(FederatedDataModule)
    for name in ("scheme", "alpha", "imbalance_factor"):
        value = getattr(data, name)
        if value not in (defaults[name], getattr(saved, name), None):
            problem = f"but data.partition_file={str(data.partition_file)!r} was made with {getattr(saved, name)!r}"
            raise ConfigError(f"data.{name}", value, problem, "Leave one of them out.")


def _defaults(kind: type) -> dict[str, Any]:
    """Defaults of the options of a class, those that it hands to its bases included."""
    found = (inspect.signature(base).parameters for base in reversed(kind.__mro__) if "__init__" in vars(base))
    return {name: parameter.default for parameters in found for name, parameter in parameters.items()}


def check_precision(asked: Any, used: Any) -> None:
    """Refuse a precision that Lightning would replace.

    Raises:
        ConfigError: If the one in use is another.
    """
    if asked != used and str(asked).endswith(("-mixed", "-true")):  # Lightning knows shorter names too
        remedy = f"Choose {used} or 32-true, or train on a GPU."
        raise ConfigError(
            "trainer.precision", asked, f"is not possible on this device, which would take {used}", remedy
        )


def notes(trainer: Any, method: Method, data: FederatedDataModule) -> Iterator[str]:
    """Sentences about options that many runs share and that this one does not use."""
    name = type(method).__name__
    if data.auxiliary and "auxiliary" not in method.privileged:
        yield f"data.auxiliary={data.auxiliary} is not used: {name}'s server holds no images."
    first, second = (method.phases(epochs) for epochs in (1, 2))
    if list(first) == list(second):
        epochs = " + ".join(str(phase.epochs) for phase in first)
        yield f"trainer.local_epochs={trainer.local_epochs} is not used: {name} trains {epochs} epochs in a round."
