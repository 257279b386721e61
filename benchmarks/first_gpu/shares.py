"""A pytest plugin that runs a share of the chosen tests: ``pytest -p benchmarks.first_gpu.shares --share 1/4``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--share``."""
    parser.addoption("--share", default="1/1", help="N/M: every M-th of the chosen tests from the N-th")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the share of what ``-m`` and ``-k`` have left."""
    number, shares = map(int, config.getoption("--share").split("/"))
    kept = items[number - 1 :: shares]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
