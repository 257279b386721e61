import pytest
import torch

from fedloge.evaluation.evaluator import Evaluation
from fedloge.runs.tables import VIEWS, ModelView, confusion_rows


def test_confusion_rows_are_the_cells_that_are_not_zero():
    evaluation = Evaluation(torch.tensor([[3, 0], [1, 2]]), None, (), ("many", "few"))
    rows = confusion_rows(evaluation, before=True)
    name = "global_before"
    assert [tuple(row.values()) for row in rows] == [(name, 0, 0, 3), (name, 1, 0, 1), (name, 1, 1, 2)]


def test_a_view_is_found_by_its_name():
    assert [ModelView.parse(view.name) for view in VIEWS] == list(VIEWS)
    with pytest.raises(ValueError, match="'generic' is not one of global, global_before, personal, personal_before"):
        ModelView.parse("generic")
