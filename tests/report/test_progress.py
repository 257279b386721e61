import io

import pytest
from rich.console import Console

from fedloge.report.progress import redraws


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("forced", [False, True])
def test_colour_that_is_asked_for_makes_no_terminal(monkeypatch, forced):
    """Jupyter sets FORCE_COLOR for the commands of a cell, whose output it cannot draw over."""
    monkeypatch.setenv("TERM", "xterm-color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
    assert redraws(Console(file=Terminal()))
    assert not redraws(Console(file=io.StringIO()))
