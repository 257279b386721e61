import json

import pytest
from lightning import seed_everything

from conftest import tiny_source
from fedloge import FedAvg
from fedloge.data import FederatedDataModule
from fedloge.errors import ConfigError
from fedloge.federation.selection import check_metric
from fedloge.models import SmallCNN
from fedloge.runs.folder import RunFolder
from tiny_runs import content, run_tiny

METRIC = "val/global/acc"


def fit(folder, rounds=4, val_fraction=0.2, keep_best=METRIC, **options):
    data = FederatedDataModule(
        tiny_source(), num_clients=3, imbalance_factor=None, batch_size=8, alpha=1.0, val_fraction=val_fraction
    )
    seed_everything(0, verbose=False)
    method = FedAvg(SmallCNN((6,), in_channels=1), 3, lr=0.3)
    return run_tiny(folder, method=method, data=data, rounds=rounds, evaluate_every=1, keep_best=keep_best, **options)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "run"
    fit(folder)
    return RunFolder(folder)


def best_row(folder, metric=METRIC):
    return max(folder.rows("metrics.csv"), key=lambda row: float(row[metric]))


def test_the_round_with_the_best_validation_is_kept(kept):
    """Its test results are those that the round had; the headline is the last round's."""
    rows, summary, best = kept.rows("metrics.csv"), kept.read_json("summary.json"), best_row(kept)
    selected = summary["selected"]
    assert (selected["round"], selected["metric"]) == (int(best["round"]), METRIC)
    assert selected["value"] == float(best[METRIC])
    assert selected["global"]["acc"] == pytest.approx(float(best["global/acc"]), abs=1e-6)
    assert summary["global"]["acc"] == pytest.approx(float(rows[-1]["global/acc"]), abs=1e-6)
    assert summary["val"]["global"]["acc"] == pytest.approx(float(rows[-1][METRIC]), abs=1e-6)
    for name in ("best", "best-final"):
        assert kept.checkpoints.load(name).round == int(best["round"])


def test_a_stopped_and_resumed_run_keeps_the_same_round(kept, tmp_path):
    fit(tmp_path / "run", rounds=2)
    fit(tmp_path / "run", ckpt_path="last")
    stopped, whole = content(tmp_path / "run"), content(kept.path)
    for name in ("metrics.csv", "summary.json", "checkpoints/best/shared.safetensors"):
        assert stopped[name] == whole[name]


def test_without_validation_images_it_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.keep_best='val/global/acc' but no client has validation images"):
        fit(tmp_path / "run", val_fraction=0.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("global/acc", r"is no validation result; test data select nothing. Choose val/global/acc"),
        ("val/global/accuracy", r"is unknown. Did you mean 'val/global/acc'"),
    ],
)
def test_other_metrics_are_refused(metric, message):
    with pytest.raises(ConfigError, match=message):
        check_metric(metric)


def test_the_measure_that_is_better_when_smaller(tmp_path):
    """The spread between clients: the round with the smallest is chosen."""
    fit(tmp_path / "run", rounds=3, keep_best="val/personal/acc_std")
    folder = RunFolder(tmp_path / "run")
    smallest = min(folder.rows("metrics.csv"), key=lambda row: float(row["val/personal/acc_std"]))
    assert json.loads((folder.path / "summary.json").read_text())["selected"]["round"] == int(smallest["round"])
