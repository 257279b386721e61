"""``fedloge sweep``: the runs of a W&B sweep file on this machine, without a server."""

from __future__ import annotations

import itertools
import math
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.checks import check_choice, check_least
from fedloge.config import given_options
from fedloge.errors import ConfigError
from fedloge.experiments.plan import Plan, named, own_seed, read_seeds, seeded, slug, typed
from fedloge.experiments.runner import Cell
from fedloge.experiments.tables import Row
from fedloge.options import FLAGS, Options, arguments, joined, option_name, read_mapping, set_own
from fedloge.runs.measures import COLUMNS, VALIDATION_PREFIX, higher_is_better

METHODS = ("grid", "random")
KEYS: Mapping[str, type] = {
    **{"method": str, "metric": dict, "parameters": dict, "command": list, "program": str, "run_cap": int},
    **{"name": str, "description": str, "project": str, "entity": str},
}
"""Keys of a sweep file; the last four matter to W&B only."""

GOALS = ("minimize", "maximize")
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
    own: dict[str, Any] = {}
    common = set_own(own, overrides, ["seeds"])
    seeds = read_seeds(own["seeds"]) if "seeds" in own else None
    parameters = list(read_parameters(content, str(path)))
    _check_conflicts(parameters, common, seeds)
    run_cap = content.get("run_cap") if run_cap is None else run_cap
    drawn = _drawn(content.get("method"), parameters, run_cap, seed or 0)
    every = ({**settings, SEED: each} for settings in drawn for each in seeds) if seeds else drawn
    before, after = command_words(content.get("command"))
    folder = Path(output_dir or Path("runs") / Path(path).stem)
    metric, maximize = _ranking(content.get("metric", {}))
    return Sweep(
        rows=_rows(itertools.islice(every, run_cap), [*before, *common], after, folder),
        output_dir=folder,
        jobs=jobs,
        parameters=parameters,
        metric=metric,
        maximize=maximize,
    )


def _check_conflicts(parameters: Sequence[Parameter], common: Sequence[str], seeds: Sequence[int] | None) -> None:
    """Require that each option is set by one parameter alone, or by the command line alone."""
    others = {option_name(word): word for word in common} | ({SEED: f"--seeds={seeds}"} if seeds else {})
    for parameter in parameters:
        other = others.setdefault(parameter.name.replace(".init_args", ""), parameter.name)
        if other is not parameter.name:
            raise ConfigError("parameters", parameter.name, f"has no effect beside {other!r}", "Leave one of them out.")


def _ranking(entry: dict[str, Any]) -> tuple[str, bool]:
    """The metric by which settings are ranked, and whether more of it is better; W&B minimises unknown ones."""
    metric = typed(entry, {"name": str, "goal": str}, "metric")
    name = metric.get("name", "global/acc")
    known = name.removeprefix(VALIDATION_PREFIX) in COLUMNS
    goal = metric.get("goal", GOALS[known and higher_is_better(name)])
    check_choice("metric.goal", goal, GOALS)
    return name, goal == GOALS[1]


def _drawn(method: Any, parameters: Sequence[Parameter], run_cap: int | None, seed: int) -> Iterator[Settings]:
    """Combinations of the parameters by grid or random search."""
    check_least("runs", run_cap, 1)
    if method not in METHODS:
        remedy = f"Choose {' or '.join(METHODS)}, or W&B's own `wandb sweep`."
        raise ConfigError("method", method, "is not supported by `fedloge sweep`", remedy)
    if method == "random" and run_cap is None:
        raise ConfigError("run_cap", None, "is missing: random search has no end", "Pass --runs=20.")
    for parameter in parameters:
        if method == "grid" and parameter.values is None:
            remedy = "Give a list of values, or choose method: random."
            raise ConfigError(f"parameters.{parameter.name}", "a range", "has no grid", remedy)
    return _grid(parameters) if method == "grid" else _random(parameters, seed)


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


def _rows(combinations: Iterable[Settings], before: Sequence[str], after: Sequence[str], folder: Path) -> list[Row]:
    """A row for the combinations that differ in their seed only, with a run for each."""
    groups: dict[str, tuple[Settings, Options, list[Cell]]] = {}
    for combination in combinations:
        own = {option: value for option, value in combination.items() if option != SEED}
        name = " ".join(f"{option.rpartition('.')[2]}={value}" for option, value in own.items())
        if name not in groups:
            groups[name] = own, given_options([*before, *arguments(own), *after]), []
        _, options, cells = groups[name]
        options = seeded(options, combination[SEED]) if SEED in combination else options
        cells.append(Cell(name, own_seed(options, DEFAULT_SEED), options, folder / slug(name or "all")))
    return [Row(name, cells, options=own) for name, (own, _, cells) in groups.items()]


