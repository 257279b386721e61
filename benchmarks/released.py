"""What the released code of FedLoGe was logged to do, read from a folder of JSON files that is no part of fedloge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.errors import FedlogeError

CURVES, PARTITIONS, TRACES = "cifar10_curves.json", "cifar10_partitions.json", "sse_c_traces.json"
METHODS = {"fedloge": "FedLoGe", "fedavg": "FedAvg"}
"""Name of a method on the command line and in the curves, and its class."""


@dataclass(frozen=True)
class Setting:
    """A column of the paper's Table 1 on CIFAR-10-LT."""

    alpha: float
    imbalance_factor: int

    @property
    def words(self) -> str:
        """Name in titles."""
        return f"CIFAR-10-LT, IF {self.imbalance_factor}, α {self.alpha:g}"


SETTINGS = {"a": Setting(0.5, 50), "b": Setting(0.5, 100), "c": Setting(1.0, 50), "d": Setting(1.0, 100)}

COLUMNS = {
    "gm_acc": "global/acc",
    "gm_head": "global/acc_many",
    "gm_middle": "global/acc_medium",
    "gm_tail": "global/acc_few",
    "pm_acc": "personal/acc_mean",
    "pm_head": "personal/acc_many",
    "pm_middle": "personal/acc_medium",
    "pm_tail": "personal/acc_few",
}
"""A curve, and the column of ``metrics.csv`` that measures the same."""

Curves = Mapping[str, Mapping[int, float]]
"""By name of :data:`COLUMNS` and by number of rounds trained, from 1."""


def read(folder: str | Path, file: str) -> dict[str, Any]:
    """One of the files.

    Raises:
        FedlogeError: If it is missing or is not JSON.
    """
    path = Path(folder) / file
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FedlogeError(
            f"--reference={str(folder)!r} cannot be read: {str(path)!r}: {error.strerror}. It must be the folder with "
            f"the released numbers: {CURVES}, {PARTITIONS} and {TRACES}."
        ) from error
    except ValueError as error:
        raise FedlogeError(f"--reference={str(folder)!r}: {str(path)!r} is not JSON: {error}.") from error
    return content


def curves(folder: str | Path, method: str, setting: Setting) -> Curves:
    """The logged curves of a run.

    The logs count rounds from 0, and their round 0 is measured after a round of training: it is round 1 here.

    Raises:
        FedlogeError: If the file has no such run, or a curve is not as long as its rounds.
    """
    name = f"{method}_alpha{setting.alpha:g}_IF{setting.imbalance_factor}"
    runs = read(folder, CURVES).get("runs", {})
    if name not in runs:
        raise FedlogeError(f"{CURVES} of --reference={str(folder)!r} has no run {name!r}, but: {', '.join(runs)}.")
    run = runs[name]
    wrong = [key for key in COLUMNS if len(run.get(key, ())) != len(run["rounds"])]
    if wrong:
        raise FedlogeError(f"{CURVES} of --reference={str(folder)!r}: {name!r} lacks values of {', '.join(wrong)}.")
    return {key: {r + 1: value for r, value in zip(run["rounds"], run[key], strict=True)} for key in COLUMNS}
