"""``fedloge sweep``: the runs of a W&B sweep file on this machine, without a server."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.checks import check_least
from fedloge.errors import ConfigError
from fedloge.experiments.compare import slug
from fedloge.experiments.runner import Cell, run_cells
from fedloge.options import override_value, read_mapping, set_option

METHODS = ("grid", "random")
KEYS = ("method", "metric", "parameters", "command", "program", "run_cap")
IGNORED = ("name", "description", "project", "entity")
"""What a sweep file may say to W&B alone."""
SEED, DEFAULT_SEED = "trainer.seed", 3407
"""The option, and what a run takes without it."""

Combination = tuple[tuple[str, Any], ...]
"""A value for each parameter, in the order of the file."""


@dataclass(frozen=True)
class Parameter:
    """What a parameter may be.

    Args:
        name: An option of ``fedloge fit``, ``model.gamma`` for example.
        draw: A value at random.
        values: All of them; None where there are infinitely many.
    """

    name: str
    draw: Callable[[random.Random], Any]
    values: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Sweep:
    """What to run.

    Args:
        base: Options of all runs, nested as in YAML.
        parameters: What is varied.
        method: ``grid``, every combination; or ``random``.
        metric: A column of ``metrics.csv``.
        maximize: Whether more of it is better.
        output_dir: Where everything goes.
        run_cap: Runs at most; ``random`` needs it.
        seed: Of what is drawn at random.
        jobs: Runs at once; None takes one per core.
    """

    base: Mapping[str, Any]
    parameters: Sequence[Parameter]
    method: str
    metric: str
    maximize: bool
    output_dir: Path
    run_cap: int | None = None
    seed: int = 0
    jobs: int | None = None

    def combinations(self) -> list[Combination]:
        """The settings to run, each once; the same ones whenever it is asked."""
        drawn = self._grid() if self.method == "grid" else self._random()
        return list(itertools.islice(drawn, self.run_cap))

    def _grid(self) -> Iterator[Combination]:
        values = [[(parameter.name, value) for value in parameter.values or ()] for parameter in self.parameters]
        yield from itertools.product(*values)

    def _random(self) -> Iterator[Combination]:
        generator, seen, misses = random.Random(self.seed), set(), 0
        while misses < 1000:  # then there are hardly any new ones left
            drawn = tuple((parameter.name, parameter.draw(generator)) for parameter in self.parameters)
            misses = misses + 1 if str(drawn) in seen else 0
            if not misses:
                seen.add(str(drawn))
                yield drawn

    def cells(self) -> list[Cell]:
        """A run for each combination; those that differ in ``trainer.seed`` alone share a row."""
        cells = []
        for combination in self.combinations():
            options = copy.deepcopy(dict(self.base))
            for name, value in combination:
                set_option(options, name, value)
            name = row_name(combination)
            seed = options.get("trainer", {}).get("seed", DEFAULT_SEED)
            cells.append(Cell(name, seed, options, self.output_dir / (slug(name) or "all")))
        return cells

    def run(self, on_change: Callable[[Sequence[Cell]], None] = lambda cells: None) -> Sequence[Cell]:
        """Run what is not done yet, and return all cells."""
        return run_cells(self.cells(), self.jobs, on_change)


def row_name(combination: Combination) -> str:
    """A combination in words, without its seed: ``gamma=0.3 beta=0.6``."""
    return " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in combination if name != SEED)


def load_sweep(path: str | Path, overrides: Sequence[str] = (), **settings: Any) -> Sweep:
    """Read a W&B sweep file.

    Args:
        path: The file.
        overrides: Options for all runs, ``--trainer.rounds=2``.
        **settings: ``output_dir``, ``run_cap``, ``seed`` and ``jobs`` where they are not the file's or the default.

    Raises:
        FedlogeError: If the file or an override is malformed, or asks for what needs W&B's server.
    """
    content = read_mapping(path, "FILE")
    unknown = content.keys() - {*KEYS, *IGNORED}
    if unknown:
        key = sorted(unknown)[0]
        raise ConfigError(key, content[key], "is not run by `fedloge sweep`", f"Known are {', '.join(KEYS)}.")
    method = content.get("method")
    if method not in METHODS:
        raise ConfigError(
            "method", method, "is not run by `fedloge sweep`", "Take grid or random, or W&B's own `wandb sweep`."
        )
    parameters = [read_parameter(name, said) for name, said in _mapping(content, "parameters").items()]
    for parameter in parameters:
        if method == "grid" and parameter.values is None:
            remedy = "Give a list of values, or take method: random."
            raise ConfigError(f"parameters.{parameter.name}", "a range", "has no grid", remedy)
    metric = content.get("metric") or {}
    given = {name: value for name, value in settings.items() if value is not None}
    options = {"output_dir": Path("runs") / Path(path).stem, "run_cap": content.get("run_cap"), **given}
    if method == "random" and options["run_cap"] is None:
        raise ConfigError("run_cap", None, "is missing: random draws go on for ever", "Pass --runs=20.")
    for name in ("run_cap", "jobs"):
        check_least({"run_cap": "runs"}.get(name, name), 1 if options.get(name) is None else options[name], 1)
    base = command_options(content.get("command"))
    for override in overrides:
        override_value(base, override)
    options["output_dir"] = Path(options["output_dir"])
    name, maximize = metric.get("name", "global/acc"), metric.get("goal") == "maximize"
    return Sweep(base, parameters, method, name, maximize, **options)


def command_options(command: Any) -> dict[str, Any]:
    """The options of a sweep's command, nested as in YAML: its ``--config`` file with what else it sets.

    Its ``trainer.logger`` is left out: here the results are in the run folders.

    Raises:
        FedlogeError: If the command is not ``fedloge fit --config FILE ... ${args}``.
    """
    words = [str(word) for word in command] if isinstance(command, list) else []
    shape = "Write [fedloge, fit, --config, FILE, ${args}]."
    if "fit" not in words or "${args}" not in words[words.index("fit") :]:
        raise ConfigError("command", command, "is not a `fedloge fit` with ${args}", shape)
    first, *options = words[words.index("fit") + 1 :]
    if not first.startswith("--config"):
        raise ConfigError("command", command, "does not begin with --config, which would undo what precedes it", shape)
    content = read_mapping(first.removeprefix("--config=") if "=" in first else options.pop(0), "--config")
    for option in options:
        if option != "${args}" and not option.startswith("--trainer.logger"):
            override_value(content, option)
    return content


def read_parameter(name: str, said: Any) -> Parameter:
    """A parameter of a sweep file: ``value``, ``values`` with ``probabilities``, or ``min`` and ``max``.

    A range is drawn from uniformly (from whole numbers where both ends are), or as ``distribution`` says: ``uniform``,
    ``int_uniform``, ``q_uniform`` (in steps of ``q``) or ``log_uniform_values``. Drawn numbers have six digits.

    Raises:
        ConfigError: If it is anything else.
    """
    key = f"parameters.{name}"
    if not isinstance(said, dict):
        raise ConfigError(key, said, "must be a mapping", "For example {values: [0.1, 1.0]}.")
    if "value" in said:
        only = said["value"]
        return Parameter(name, lambda generator: only, (only,))
    if "values" in said:
        values, weights = said["values"], said.get("probabilities")
        if not isinstance(values, list) or not values or (weights is not None and len(weights) != len(values)):
            raise ConfigError(key, said, "needs a list of values, and as many probabilities if any", "List some.")
        return Parameter(name, lambda generator: generator.choices(values, weights)[0], tuple(values))
    low, high = said.get("min"), said.get("max")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or low > high:
        raise ConfigError(key, said, "has neither value, values, nor min and max", "Give one of them.")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = said.get("distribution", "int_uniform" if whole else "uniform")
    return Parameter(name, _drawer(key, kind, low, high, said.get("q", 1)))


def _drawer(key: str, kind: str, low: float, high: float, step: float) -> Callable[[random.Random], Any]:
    if kind == "log_uniform_values" and low <= 0:
        raise ConfigError(f"{key}.min", low, "must be positive for log_uniform_values", "Choose a small number.")
    drawers: dict[str, Callable[[random.Random], Any]] = {
        "int_uniform": lambda generator: generator.randint(int(low), int(high)),
        "uniform": lambda generator: _short(generator.uniform(low, high)),
        "q_uniform": lambda generator: _short(round(generator.uniform(low, high) / step) * step),
        "log_uniform_values": lambda generator: _short(math.exp(generator.uniform(math.log(low), math.log(high)))),
    }
    if kind not in drawers:
        remedy = f"Choose one of {', '.join(drawers)}."
        raise ConfigError(f"{key}.distribution", kind, "is not drawn by `fedloge sweep`", remedy)
    return drawers[kind]


def _short(number: float) -> float:
    return float(f"{number:.6g}")


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict) or not value:
        raise ConfigError(key, value, "must be a mapping", "For example {model.gamma: {values: [0.1, 1.0]}}.")
    return value
