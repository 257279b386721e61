import csv
import json

import pytest
import torch

from broken import Locked
from fedloge import FedAvg, FederatedCallback, FederatedTrainer, FedLoGe
from fedloge.errors import ConfigError, RunError
from fedloge.executors import Processes
from fedloge.executors.processes import num_cores
from fedloge.models import SmallCNN
from fedloge.runs.folder import RunFolder

TIMES = ("time/round_s",)


def run(folder, make_data, method=FedLoGe, method_options=None, callbacks=None, data_options=None, **options):
    torch.manual_seed(0)
    defaults = {"beta": 0.3, "gamma": 1.0} if method is FedLoGe else {}
    model = method(SmallCNN((6,), in_channels=1), 3, **(defaults | (method_options or {})))
    settings = {"rounds": 3, "local_epochs": 1, "accelerator": "cpu", "run_dir": str(folder)} | options
    trainer = FederatedTrainer(callbacks=callbacks, **settings)
    trainer.fit(model, datamodule=make_data(**(data_options or {"num_clients": 3})))
    return trainer


def rows(path):
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def tensors(folder):
    names = ("last", "final")
    paths = sorted(path for name in names for path in (folder / "checkpoints" / name).glob("*.safetensors"))
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_a_method_that_cannot_be_copied_is_trained(tmp_path, make_data):
    trainer = run(tmp_path / "run", make_data, Locked, rounds=1)
    assert trainer.cost.seconds_round is None
    assert trainer.cost.line(1).startswith("0.0 MB exchanged a round")


@pytest.mark.parametrize(
    "part", ["method", "data", "population", "executor", "evaluator", "folder", "progress", "cost"]
)
def test_a_trainer_without_a_run_says_so(part):
    with pytest.raises(RuntimeError, match="the trainer has no run yet"):
        getattr(FederatedTrainer(accelerator="cpu"), part)


def test_the_run_folder(tmp_path, make_data):
    run(tmp_path / "run", make_data)
    found = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert found == {
        ".lock",
        "data.json",
        "environment.json",
        "partition.json",
        "metrics.csv",
        "per_class.csv",
        "per_client.csv",
        "confusion.csv",
        "summary.json",
        *(f"checkpoints/{name}/{part}" for name in ("last", "final") for part in (
            "shared.safetensors", "clients.safetensors", "state.json"
        )),
    }  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["method"] == "FedLoGe"
    assert summary["rounds"] == 3
    metrics = rows(tmp_path / "run" / "metrics.csv")
    assert [row["round"] for row in metrics] == ["1", "2", "3"]
    assert float(metrics[-1]["global/acc"]) == pytest.approx(summary["global"]["acc"], abs=1e-6)
    assert float(metrics[-1]["before_realignment/personal/acc_mean"]) == pytest.approx(
        summary["before_realignment"]["personal"]["acc_mean"], abs=1e-6
    )
    mean = sum(float(row["global/acc"]) for row in metrics) / 3
    assert summary["last10"]["global"]["mean"] == pytest.approx(mean, abs=1e-6)
    best = max(float(row["global/acc"]) for row in metrics)
    assert summary["best"]["global"]["value"] == best


def test_tables_agree_with_the_summary(tmp_path, make_data):
    run(tmp_path / "run", make_data)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    classes = [row for row in rows(tmp_path / "run" / "per_class.csv") if row["round"] == "3"]
    for view, expected in (("global", summary["global"]), ("global_before", summary["before_realignment"]["global"])):
        own = [row for row in classes if row["view"] == view]
        assert sum(float(row["accuracy"]) for row in own) / 3 == pytest.approx(expected["acc"], abs=1e-6)
    clients = [r for r in rows(tmp_path / "run" / "per_client.csv") if (r["round"], r["view"]) == ("3", "personal")]
    accuracies = [float(row["accuracy"]) for row in clients]
    assert sum(accuracies) / 3 == pytest.approx(summary["personal"]["acc_mean"], abs=1e-6)
    assert min(accuracies) == pytest.approx(summary["personal"]["acc_worst_decile"], abs=1e-6)


