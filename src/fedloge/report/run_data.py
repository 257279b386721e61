"""The data of a report, read from a run folder without building a model or loading images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedloge.data.partition import Partition
from fedloge.data.record import RECORD, DataRecord
from fedloge.data.splits import Ints
from fedloge.data.statistics import Floats
from fedloge.errors import DataError, RunError
from fedloge.methods.base import Method, View, within_any
from fedloge.options import flatten
from fedloge.runs.coverage import Coverage, coverage
from fedloge.runs.folder import RunFolder
from fedloge.runs.tables import VIEWS, ModelView, run_names

T = TypeVar("T")

LAST_STEPS = {"realigned": "realignment", "fine-tuned": "fine-tuning"}
"""Name of a method's last step, after the last round, by the value of ``finalized`` in ``summary.json``."""


@dataclass(frozen=True, eq=False)
class ClientScores:
    """Columns of ``per_client.csv`` after the last round, [K'], for the K' clients that have test images.

    ``label`` holds the names of the clients, or their numbers as texts.
    """

    client: Ints
    n_train: Ints
    n_test: Ints
    accuracy: Floats
    macro_f1: Floats
    label: Sequence[str]

    def worst_tenth(self) -> Ints:
        """Positions of the tenth of the clients with the lowest accuracy, at least one, the worst first."""
        result: Ints = np.argsort(self.accuracy, kind="stable")[: math.ceil(len(self.accuracy) / 10)]
        return result


@dataclass(frozen=True, eq=False)
class Confusion:
    """Nonzero cells of a confusion matrix: with thousands of classes the whole matrix would not fit in memory.

    Args:
        true: True class of each cell, [n].
        predicted: Predicted class of each cell, [n].
        count: Number of test images in each cell, [n].
        num_classes: Number of classes C.
    """

    true: Ints
    predicted: Ints
    count: Ints
    num_classes: int

    def totals(self) -> Ints:
        """Test images of every class, [C]."""
        return np.bincount(self.true, self.count, self.num_classes).astype(np.int64)

    def block(self, classes: Ints) -> Ints:
        """Rows and columns of the given classes in their order, int64 [m, m]."""
        position = np.full(self.num_classes, -1)
        position[classes] = np.arange(len(classes))
        rows, columns = position[self.true], position[self.predicted]
        inside = (rows >= 0) & (columns >= 0)
        matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
        matrix[rows[inside], columns[inside]] = self.count[inside]
        return matrix

    def shares(self, classes: Ints) -> Floats:
        """:meth:`block` in shares of all test images of the true class."""
        shares: Floats = self.block(classes) / self.totals()[classes, None].clip(min=1)
        return shares


@dataclass(frozen=True, eq=False)
class HeadNorms:
    """Row norms of a linear classifier.

    Args:
        name: Name of its module, for example ``psi``.
        norms: Norms by stage (``trained``, ``final``): [C] of a shared classifier, [K, C] of the clients' own;
            nan for clients without one, which never took part.
    """

    name: str
    norms: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class RunData:
    """A finished run.

    Args:
        name: Name in the report.
        path: Run folder.
        summary: Content of ``summary.json``.
        environment: Content of ``environment.json``.
        config_text: Content of ``config.yaml``; empty for a run that was not started from the command line.
        config: Options by dotted name, for example ``model.gamma``, without ``class_path`` and ``init_args``.
        metrics: Columns of ``metrics.csv``, nan where a round lacks a value; empty for a run realigned again.
        class_names: Names of the classes, length C.
        class_accuracy: Accuracy of each class after the last round by view, [C], nan without test images.
        class_tests: Number of test images of each class by view, [C].
        clients: Scores of the clients after the last round by view.
        confusion: Confusion matrices after the last round by view; empty for a run that did not write them.
        partition: Images of each client.
        shared_heads: Trained classifiers that all clients share.
        client_heads: Classifiers that each client has of its own.
        frames: Fixed classifiers by name, [C, d].
        last_step: Name of the method's step after the last round; None for a method without one.
        record: Record of the data; None for a run from before there were records.
    """

    name: str
    path: Path
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]
    config_text: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Floats]
    class_names: Sequence[str]
    class_accuracy: Mapping[ModelView, Floats]
    class_tests: Mapping[ModelView, Ints]
    clients: Mapping[ModelView, ClientScores]
    confusion: Mapping[ModelView, Confusion]
    partition: Partition
    shared_heads: Sequence[HeadNorms]
    client_heads: Sequence[HeadNorms]
    frames: Mapping[str, Tensor]
    last_step: str | None
    record: DataRecord | None = None

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.summary["method"])

    @property
    def groups(self) -> Sequence[str]:
        """many, medium or few for every class."""
        groups: list[str] = self.summary["shots"]["groups"]
        return groups

    @cached_property
    def class_counts(self) -> Ints:
        """N_c of the training set, [C]."""
        counts: Ints = self.partition.train_counts.sum(0)
        return counts

    @cached_property
    def by_count(self) -> Ints:
        """The classes in descending order of training images."""
        order: Ints = np.argsort(-self.class_counts, kind="stable")
        return order

    @cached_property
    def coverage(self) -> Coverage:
        """The clients that were tested or failed; a run of an older version did not note the latter."""
        known: Coverage | None = self.summary.get("clients")
        return known or coverage(self.partition.test_counts.sum(1).tolist())

    def changed(self, view: View) -> bool:
        """Whether the last step changed ``global`` or ``personal``, in any round or class: the end may be the same."""
        if self.last_step is None:
            return False
        after, before = ModelView(view), ModelView(view, before=True)
        curves = [column.removeprefix(before.prefix) for column in self.metrics if column.startswith(before.prefix)]
        pairs = [(self.metrics[after.prefix + name], self.metrics[before.prefix + name]) for name in curves]
        if before in self.class_accuracy and after in self.class_accuracy:
            pairs.append((self.class_accuracy[after], self.class_accuracy[before]))
        different = any(np.any((new != old) & ~np.isnan(old)) for new, old in pairs)
        return different or self.headline(view) != self.headline(view, before=True)

    def headline(self, view: View, before: bool = False) -> Mapping[str, float] | None:
        """Numbers of ``summary.json`` for ``global`` or ``personal``; None if the method has no such model."""
        source = self.summary["before_realignment"] if before else self.summary
        part: Mapping[str, float] | None = source[view] if source else None
        return part


