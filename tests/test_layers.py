"""Imports run downwards: a module imports only from its own layer or from those below, also inside functions."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "fedloge"
LAYERS = [
    ("errors",),
    ("checks", "help", "markup", "options"),
    ("plotting", "tables"),
    ("system", *(f"federation.{name}" for name in ("sampling", "seeding", "flat", "state", "aggregation"))),
    ("etf", "losses", "realign", "models"),
    ("methods",),
    ("data",),
    ("federation", "evaluation", "callbacks"),
    ("executors",),
    ("runs",),
    ("preflight", "tracking", "federation.settings"),
    ("federation.progress", "federation.round", "federation.parts", "federation.lasting", "federation.results"),
    ("federation.assembly",),
    ("federation.selection",),
    ("trainer",),
    ("report",),
    ("config",),
    ("inference.predictor",),
    ("runs.run",),
    ("inference",),
    ("collapse",),
    ("analysis",),
    ("experiments",),
    ("cli", "__main__", ""),
]
"""From bottom to top, without ``fedloge.``; the longest name that a module's name begins with counts."""

RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def module_name(path):
    """The name of a file's module without ``fedloge.``, which is empty for the package's own ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported_modules(node):
    """The modules of fedloge that are imported at or below a node, except those only for the type checker."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return {name for child in node.orelse for name in imported_modules(child)}
    found = {name for child in ast.iter_child_nodes(node) for name in imported_modules(child)}
    if isinstance(node, ast.Import):
        found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "fedloge"}
    elif isinstance(node, ast.ImportFrom) and node.level:
        raise NotImplementedError("this check reads absolute imports only")
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fedloge":
        package = node.module.partition(".")[2]
        names = [f"{package}.{alias.name}".lstrip(".") for alias in node.names]
        found |= {name if name in FILES else package for name in names}
    return found


IMPORTS = {name: imported_modules(ast.parse(path.read_text(encoding="utf-8"))) for name, path in FILES.items()}


def rank(name):
    """The layer of a module, or None where the table does not name it."""
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((RANKS[prefix] for prefix in prefixes if prefix in RANKS), None)


def arrow(first, second):
    return " -> ".join(str(FILES[name].relative_to(ROOT)) for name in (first, second))


def reachable(start):
    """The modules that a module imports, directly or through others."""
    seen, waiting = set(), [start]
    while waiting:
        fresh = IMPORTS[waiting.pop()] - seen
        seen |= fresh
        waiting += fresh
    return seen


def test_every_module_belongs_to_a_layer():
    missing = [str(path.relative_to(ROOT)) for name, path in FILES.items() if rank(name) is None]
    assert not missing, "\n".join(["LAYERS does not name these files:", *missing])


def test_imports_run_downwards():
    known = [(first, second) for first in FILES for second in IMPORTS[first] if None not in (rank(first), rank(second))]
    upwards = [arrow(first, second) for first, second in known if rank(second) > rank(first)]
    assert not upwards, "\n".join(["these imports run upwards:", *sorted(upwards)])


def test_no_file_imports_itself_through_others():
    reached = {name: reachable(name) for name in FILES}
    circular = [(first, second) for first in FILES for second in IMPORTS[first] if first in reached[second] | {second}]
    assert not circular, "\n".join(["these imports close a circle:", *sorted(arrow(*pair) for pair in circular)])