@pytest.mark.parametrize("method", [FedAvg, FedLoGe])
def test_same_seed_same_files_to_the_bit(tmp_path, make_data, method):
    options = {"participation": 0.7, "data_options": {"num_clients": 3, "augment": "crop_flip"}}
    for name in ("a", "b"):
        torch.rand(7)  # the global generator must not matter once the weights are drawn
        run(tmp_path / name, make_data, method, **options)
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")
    for name in ("metrics.csv", "per_class.csv", "per_client.csv", "partition.json"):
        assert rows(tmp_path / "a" / name) == rows(tmp_path / "b" / name)
    run(tmp_path / "c", make_data, method, seed=1, **options)
    assert tensors(tmp_path / "a") != tensors(tmp_path / "c")


def test_more_frequent_evaluation_and_saving_change_nothing(tmp_path, make_data):
    run(tmp_path / "a", make_data, evaluate_every=1, checkpoint_every=1)
    run(tmp_path / "b", make_data, evaluate_every=3, checkpoint_every=3)
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")


def test_fedavg_has_no_before_and_after(tmp_path, make_data):
    run(tmp_path / "run", make_data, FedAvg)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["before_realignment"] is None
    assert not any(key.startswith("before") for key in rows(tmp_path / "run" / "metrics.csv")[0])


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_traffic_is_counted(tmp_path, make_data, precision):
    trainer = run(tmp_path / "run", make_data, FedLoGe, rounds=2, precision=precision)
    shared = sum(t.numel() * t.element_size() for t in trainer.method.shared_state().tensors.values())
    fixed = sum(t.numel() * t.element_size() for t in trainer.method.shared_state().fixed.values())
    first, second = rows(tmp_path / "run" / "metrics.csv")
    assert int(first["comm/bytes_up"]) == int(second["comm/bytes_down"]) == 3 * shared
    assert int(first["comm/bytes_down"]) == 3 * (shared + fixed)


def test_finetuning_counts_in_the_last_row(tmp_path, make_data):
    for name, epochs in (("a", 0), ("b", 5)):
        run(tmp_path / name, make_data, method_options={"finetune_epochs": epochs})
    plain, tuned = (rows(tmp_path / name / "metrics.csv") for name in ("a", "b"))
    assert plain[:2] == tuned[:2]
    files = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    changed = {str(path) for path in files[0] if files[0][path] != files[1][path]}
    assert changed == {"checkpoints/final/clients.safetensors"}


def test_mask_absent_never_predicts_an_absent_class(tmp_path, make_data):
    options = {"data_options": {"num_clients": 3, "alpha": 0.05}}
    run(tmp_path / "off", make_data, **options)
    run(tmp_path / "on", make_data, mask_absent="train", **options)
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("off", "on")]
    assert summaries[1]["mask_absent"] == "train"
    assert summaries[1]["global"] == summaries[0]["global"]
    assert summaries[1]["personal"]["acc_mean"] >= summaries[0]["personal"]["acc_mean"]


def test_another_trainer_does_not_change_the_threads(tmp_path, make_data):
    class Count(FederatedCallback):
        def on_client_end(self, trainer, round, client):
            seen.add(torch.get_num_threads())

    seen = set()
    first = FederatedTrainer(1, 1, threads=2, accelerator="cpu", run_dir=str(tmp_path / "run"), callbacks=[Count()])
    FederatedTrainer(threads=3)
    first.fit(FedAvg(SmallCNN((6,), in_channels=1), 3), datamodule=make_data())
    assert seen == {2}


@pytest.mark.filterwarnings("ignore:trainer.executor.workers=1000 is more than")
def test_no_more_threads_than_cores_test_a_model(tmp_path, make_data):
    trainer = run(tmp_path / "run", make_data, rounds=1, executor=Processes(1000))
    assert trainer.evaluator.threads == num_cores()


