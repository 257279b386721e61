import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from plotly import graph_objects

from fedloge.plotting import MAX_CLASSES, percent
from fedloge.report import headline, page
from fedloge.report.figures import classes, clients, curves, heads
from fedloge.report.run_data import read_run, read_runs
from fedloge.runs.tables import ModelView


@pytest.fixture
def run(run_folder):
    return read_run(run_folder)


def panels(runs):
    return [
        cell.panel for section in page.sections(runs) for row in section.rows for cell in row if cell.panel is not None
    ]


VARIANTS = {
    "realigned": {},
    "plain": {"realigned": False},
    "only personal models": {"views": ("personal",)},
    "only a generic model": {"views": ("global",), "realigned": False},
    "one round": {"rounds": 1},
    "many classes": {"num_classes": 250, "num_clients": 3, "realigned": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_plotly_accepts_every_figure(variant, make_run):
    found = panels([read_run(make_run(**VARIANTS[variant]))])
    for panel in found:
        figure = graph_objects.Figure({"data": list(panel.data), "layout": panel.layout})
        for option in panel.control.options if panel.control else ():
            figure.update_layout({name.replace(".", "_"): value for name, value in option.layout.items()})
        json.dumps([panel.data, panel.layout], allow_nan=False)
    assert len({panel.key for panel in found}) == len(found)


def test_plotly_accepts_runs_side_by_side(make_run):
    first, second = make_run("a"), make_run("b", realigned=False)
    keys = [panel.key for panel in panels(read_runs([first, second]))]
    assert len(set(keys)) == len(keys)
    assert {"curves-global", "classes-global-0", "classes-global-1", "clients-1", "confusion-personal-1"} <= set(keys)
    assert [key for key in keys if key.startswith("partition")] == ["partition-0"]
    assert [key for key in keys if key.startswith("frame")] == ["frame-0-sse"]


def same_at_the_end(run):
    """The run if realignment had no effect in the last round."""
    metrics = {name: values.copy() for name, values in run.metrics.items()}
    for name, values in metrics.items():
        if name.startswith("before_realignment/"):
            values[-1] = metrics[name.removeprefix("before_realignment/")][-1]
    parts = {view: run.summary[view] for view in ("global", "personal")}
    accuracy = {view: run.class_accuracy[ModelView(view.model)] for view in run.class_accuracy}
    summary = {**run.summary, "before_realignment": parts}
    return replace(run, metrics=metrics, summary=summary, class_accuracy=accuracy)


def test_both_curves_stay_where_they_end_at_the_same_value(run):
    for panel in curves.learning_curves([same_at_the_end(run)]):
        assert [trace["name"] for trace in panel.data] == ["after realignment", "as trained"]
        after, before = (trace["y"] for trace in panel.data)
        assert after[-1] == before[-1]
        assert after[0] != before[0]
        assert len({trace["legendgroup"] for trace in panel.data}) == 2


def test_a_step_without_any_effect_has_no_curve(run):
    columns = {name: name.removeprefix("before_realignment/") for name in run.metrics}
    idle = same_at_the_end(run)
    idle = replace(idle, metrics={name: run.metrics[column] for name, column in columns.items()})
    for panel in curves.learning_curves([idle]):
        assert [trace["name"] for trace in panel.data] == ["as trained"]


def test_what_only_rounding_leaves_of_a_zero_is_zero(run):
    """SSE-C solved to the last bit: its variances are those of float32."""
    frame = torch.nn.functional.normalize(torch.eye(4) - 0.25).float()
    exact = replace(run, frames={"sse": frame}, class_names=list("abcd"))
    rows = {name: value for name, value, _ in heads.frame_rows(exact, "sse")}
    assert [rows[name] for name in ("row norm, variance", "angle, variance", "largest error of a cosine")] == ["0"] * 3
    rough = replace(run, frames={"sse": frame + torch.tensor([[0.01, 0, 0, 0]] * 4)}, class_names=list("abcd"))
    assert "e-0" in dict(row[:2] for row in heads.frame_rows(rough, "sse"))["largest error of a cosine"]
    assert heads.frame(run, "sse", "key").title == "Cosines between the classes of SSE‑C"


def test_bars_hold_the_accuracies_most_frequent_class_first(run):
    panel = classes.class_accuracy(run, "global", "key")
    bars = {name: y for trace in panel.data[:3] for name, y in zip(trace["x"], trace["y"], strict=True)}
    accuracy = run.class_accuracy[ModelView("global")]
    np.testing.assert_allclose([bars[name] for name in run.class_names], accuracy, atol=1e-4)
    assert [trace["name"] for trace in panel.data] == ["many", "medium", "few", "before"]
    assert panel.layout["xaxis"]["categoryarray"] == [run.class_names[c] for c in np.argsort(-run.class_counts)]
    assert "global test set, round 4" in panel.caption


def test_bars_can_be_sorted(run):
    options = {o.label: o.layout for o in classes.class_accuracy(run, "global", "key").control.options}
    order = [run.class_names.index(name) for name in options["accuracy"]["xaxis.categoryarray"]]
    assert np.all(np.diff(run.class_accuracy[ModelView("global")][order]) <= 0)
    gain = run.class_accuracy[ModelView("global")] - run.class_accuracy[ModelView("global", before=True)]
    order = [run.class_names.index(name) for name in options["gain by realignment"]["xaxis.categoryarray"]]
    assert np.all(np.diff(gain[order]) <= 1e-9)


def test_rows_of_the_confusion_matrix_add_up_to_one(run):
    panel = classes.confusion(run, "global", "key")
    np.testing.assert_allclose(np.sum(panel.data[0]["z"], axis=1), 1, atol=0.01)
    assert [option.label for option in panel.control.options] == ["after realignment", "before realignment"]


def test_the_worst_client_is_named(run):
    scores = run.clients[ModelView("personal")]
    worst = int(np.argmin(scores.accuracy))
    panel = clients.client_accuracy(run, "key")
    assert f"Worst tenth: client {scores.client[worst]} ({percent(scores.accuracy[worst])} of" in panel.caption
    assert panel.data[1]["x"] == [str(scores.client[worst])]


def test_the_heat_map_holds_the_partition(run):
    trace = clients.partition(run, "key").data[0]
    assert np.array_equal(trace["customdata"], run.partition.train_counts[:, run.by_count])
    np.testing.assert_allclose(trace["z"], np.log10(1 + np.array(trace["customdata"])), atol=1e-3)


def test_images_of_a_chosen_client(run):
    panel = clients.client_images(run, "key")
    option = panel.control.options[2]
    *train, test = option.data["y"]
    assert option.label == "client 2"
    assert test == run.partition.test_counts[2, run.by_count].tolist()
    assert [n for bars in train for n in bars] == run.partition.train_counts[2, run.by_count].tolist()
    assert [trace["name"] for trace in panel.data] == ["many", "medium", "few", "test"]


def test_norms_of_a_chosen_client(run):
    panel = heads.client_norms(run, "key")
    option = panel.control.options[3]
    assert option.label == "client 3"
    np.testing.assert_allclose(option.data["y"][1], run.client_heads[0].norms["final"][3], atol=1e-4)
    assert option.data["customdata"][0] == run.partition.train_counts[3].tolist()


def test_the_frame_is_equiangular(run):
    cosines = np.array(heads.frame(run, "sse", "key").data[0]["z"])
    np.testing.assert_allclose(cosines[~np.eye(10, dtype=bool)], -1 / 9, atol=1e-3)
    rows = {name: (value, ideal) for name, value, ideal in heads.frame_rows(run, "sse")}
    assert rows["angle, mean"] == ("96.379°", "96.379°")
    assert rows["share of zeros"][0] == "0.500"


def test_heat_maps_of_many_classes_are_thinned_and_say_so(make_run):
    run = read_run(make_run(num_classes=250, num_clients=3, realigned=False))
    panel = clients.partition(run, "key")
    assert len(panel.data[0]["x"]) == MAX_CLASSES
    assert "200 of the 250 classes are shown" in panel.caption


def test_a_step_after_the_last_round_alone_does_not_move_the_rounds_before(run):
    run.metrics["before_realignment/personal/acc_mean"][:-1] = np.nan
    after = curves.stage_values(run, ModelView("personal"), "acc_mean")
    before = curves.stage_values(run, ModelView("personal", before=True), "acc_mean")
    assert np.isnan(after[:-1]).all()
    assert not np.isnan(before).any()
    assert after[-1] == run.metrics["personal/acc_mean"][-1]


def test_headline_numbers(run):
    cards = {card.title: card for card in headline.cards(run)}
    assert cards["Generic model (GM)"].value == percent(run.summary["global"]["acc"])
    assert cards["Worst tenth"].value == percent(run.summary["personal"]["acc_worst_decile"])
    assert "MB up" in cards["Time of a round"].details[0]


def test_runs_that_differ_in_the_seed_alone_are_averaged(make_run):
    runs = read_runs([make_run("a", seed=1), make_run("b", seed=2), make_run("c", realigned=False, config="x: 1\n")])
    table = headline.tables(runs)[-1]
    assert table.title.startswith("Mean ± sample standard deviation")
    assert [row[:3] for row in table.rows] == [
        ["FedLoGe", "2 seeds", "as trained"],
        ["FedLoGe", "2 seeds", "after realignment"],
    ]
    values = [100 * run.summary["global"]["acc"] for run in runs[:2]]
    assert table.rows[1][3] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} %"


def test_what_makes_runs_incomparable_is_said(make_run):
    runs = read_runs(
        [make_run("a"), make_run("b", num_clients=4, mask_absent="train", rounds=3, privileged=["class_counts"])]
    )
    text = " ".join(headline.warnings(runs))
    assert "b: privileged knowledge, the server knows all clients' class counts." in text
    assert "b: privileged knowledge, in personal models classes absent from a client's training data are masked" in text
    assert "not made on the same partition" in text
    assert "different numbers of rounds: 3, 4" in text
    assert headline.warnings(runs[:1]) == []
