import csv
import importlib.util
import json
from collections import Counter
from pathlib import Path

from fedloge.cli import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "sites"


def load():
    spec = importlib.util.spec_from_file_location("make_sites", EXAMPLE / "make_sites.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_trains_on_its_five_sites(tmp_path):
    module = load()
    table = module.make_sites(tmp_path / "data")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["site"] for row in rows) == module.SITES
    assert all((table.parent / row["path"]).is_file() for row in rows)
    short = ["rounds=2", "evaluate_every=1", "local_epochs=1", "accelerator=cpu", f"run_dir={tmp_path / 'run'}"]
    options = [f"--data.source.table={table}", *(f"--trainer.{option}" for option in short), "--quiet"]
    assert main(["fit", "--config", str(EXAMPLE / "sites.yaml"), *options]) == 0
    clients = json.loads((tmp_path / "run" / "partition.json").read_text(encoding="utf-8"))["clients"]
    assert [client["name"] for client in clients] == list(module.SITES)
    for client, size in zip(clients, module.SITES.values(), strict=True):
        assert abs(len(client["test"]) - size / 5) <= 1
    assert "selected" in json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
