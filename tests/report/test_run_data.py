import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedloge.errors import RunError
from fedloge.report.run_data import Confusion, read_run, read_runs
from fedloge.runs.tables import VIEWS, ModelView


def test_everything_is_read_from_the_files(run_folder):
    run = read_run(run_folder)
    assert (run.name, run.method, len(run.class_names)) == ("first", "FedLoGe", 10)
    assert set(run.class_accuracy) == set(VIEWS)
    assert run.config["model"] == "fedloge.FedLoGe"
    assert run.config["model.gamma"] == 1.0
    assert run.last_step == "realignment"
    assert run.metrics["round"].tolist() == [1, 2, 3, 4]
    assert len(run.clients[ModelView("personal")].client) == 6


def test_the_parts_fit_together(run_folder):
    """Confusion matrix, table by class and summary are three files; they tell the same accuracy."""
    run = read_run(run_folder)
    matrix = run.confusion[ModelView("global")].block(np.arange(10))
    np.testing.assert_allclose(matrix.diagonal() / matrix.sum(1), run.class_accuracy[ModelView("global")])
    assert matrix.diagonal().sum() / matrix.sum() == pytest.approx(run.headline("global")["acc"])
    assert run.clients[ModelView("personal")].accuracy.mean() == pytest.approx(
        run.headline("personal")["acc_mean"], abs=1e-6
    )
    assert run.metrics["global/acc"][-1] == pytest.approx(run.headline("global")["acc"], abs=1e-6)


def test_blocks_of_a_confusion_matrix():
    """Of the matrix (2 1 0 / 0 3 0 / 1 0 0), classes 2 and 0 in that order are (0 1 / 0 2)."""
    cells = np.array([[0, 0, 2], [0, 1, 1], [1, 1, 3], [2, 0, 1]]).T
    matrix = Confusion(*cells, num_classes=3)
    assert matrix.totals().tolist() == [3, 3, 1]
    assert matrix.block(np.array([2, 0])).tolist() == [[0, 1], [0, 2]]
    np.testing.assert_allclose(matrix.shares(np.array([2, 0])), [[0, 1], [0, 2 / 3]])


def test_heads_and_frames(run_folder):
    run = read_run(run_folder)
    (psi,), (phi,) = run.shared_heads, run.client_heads
    weight = load_file(run_folder / "checkpoints" / "last" / "shared.safetensors")["psi.weight"]
    np.testing.assert_allclose(psi.norms["trained"], weight.norm(dim=1), rtol=1e-6)
    np.testing.assert_allclose(psi.norms["final"], np.full(10, 1.7), rtol=1e-6)
    assert (psi.name, phi.name, phi.norms["final"].shape) == ("psi", "phi", (6, 10))
    assert list(run.frames) == ["sse"]
    assert run.frames["sse"].shape == (10, 32)


def test_the_worst_tenth_is_at_least_one_client(run_folder):
    scores = read_run(run_folder).clients[ModelView("personal")]
    assert scores.worst_tenth().tolist() == [int(np.argmin(scores.accuracy))]


def test_a_step_that_changed_nothing_is_left_out(make_run):
    """Fine-tuning leaves the generic model as it was: there is no before to show."""
    path = make_run()
    summary = json.loads((path / "summary.json").read_text())
    summary["before_realignment"]["global"] = summary["global"]
    summary["finalized"] = "fine-tuned"
    (path / "summary.json").write_text(json.dumps(summary))
    run = read_run(path)
    assert run.last_step == "fine-tuning"
    assert not run.changed("global")
    assert run.changed("personal")
    assert ModelView("global", before=True) not in run.class_accuracy
    assert ModelView("personal", before=True) in run.class_accuracy
    assert not any(column.startswith("before_realignment/global/") for column in run.metrics)


def test_classes_of_one_name_are_told_apart(make_run):
    run = read_run(make_run(names=["same", "same", *map(str, range(8))]))
    assert run.class_names[:3] == ["same (0)", "same (1)", "0"]


def test_runs_of_one_name_get_their_parents(make_run):
    paths = [make_run("a/run"), make_run("b/run")]
    assert [run.name for run in read_runs(paths)] == ["a/run", "b/run"]


def test_a_run_given_twice_is_refused(run_folder):
    with pytest.raises(RunError, match="given twice"):
        read_runs([run_folder, run_folder / ".." / run_folder.name])


def test_what_is_no_run(tmp_path, make_run):
    with pytest.raises(RunError, match="is not a run"):
        read_run(tmp_path)
    path = make_run()
    (path / "summary.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        read_run(path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{}"),
        ("summary.json", "["),
        ("partition.json", "{}"),
        ("per_class.csv", "round,view\n1,global\n"),
        ("per_client.csv", "round,view,client\nx,personal,0\n"),
        ("confusion.csv", "view,class,predicted,count\nglobal,99,0,1\n"),
        ("config.yaml", "a: [\n"),
        ("checkpoints/final/state.json", "nonsense"),
        ("checkpoints/last/shared.safetensors", "nonsense"),
    ],
)
def test_damaged_files_are_named_in_one_line(file, content, make_run):
    path = make_run()
    (path / file).write_text(content)
    with pytest.raises(RunError) as error:
        read_run(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_entries_of_the_body_are_no_classifier(run_folder):
    entries = load_file(run_folder / "checkpoints" / "last" / "shared.safetensors")
    assert torch.equal(entries["backbone.fc.weight"], torch.ones(10, 3))
    assert [head.name for head in read_run(run_folder).shared_heads] == ["psi"]
