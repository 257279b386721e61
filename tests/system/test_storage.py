import math

from fedloge.system.storage import without_nan


def test_numbers_that_are_not_finite_become_null_at_every_depth():
    content = {"a": math.nan, "b": [1.5, math.inf, {"c": (-math.inf, 2)}], "d": "nan", "e": True}
    assert without_nan(content) == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "nan", "e": True}
