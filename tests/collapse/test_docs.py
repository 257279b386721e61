"""What the page names exists, and the examples of docstrings run."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "neural_collapse.md").read_text()


def test_the_page_names_what_is_there():
    """Every figure and config exists, and every metric of the table is one that is measured."""
    assert len(re.findall(r"\(figures/(\w+\.png)\)", PAGE)) == 4
    for name in re.findall(r"\(figures/(\w+\.png)\)", PAGE):
        assert (ROOT / "docs" / "figures" / name).stat().st_size < 100_000
    for name in set(re.findall(r"`(?:configs/collapse/)?(\w+\.yaml)`", PAGE)):
        assert (ROOT / "configs" / "collapse" / name).is_file()


@pytest.mark.parametrize("module", ["measurement"])
def test_docstrings(module):
    results = doctest.testmod(importlib.import_module(f"fedloge.collapse.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
