"""Every method that came with the hooks trains from the command line at half participation, without a fault."""

import math
from pathlib import Path

import pytest

from fedloge.cli import main
from fedloge.runs.folder import RunFolder

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
OPTIONS = [
    "--trainer.rounds=2",
    "--trainer.participation=0.5",
    "--trainer.local_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.executor=serial",
    "--model.backbone.channels=[16]",
    "--data.num_clients=4",
    "--report=false",
    "--quiet",
]


@pytest.mark.parametrize(
    "method",
    [
        "APFL",
        "CCVR",
        "FedALA",
        "FedAdam",
        "FedAvgM",
        "FedDyn",
        "FedGraB",
        "FedLC",
        "FedLF",
        "FedNPC",
        "FedNTD",
        "FedPAC",
        "FedProto",
        "FedReLa",
        "FedYoYo",
        "FedYogi",
        "LocalOnly",
        "MOON",
        "SCAFFOLD",
        "pFedMe",
    ],
)
def test_it_trains_from_the_quickstarts_configuration(method, tmp_path):
    more = ["--model.start=2"] if method == "FedReLa" else []
    folder = tmp_path / "run"
    arguments = [f"--model={method}", *OPTIONS, *more, f"--trainer.run_dir={folder}"]
    assert main(["fit", "--config", str(QUICKSTART), *arguments]) == 0
    assert not (folder / "faults.csv").exists()
    summary = RunFolder(folder).read_json("summary.json")
    assert summary["rounds"] == 2
    assert math.isfinite(summary["personal"]["acc_mean"])
    assert (summary["global"] is not None) == (method not in ("FedProto", "LocalOnly"))
    assert (summary["bytes_up"] == 0) == (method == "LocalOnly")
