import time

from fedloge.system import profiling
from fedloge.system.profiling import Profile


def test_a_second_belongs_to_the_innermost_part(monkeypatch):
    """Outer runs 1 s, inner 2 s, outer 4 s: 5 s and 2 s, in the order in which the parts ended."""
    clock = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(clock))
    profile = Profile()
    with profile.part("outer"), profile.part("inner"):
        pass
    assert list(profile.seconds.items()) == [("inner", 2.0), ("outer", 5.0)]


def test_time_between_parts_belongs_to_none(monkeypatch):
    clock = iter([0.0, 1.0, 50.0, 52.0])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(clock))
    profile = Profile()
    for _ in range(2):
        with profile.part("part"):
            pass
    assert profile.seconds == {"part": 3.0}


def test_waiting_for_items_is_not_counted_where_they_are_used():
    def slow():
        for item in range(3):
            time.sleep(0.02)
            yield item

    profile = Profile()
    with profile.part("use"):
        assert list(profile.waiting(slow(), "wait")) == [0, 1, 2]
    assert profile.seconds["wait"] >= 0.06
    assert profile.seconds["use"] < 0.02
