"""Packages that seem not to be installed: a ``sitecustomize`` hides them from imports and from metadata."""

import os
from pathlib import Path

HIDE = """
import importlib.machinery, importlib.metadata

MODULES, DISTRIBUTIONS = {modules!r}, {distributions!r}
Finder = importlib.machinery.PathFinder
find_spec, find_distributions = Finder.find_spec, Finder.find_distributions

def visible(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in MODULES else find_spec(name, path, target)

def others(cls, *args, **options):
    return (found for found in find_distributions(*args, **options) if found.metadata["Name"] not in DISTRIBUTIONS)

Finder.find_spec, Finder.find_distributions = classmethod(visible), classmethod(others)
"""


def without(folder: Path, source: Path, modules: set[str], distributions: set[str]) -> dict[str, str]:
    """Environment variables of a process that runs a checkout which is not installed.

    Args:
        folder: Folder for the ``sitecustomize``.
        source: ``src`` of the checkout.
        modules: Modules that cannot be imported.
        distributions: Packages without metadata.
    """
    text = HIDE.format(modules=modules, distributions=modules | distributions)
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder, source)))}
