"""The line about long work."""

import io
import sys
import time

import pytest

from fedloge.system import live
from fedloge.system.live import Line, drawn, duration, suspend, text, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_what_how_far_and_how_long(clock):
    with Line("models", 4) as models:
        assert text() == ""
        clock[0] += 10
        assert text() == "models 0/4, 10 s so far"
        models.advance()
        with Line("reading"):
            assert text() == "models 1/4: reading, 30 s left"
        with Line("steps", 100) as steps:
            clock[0] += 10
            steps.advance(50)
            assert text() == "models 1/4: steps 50/100, 60 s left"
    assert text() == ""


def test_items_are_tracked(clock):
    seen = []
    for item in track([3, 5], "images", 8, steps=lambda item: item):
        clock[0] += 10
        seen.append((item, text()))
    assert seen == [(3, "images 0/8, 10 s so far"), (5, "images 3/8, 33 s left")]
    assert list(track(iter(range(3)), "items")) == [0, 1, 2]
    assert not live._open


def test_a_loop_that_is_left_closes_its_line():
    for _ in track(range(3), "items"):
        break
    assert not live._open


@pytest.mark.parametrize(("seconds", "expected"), [(0, "0 s"), (119, "119 s"), (600, "10 min"), (7200, "2.0 h")])
def test_times_in_words(seconds, expected):
    assert duration(seconds) == expected


def drawn_on(stream, monkeypatch, work):
    monkeypatch.setattr(sys, "stderr", stream)
    for name in ("FIRST", "NEXT", "REDRAW", "BRIEF"):
        monkeypatch.setattr(live, name, 0.01)
    with drawn():
        work()
    return stream.getvalue()


def work():
    """Work until it was drawn, which takes some hundredths of a second."""
    with Line("work", 2) as line:
        line.advance()
        deadline = time.monotonic() + 30
        while "work" not in sys.stderr.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)


def test_plain_lines_without_a_terminal(monkeypatch):
    lines = drawn_on(io.StringIO(), monkeypatch, work).splitlines()
    assert lines
    assert all(line.startswith("work 1/2, ") for line in lines)


def test_a_terminal_is_drawn_over_and_left_clean(monkeypatch):
    shown = drawn_on(Terminal(), monkeypatch, work)
    assert shown.startswith(live.CLEAR + "work 1/2")
    assert shown.endswith(live.CLEAR)


def test_nothing_is_drawn_beside_another_view_or_about_nothing(monkeypatch):
    def suspended():
        suspend(True)
        with Line("work", 2):
            time.sleep(0.1)

    assert drawn_on(Terminal(), monkeypatch, suspended) == ""
    assert not live._suspended.is_set()
    assert drawn_on(io.StringIO(), monkeypatch, lambda: time.sleep(0.05)) == ""
