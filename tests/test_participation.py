"""Clients that were never sampled, that have no test images or no head of their own, through every verb."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from fedloge.cli import main
from fedloge.federation.sampling import sample_cohort
from fedloge.inference.models import load_finished
from fedloge.report.figures.heads import client_norms
from fedloge.report.run_data import read_run
from image_trees import coloured

CLIENTS, ROUNDS = 10, 2
COHORTS = {
    seed: sorted({k for number in range(1, ROUNDS + 1) for k in sample_cohort(seed, number, CLIENTS, 0.1)})
    for seed in range(100)
}
SEED, SAMPLED = next((seed, own) for seed, own in COHORTS.items() if 0 not in own and len(own) == ROUNDS)
(FIRST,) = sample_cohort(SEED, 1, CLIENTS, 0.1)  # that of the last round alone makes the generic model
METHODS = {
    "FedAvg": {"pm": "local"},  # a client that was never sampled has no entries
    "FedLoGe": {"gamma": 1.0, "beta": 0.3},  # it has the head that it started from
}
pytestmark = pytest.mark.filterwarnings("ignore")
FEDAVG, FEDLOGE = (
    pytest.mark.parametrize("home", [name], indirect=True, scope="module") for name in ("FedAvg", "FedLoGe")
)


def fit(home, method, rounds, run):
    backbone = {"class_path": "SmallCNN", "init_args": {"channels": [8]}}
    source = {"class_path": "ImageFolder", "init_args": {"root": str(home / "pets"), "image_size": 12}}
    settings = {
        "trainer": {"rounds": rounds, "local_epochs": 1, "participation": 0.1, "seed": SEED, "accelerator": "cpu"},
        "model": {"class_path": method, "init_args": {"backbone": backbone, **METHODS[method]}},
        "data": {"source": source, "num_clients": CLIENTS, "alpha": 0.3, "imbalance_factor": None, "batch_size": 4},
    }
    (home / "fit.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(home / "fit.yaml"), f"--trainer.run_dir={home / run}", "--quiet"]) == 0


@pytest.fixture(scope="module", params=METHODS)
def home(request, tmp_path_factory):
    """A folder with a run in ``run``, from which other runs come; ``pets`` has the images."""
    folder = tmp_path_factory.mktemp("home")
    coloured(folder / "pets", train=16, test=5)
    fit(folder, request.param, ROUNDS, "run")
    return folder


@pytest.fixture
def method(home):
    return json.loads((home / "run" / "summary.json").read_text())["method"]


def owners(run, stage="last"):
    """Clients that have entries in a checkpoint."""
    entries = load_file(run / "checkpoints" / stage / "clients.safetensors")
    return sorted({int(name.partition("/")[0]) for name in entries})


def test_some_clients_never_took_part_and_some_have_no_test(home, method):
    assert owners(home / "run") == (SAMPLED if method == "FedAvg" else list(range(CLIENTS)))
    tested = {row["client"] for row in csv.DictReader((home / "run" / "per_client.csv").open())}
    assert 0 < len(tested) < CLIENTS


def test_test(home, capsys):
    assert main(["test", str(home / "run")]) == 0
    summary = json.loads((home / "run" / "summary.json").read_text())
    assert f"{100 * summary['personal']['acc_mean']:.2f}" in capsys.readouterr().out


def test_predict(home, method, capsys):
    image = str(home / "pets" / "test" / "bee" / "0.png")
    shown = {}
    for name, chosen in {"generic": [], "never": ["--client=0"], "sampled": [f"--client={FIRST}"]}.items():
        capsys.readouterr()
        assert main(["predict", str(home / "run"), image, *chosen, "--format=json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        shown[name] = [row["probabilities"][label] for label in ("ant", "bee", "cat")]
    assert (shown["never"] == shown["generic"]) == (method == "FedAvg")
    assert shown["sampled"] != shown["generic"]


@FEDAVG
def test_export(home, tmp_path):
    assert main(["export", str(home / "run"), "--client=0", f"--output={tmp_path / 'out'}"]) == 0
    own = load_file(tmp_path / "out" / "client-0.safetensors")
    personal = load_finished(home / "run").personal(0).method.state_dict()
    assert own
    assert all(torch.equal(entry, personal[name]) for name, entry in own.items())


@FEDAVG
def test_report(home):
    for format in ("html", "md"):
        assert main(["report", str(home / "run"), f"--format={format}", f"--output={home / 'report'}.{format}"]) == 0
    run = read_run(home / "run")
    panel = client_norms(run, "key")
    assert [option.label for option in panel.control.options] == [f"client {k}" for k in SAMPLED]
    entries = load_file(home / "run" / "checkpoints" / "last" / "clients.safetensors")
    for option, k in zip(panel.control.options, SAMPLED, strict=True):
        norms = entries[f"{k}/head.weight"].norm(dim=1).numpy()
        np.testing.assert_allclose(option.data["y"][0], norms, atol=1e-4)
    assert panel.data[0]["y"] == panel.control.options[0].data["y"][0]
    assert f"{CLIENTS - len(SAMPLED)} of {CLIENTS} clients, which never took part" in panel.caption


@FEDAVG
def test_analyze(home):
    assert main(["analyze", str(home / "run")]) == 0
    with (home / "run" / "analysis" / "norms.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["client"]]
    counts = read_run(home / "run").partition.train_counts
    assert sorted({int(row["client"]) for row in rows}) == SAMPLED
    assert all(counts[int(row["client"])][int(row["class"])] == int(row["n"]) for row in rows)
    left_out = json.loads((home / "run" / "analysis" / "analysis.json").read_text())["left_out"]
    assert f"{len(SAMPLED)} of {CLIENTS} clients, those that took part, have head_k of their own" in left_out


@FEDLOGE
def test_realign(home):
    assert main(["realign", str(home / "run"), "--ga_scale=2", f"--output_dir={home / 'realigned'}"]) == 0
    assert owners(home / "realigned", "final") == list(range(CLIENTS))


def test_new_client(home, tmp_path):
    data, output = home / "pets" / "test", tmp_path / "new"
    assert main(["new-client", str(home / "run"), str(data), "--epochs=1", f"--output={output}"]) == 0
    assert load_file(output / "client.safetensors")


def test_resume(home, method):
    fit(home, method, ROUNDS + 1, "longer")
    assert main(["resume", str(home / "run"), f"--trainer.rounds={ROUNDS + 1}"]) == 0
    for name in ("per_client.csv", "per_class.csv", "checkpoints/final/clients.safetensors"):
        assert (home / "run" / name).read_bytes() == (home / "longer" / name).read_bytes()