def read_runs(paths: Sequence[str | Path]) -> list[RunData]:
    """Read finished runs under distinct names.

    Raises:
        RunError: If a folder is not a run, not finished, damaged, or given twice.
    """
    folders = [Path(path) for path in paths]
    resolved = [folder.resolve() for folder in folders]
    for position, folder in enumerate(resolved):
        if folder in resolved[:position]:
            raise RunError(f"{str(paths[position])!r} is given twice. Give every run once.")
    return [read_run(path, name) for path, name in zip(folders, run_names(resolved), strict=True)]


def read_run(path: str | Path, name: str | None = None) -> RunData:
    """Read a finished run.

    Args:
        path: Run folder.
        name: Name in the report; None takes the folder's name.

    Raises:
        RunError: If the folder is not a run, not finished or damaged.
    """
    folder = RunFolder(path).require()
    if not (folder.path / "summary.json").is_file():
        raise RunError(f"{str(path)!r} is not finished: it has no summary.json yet. Let `fedloge fit` end first.")
    try:
        return _read(folder, name or folder.path.resolve().name)
    except (OSError, KeyError, ValueError, TypeError, IndexError, yaml.YAMLError, SafetensorError, DataError) as error:
        reason = " ".join(str(error).split()) or "nothing can be read"
        raise RunError(f"{str(path)!r} is damaged: {type(error).__name__}: {reason}.") from error


def _read(folder: RunFolder, name: str) -> RunData:
    """Read a run; numbers from before a last step that changed nothing are left out."""
    summary = folder.read_json("summary.json")
    config = folder.path / "config.yaml"
    config_text = config.read_text(encoding="utf-8") if config.is_file() else ""
    partition, record = Partition.load(folder.path / "partition.json"), folder.path / RECORD
    num_classes = len(summary["shots"]["groups"])
    names, class_accuracy, class_tests = _classes(folder.rows("per_class.csv"), num_classes)
    fixed = folder.read_json("checkpoints/final/state.json")["fixed"]
    shared, personal = _heads(folder.path, len(partition.train), num_classes, fixed)
    step = LAST_STEPS.get(summary.get("finalized", "realigned"), "the last step")
    before = summary["before_realignment"]
    same = [view for view in VIEWS if view.before and before and before[view.model] == summary[view.model]]
    old_columns = tuple(view.prefix for view in same)
    return RunData(
        name=name,
        path=folder.path,
        summary=summary,
        environment=folder.read_json("environment.json"),
        config_text=config_text,
        config=flatten(yaml.safe_load(config_text) or {}, hidden=("class_path", "init_args")),
        metrics={
            column: values
            for column, values in _columns(folder.rows("metrics.csv")).items()
            if not column.startswith(old_columns)
        },
        class_names=names,
        class_accuracy=_without(class_accuracy, same),
        class_tests=class_tests,
        clients=_without(_clients(folder.rows("per_client.csv"), partition), same),
        confusion=_without(_confusions(folder.rows("confusion.csv"), num_classes), same),
        partition=partition,
        shared_heads=shared,
        client_heads=personal,
        frames=_frames(folder.path, num_classes, fixed),
        last_step=step if summary["before_realignment"] else None,
        record=DataRecord.load(record) if record.is_file() else None,
    )


def _without(views: Mapping[ModelView, T], dropped: Sequence[ModelView]) -> dict[ModelView, T]:
    return {view: content for view, content in views.items() if view not in dropped}


# Tables ------------------------------------------------------------------------------------------------------


def _number(cell: str | None) -> float:
    return float(cell) if cell else math.nan


def _columns(rows: Sequence[Mapping[str, str]]) -> dict[str, Floats]:
    names = list(rows[0]) if rows else []
    return {name: np.array([_number(row[name]) for row in rows]) for name in names}