def test_callbacks_are_called_for_every_event(tmp_path, make_data):
    class Listener(FederatedCallback):
        def __init__(self):
            self.heard = []

        def on_round_start(self, trainer, round, cohort):
            self.heard.append(("start", round, cohort))

        def on_client_end(self, trainer, round, client):
            self.heard.append(("client", round, client))

        def on_round_end(self, trainer, round, metrics):
            self.heard.append(("end", round, bool(metrics)))

    listener = Listener()
    run(tmp_path / "run", make_data, FedAvg, rounds=1, callbacks=[listener])
    clients = [("client", 1, k) for k in range(3)]
    assert listener.heard == [("start", 1, [0, 1, 2]), *clients, ("end", 1, True)]


def test_an_older_run_is_kept_unless_asked(tmp_path, make_data):
    run(tmp_path / "run", make_data, rounds=1)
    before = (tmp_path / "run" / "summary.json").read_bytes()
    with pytest.raises(RunError, match=r"already holds a run.*trainer\.overwrite"):
        run(tmp_path / "run", make_data, rounds=1)
    with pytest.raises(ConfigError, match="num_clients"):  # overwriting, but the new run cannot start
        run(tmp_path / "run", make_data, overwrite=True, data_options={"num_clients": 10_000})
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    run(tmp_path / "run", make_data, rounds=2, overwrite=True)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 2


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, make_data):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not a run"):
        run(tmp_path, make_data, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("option", "value"),
    [("rounds", 0), ("participation", 0.0), ("participation", 1.5), ("local_epochs", 0), ("seed", -1),
     ("checkpoint_every", 0), ("accelerator", "abacus")],
)  # fmt: skip
def test_bad_values_name_the_option(option, value):
    with pytest.raises(ConfigError, match=rf"trainer\.{option}="):
        FederatedTrainer(**{option: value})


def test_model_and_data_must_fit(tmp_path, make_data):
    trainer = FederatedTrainer(run_dir=str(tmp_path / "run"), accelerator="cpu")
    with pytest.raises(ConfigError, match=r"in_channels=3 but the images have 1 channel"):
        trainer.fit(FedAvg(SmallCNN((6,), in_channels=3), 3), datamodule=make_data())
    with pytest.raises(ConfigError, match=r"num_classes=4 but the data have 3"):
        trainer.fit(FedAvg(SmallCNN((6,), in_channels=1), 4), datamodule=make_data())
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_learns_what_the_cpu_learns(tmp_path, make_data):
    for name in ("cpu", "cuda"):
        run(tmp_path / name, make_data, accelerator=name)
    first, second = (RunFolder(tmp_path / name).checkpoints.load("last").shared.tensors for name in ("cpu", "cuda"))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_profile_accounts_for_the_rounds_time(tmp_path, make_data, executor):
    run(tmp_path / "run", make_data, rounds=2, checkpoint_every=1, profile=True, executor=executor)
    profile, metrics = (RunFolder(tmp_path / "run").rows(f"{name}.csv") for name in ("profile", "metrics"))
    for parts, round in zip(profile, metrics, strict=True):
        wall = {name: float(value) for name, value in parts.items() if name.startswith("wall/")}
        assert set(wall) == {"wall/clients", "wall/aggregate", "wall/checkpoint", "wall/evaluate"}
        assert all(value >= 0 for value in wall.values())
        assert sum(wall.values()) == pytest.approx(float(round["time/round_s"]), rel=0.2, abs=0.05)
        client = {name: float(value) for name, value in parts.items() if name.startswith("client/")}
        assert set(client) == {"client/data", "client/forward_backward", "client/optimizer", "client/overhead"}
        assert all(value > 0 for value in client.values())


def test_profiling_changes_nothing_else(tmp_path, make_data):
    run(tmp_path / "a", make_data, profile=True)
    run(tmp_path / "b", make_data)
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")
