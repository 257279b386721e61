"""``fedloge sweep``: the runs of a W&B sweep file on this machine, without a server."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.checks import check_least
from fedloge.errors import ConfigError
from fedloge.experiments.plan import Plan, read_seeds, slug, typed
from fedloge.experiments.runner import Cell
from fedloge.experiments.tables import Row
from fedloge.options import Options, merged, override_value, read_mapping, set_option

METHODS = ("grid", "random")
KEYS: Mapping[str, type] = {
    **{"method": str, "metric": dict, "parameters": dict, "command": list, "program": str, "run_cap": int},
    **{"name": str, "description": str, "project": str, "entity": str},
}
"""Keys of a sweep file; the last four matter to W&B only."""

SEED, DEFAULT_SEED = "trainer.seed", 3407
"""Option that holds a run's seed, and its default."""

Settings = dict[str, Any]
"""Values of the parameters by option, in the order of the file."""


@dataclass(frozen=True)
class Parameter:
    """A parameter that a sweep varies.

    Args:
        name: An option of ``fedloge fit``, for example ``model.gamma``.
        draw: Draws a value at random.
        values: All values; None for a range.
    """

    name: str
    draw: Callable[[random.Random], Any]
    values: tuple[Any, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep(Plan):
    """A sweep: a row per setting, whose runs differ in their seeds only.

    Args:
        parameters: Parameters that are varied.
        metric: Column of ``metrics.csv`` by which settings are ranked.
        maximize: Whether a larger metric is better.
    """

    parameters: Sequence[Parameter]
    metric: str = "global/acc"
    maximize: bool = False


def load_sweep(
    path: str | Path,
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    run_cap: int | None = None,
    seed: int | None = None,
    jobs: int | None = None,
) -> Sweep:
    """Read a W&B sweep file.

    Args:
        path: The file.
        overrides: Options of all runs, such as ``--trainer.rounds=2``; ``--seeds=0,1`` runs every setting with each.
        output_dir: Folder of the tables and runs; ``runs/`` and the name of the file by default.
        run_cap: Largest number of runs; that of the file by default. Random search needs it.
        seed: Seed of random draws, 0 by default.
        jobs: Number of runs at the same time; one per core by default.

    Raises:
        FedlogeError: If the file or an override is malformed, or needs W&B's server.
    """
    content = typed(read_mapping(path, "FILE"), KEYS, str(path))
    method = content.get("method")
    if method not in METHODS:
        remedy = f"Choose {' or '.join(METHODS)}, or W&B's own `wandb sweep`."
        raise ConfigError("method", method, "is not supported by `fedloge sweep`", remedy)
    if not content.get("parameters"):
        remedy = "For example {model.gamma: {values: [0.1, 1.0]}}."
        raise ConfigError("parameters", content.get("parameters"), "has no entry", remedy)
    parameters = [read_parameter(name, entry) for name, entry in content["parameters"].items()]
    if method == "grid" and (ranges := [parameter.name for parameter in parameters if parameter.values is None]):
        remedy = "Give a list of values, or choose method: random."
        raise ConfigError(f"parameters.{ranges[0]}", "a range", "has no grid", remedy)
    run_cap = content.get("run_cap") if run_cap is None else run_cap
    if method == "random" and run_cap is None:
        raise ConfigError("run_cap", None, "is missing: random search has no end", "Pass --runs=20.")
    check_least("runs", run_cap, 1)
    base = command_options(content.get("command"))
    for override in overrides:
        override_value(base, override)
    if "seeds" in base:
        parameters = [parameter for parameter in parameters if parameter.name != SEED]
    seeds = read_seeds(base.pop("seeds")) if "seeds" in base else []
    drawn = _grid(parameters) if method == "grid" else _random(parameters, seed or 0)
    every = ({**settings, SEED: each} for settings in drawn for each in seeds) if seeds else drawn
    folder = Path(output_dir or Path("runs") / Path(path).stem)
    return Sweep(
        rows=_rows(base, itertools.islice(every, run_cap), folder),
        output_dir=folder,
        jobs=jobs,
        parameters=parameters,
        metric=content.get("metric", {}).get("name", "global/acc"),
        maximize=content.get("metric", {}).get("goal") == "maximize",
    )


def _grid(parameters: Sequence[Parameter]) -> Iterator[Settings]:
    """Every combination."""
    names = [parameter.name for parameter in parameters]
    for values in itertools.product(*(parameter.values or () for parameter in parameters)):
        yield dict(zip(names, values, strict=True))


def _random(parameters: Sequence[Parameter], seed: int) -> Iterator[Settings]:
    """Different combinations, drawn at random; the same ones for the same seed."""
    generator, seen, misses = random.Random(seed), set(), 0
    while misses < 1000:  # almost every combination has been drawn
        drawn = {parameter.name: parameter.draw(generator) for parameter in parameters}
        misses = misses + 1 if str(drawn) in seen else 0
        if not misses:
            seen.add(str(drawn))
            yield drawn


def _rows(base: Options, combinations: Iterable[Settings], folder: Path) -> list[Row]:
    """A row for the combinations that differ in their seed only, with a run for each."""
    groups: dict[str, tuple[Settings, list[Cell]]] = {}
    for combination in combinations:
        options = merged(base)
        for option, value in combination.items():
            set_option(options, option, value)
        own = {option: value for option, value in combination.items() if option != SEED}
        name = " ".join(f"{option.rpartition('.')[2]}={value}" for option, value in own.items())
        seed = options.get("trainer", {}).get("seed", DEFAULT_SEED)
        groups.setdefault(name, (own, []))[1].append(Cell(name, seed, options, folder / (slug(name) or "all")))
    return [Row(name, cells, options=own) for name, (own, cells) in groups.items()]


def command_options(command: Any) -> dict[str, Any]:
    """Options of a sweep's command, nested as in YAML: its ``--config`` file and the options after it.

    ``trainer.logger`` is left out: without W&B's server the results are in the run folders.

    Raises:
        FedlogeError: If the command is not ``fedloge fit --config FILE ... ${args}``.
    """
    words = [str(word) for word in command] if isinstance(command, list) else []
    shape = "Write [fedloge, fit, --config, FILE, ${args}]."
    if "fit" not in words or "${args}" not in words[words.index("fit") :]:
        raise ConfigError("command", command, "is not a `fedloge fit` with ${args}", shape)
    first, *options = words[words.index("fit") + 1 :]
    if not first.startswith("--config"):
        raise ConfigError("command", command, "has options before --config, which would replace them", shape)
    content = read_mapping(first.removeprefix("--config=") if "=" in first else options.pop(0), "--config")
    for option in options:
        if option != "${args}" and not option.startswith("--trainer.logger"):
            override_value(content, option)
    return content


def read_parameter(name: str, entry: Any) -> Parameter:
    """Read a parameter of a sweep file: ``value``, ``values`` with ``probabilities``, or ``min`` and ``max``.

    Draws from a range are uniform (whole numbers if both ends are), or follow its ``distribution``: ``uniform``,
    ``int_uniform``, ``q_uniform`` (in steps of ``q``) or ``log_uniform_values``. They are rounded to six digits.

    Raises:
        ConfigError: If the entry has another form.
    """
    key = f"parameters.{name}"
    if not isinstance(entry, dict):
        raise ConfigError(key, entry, "must be a mapping", "For example {values: [0.1, 1.0]}.")
    if "value" in entry:
        only = entry["value"]
        return Parameter(name, lambda generator: only, (only,))
    if "values" in entry:
        values, weights = entry["values"], entry.get("probabilities")
        if not isinstance(values, list) or not values or (weights is not None and len(weights) != len(values)):
            raise ConfigError(
                key,
                entry,
                "must hold a list of values, and as many probabilities if any",
                "For example {values: [0.1, 1.0]}.",
            )
        return Parameter(name, lambda generator: generator.choices(values, weights)[0], tuple(values))
    low, high = entry.get("min"), entry.get("max")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or low > high:
        raise ConfigError(key, entry, "has neither value, values, nor min and max", "Add one of them.")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = entry.get("distribution", "int_uniform" if whole else "uniform")
    return Parameter(name, _drawer(key, kind, low, high, entry.get("q", 1)))


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
        raise ConfigError(f"{key}.distribution", kind, "is not supported by `fedloge sweep`", remedy)
    return drawers[kind]


def _short(number: float) -> float:
    return float(f"{number:.6g}")