def _last_by_view(rows: Sequence[Mapping[str, str]]) -> dict[ModelView, list[Mapping[str, str]]]:
    """The rows of the last round, by view."""
    last = max((int(row["round"]) for row in rows), default=0)
    views: dict[ModelView, list[Mapping[str, str]]] = {}
    for row in rows:
        if int(row["round"]) == last:
            views.setdefault(ModelView.parse(row["view"]), []).append(row)
    return views


def _classes(
    rows: Sequence[Mapping[str, str]], num_classes: int
) -> tuple[list[str], dict[ModelView, Floats], dict[ModelView, Ints]]:
    """Names of the classes; accuracies and numbers of test images by view."""
    names, accuracies, tests = [str(c) for c in range(num_classes)], {}, {}
    for view, part in _last_by_view(rows).items():
        accuracies[view] = np.full(num_classes, math.nan)
        tests[view] = np.zeros(num_classes, dtype=np.int64)
        for row in part:
            c = int(row["class"])
            names[c] = row["name"]
            accuracies[view][c], tests[view][c] = _number(row["accuracy"]), int(row["n_test"])
    return _unique(names), accuracies, tests


def _unique(names: Sequence[str]) -> list[str]:
    return [f"{name} ({c})" if names.count(name) > 1 else name for c, name in enumerate(names)]


def _clients(rows: Sequence[Mapping[str, str]], partition: Partition) -> dict[ModelView, ClientScores]:
    return {
        view: ClientScores(
            client=np.array([int(row["client"]) for row in part]),
            n_train=np.array([int(row["n_train"]) for row in part]),
            n_test=np.array([int(row["n_test"]) for row in part]),
            accuracy=np.array([_number(row["accuracy"]) for row in part]),
            macro_f1=np.array([_number(row["macro_f1"]) for row in part]),
            label=[partition.label(int(row["client"])) for row in part],
        )
        for view, part in _last_by_view(rows).items()
    }


def _confusions(rows: Sequence[Mapping[str, str]], num_classes: int) -> dict[ModelView, Confusion]:
    cells: dict[ModelView, list[list[int]]] = {}
    for row in rows:
        cell = [int(row[name]) for name in ("class", "predicted", "count")]
        cells.setdefault(ModelView.parse(row["view"]), []).append(cell)
    columns = {view: np.array(part, dtype=np.int64).T for view, part in cells.items()}
    if any(part[:2].max() >= num_classes for part in columns.values()):
        raise ValueError(f"confusion.csv names a class beyond the {num_classes} of the run")
    return {view: Confusion(part[0], part[1], part[2], num_classes) for view, part in columns.items()}


# Tensors -----------------------------------------------------------------------------------------------------


def _heads(
    path: Path, num_clients: int, num_classes: int, fixed: Sequence[str]
) -> tuple[list[HeadNorms], list[HeadNorms]]:
    """The linear classifiers of the trained and the final state: matrices with a row per class, outside the body."""
    shared: dict[str, dict[str, Floats]] = {}
    personal: dict[str, dict[str, Floats]] = {}
    for stage, checkpoint in (("trained", "last"), ("final", "final")):
        for entry, tensor in _matrices(path / "checkpoints" / checkpoint / "shared.safetensors", num_classes):
            if entry not in fixed:
                shared.setdefault(_module(entry), {})[stage] = _norms(tensor)
        for entry, tensor in _matrices(path / "checkpoints" / checkpoint / "clients.safetensors", num_classes):
            client, _, own = entry.partition("/")
            nobody = np.full((num_clients, num_classes), math.nan)
            personal.setdefault(_module(own), {}).setdefault(stage, nobody)[int(client)] = _norms(tensor)
    return _head_norms(shared), _head_norms(personal)


def _head_norms(found: Mapping[str, Mapping[str, Floats]]) -> list[HeadNorms]:
    return [HeadNorms(name, norms) for name, norms in found.items()]


def _frames(path: Path, num_classes: int, fixed: Sequence[str]) -> dict[str, Tensor]:
    matrices = _matrices(path / "checkpoints" / "final" / "shared.safetensors", num_classes)
    return {_module(entry): tensor for entry, tensor in matrices if entry in fixed}


def _matrices(path: Path, num_classes: int) -> Iterator[tuple[str, Tensor]]:
    """Entries [C, d] of a file outside the backbone; other entries are not read."""
    if not path.is_file():
        return
    with safe_open(path, framework="pt") as file:
        for entry in file.keys():  # noqa: SIM118, it is no mapping
            shape = file.get_slice(entry).get_shape()
            if not within_any(entry.rpartition("/")[2], Method.bodies) and len(shape) == 2 and shape[0] == num_classes:
                yield entry, file.get_tensor(entry)


def _module(entry: str) -> str:
    return entry.rpartition(".")[0] or entry


def _norms(weight: Tensor) -> NDArray[np.float64]:
    norms: Floats = weight.double().norm(dim=1).numpy()
    return norms