def command_words(command: Any) -> tuple[list[str], list[str]]:
    """Options of a sweep's command before and after those of a run, which stand at ``${args}``.

    ``trainer.logger`` is left out, as the results are in the run folders without W&B's server, and so is what only
    changes the output.

    Raises:
        ConfigError: If the command is not ``fedloge fit ... ${args}``.
    """
    shape = "Write [fedloge, fit, --config, FILE, ${args}]."
    words = [re.sub(r"\$\{envvar:(\w*)\}", lambda m: os.environ.get(m[1], m[1]), str(word)) for word in command or ()]
    words = joined(words[words.index("fit") + 1 :], FLAGS) if "fit" in words else []
    if "${args}" not in words:
        raise ConfigError("command", command, "is not a `fedloge fit` with ${args}", shape)
    words = [word for word in words if not re.match("--(trainer.logger|log_format|quiet|resume)", word)]
    place = words.index("${args}")
    if any(word.startswith("--config") for word in words[place:]):
        raise ConfigError("command", command, "has options before --config, which would replace them", shape)
    return words[:place], words[place + 1 :]


def read_parameters(content: Options, where: str, prefix: str = "") -> Iterator[Parameter]:
    """Parameters of a sweep file; W&B's nested ``parameters`` have dotted names.

    Raises:
        ConfigError: If one is malformed.
    """
    for name, entry in named(content, "parameters", {}, where).items():
        if "parameters" in entry:
            inner = f"parameters.{prefix}{name}"
            yield from read_parameters(typed(entry, {"parameters": dict}, inner), inner, f"{prefix}{name}.")
        else:
            yield read_parameter(f"{prefix}{name}", entry)


def read_parameter(name: str, entry: Options) -> Parameter:
    """Read a parameter of a sweep file: ``value``, ``values`` with ``probabilities``, or ``min`` and ``max``.

    Draws from a range are uniform (whole numbers if both ends are), or follow its ``distribution``: ``uniform``,
    ``int_uniform``, ``q_uniform`` (in steps of ``q``) or ``log_uniform_values``. They are rounded to six digits.

    Raises:
        ConfigError: If the entry has another form.
    """
    key = f"parameters.{name}"
    if "value" not in entry and "values" not in entry:
        return Parameter(name, _drawer(key, entry))
    values, weights = entry.get("values", [entry.get("value")]), entry.get("probabilities")
    if not isinstance(values, list) or not values or not _are_weights(weights, len(values)):
        problem = "must hold a list of values, and as many probabilities if any"
        raise ConfigError(key, entry, problem, "For example {values: [0.1, 1.0]}.")
    if None in values:
        raise ConfigError(key, entry, "holds null, which `wandb agent` passes as None", 'Write "null", in quotes.')
    if name == SEED:
        read_seeds(values)
    if "value" in entry:
        return Parameter(name, lambda generator: values[0], tuple(values))
    return Parameter(name, lambda generator: generator.choices(values, weights)[0], tuple(values))


def _are_weights(weights: Any, count: int) -> bool:
    """Whether there are probabilities for so many values, or none at all."""
    if weights is None:
        return True
    known = isinstance(weights, list) and len(weights) == count and all(map(_is_number, weights))
    return known and min(weights) >= 0 and sum(weights) > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _drawer(key: str, entry: Options) -> Callable[[random.Random], Any]:
    """Draws from a range."""
    low, high, step = (entry.get(name, default) for name, default in (("min", math.nan), ("max", math.nan), ("q", 1)))
    if not (_is_number(low) and _is_number(high) and low <= high and _is_number(step) and step > 0):
        remedy = "Add one of them; q, if any, must be positive."
        raise ConfigError(key, entry, "has neither value, values, nor numbers min and max", remedy)
    whole = isinstance(low, int) and isinstance(high, int)
    kind = entry.get("distribution", "int_uniform" if whole else "uniform")
    if kind == "log_uniform_values" and low <= 0:
        raise ConfigError(f"{key}.min", low, "must be positive for log_uniform_values", "Choose a small number.")
    drawers: dict[str, Callable[[random.Random], Any]] = {
        "int_uniform": lambda generator: generator.randint(int(low), int(high)),
        "uniform": lambda generator: _short(generator.uniform(low, high)),
        "q_uniform": lambda generator: _short(round(generator.uniform(low, high) / step) * step),
        "log_uniform_values": lambda generator: _short(math.exp(generator.uniform(math.log(low), math.log(high)))),
    }
    check_choice(f"{key}.distribution", kind, list(drawers))
    return drawers[kind]


def _short(number: float) -> float:
    return float(f"{number:.6g}")
