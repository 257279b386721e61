import csv
import json
import re

import numpy as np
import pytest
import torch

from fedloge.cli import main
from fedloge.data import FederatedDataModule, SiteTable
from fedloge.errors import ConfigError, DataError
from image_trees import site_table, write_image

NATURAL = {"num_clients": None, "scheme": "natural", "imbalance_factor": None, "batch_size": 4}


def set_up(source, **options):
    data = FederatedDataModule(source, **NATURAL | options)
    data.setup()
    return data


def test_every_site_is_a_client_with_its_name_and_its_tests(tmp_path):
    """The order is that of the table. Oslo has no test images."""
    data = set_up(SiteTable(str(site_table(tmp_path)), image_size=8))
    assert data.partition.names == ("Wien", "Charité", "Oslo")
    assert data.num_clients == 3
    assert data.class_names == ["benign", "malignant"]
    assert data.partition.train_counts.tolist() == [[6, 2], [2, 6], [4, 0]]
    assert data.partition.test_counts.tolist() == [[2, 2], [2, 2], [0, 0]]
    for client in range(2):
        users = data.dataset.test_users[data.client_test_indices(client)]
        assert users.tolist() == [client] * 4
    assert data.public_test_indices() is None
    assert len(data.test_labels) == 8


def test_fewer_clients_get_whole_sites_and_joined_names(tmp_path):
    data = set_up(SiteTable(str(site_table(tmp_path)), image_size=8), num_clients=2)
    names = data.partition.names
    assert sorted(name.count("+") for name in names) == [0, 1]
    assert {part for name in names for part in name.split(" + ")} == {"Wien", "Charité", "Oslo"}
    both = next(k for k, name in enumerate(names) if "+" in name)
    sites = {"Wien": [6, 2], "Charité": [2, 6], "Oslo": [4, 0]}
    expected = np.sum([sites[part] for part in names[both].split(" + ")], axis=0)
    assert data.partition.train_counts[both].tolist() == expected.tolist()


def test_images_without_a_site_are_the_generic_models_test(tmp_path):
    data = set_up(SiteTable(str(site_table(tmp_path, public=4)), image_size=8))
    public = data.public_test_indices()
    assert data.dataset.test_users[public].tolist() == [-1] * 4
    assert data.partition.test_counts.sum() == 8


def test_folders_hold_the_same_as_a_table(tmp_path):
    for site, part, label, number in (
        *(("Wien", "train", c, i) for c in "ab" for i in range(3)),
        *(("Oslo", "training", c, i) for c in "ab" for i in range(2)),
        ("Wien", "valid", "a", 9),
        ("Wien", "test", "b", 8),
    ):
        write_image(tmp_path / site / part / label / f"{number}.png", number)
    data = set_up(SiteTable(root=str(tmp_path), image_size=8))
    assert data.partition.names == ("Oslo", "Wien")
    assert data.partition.train_counts.tolist() == [[2, 2], [3, 3]]
    assert data.partition.val_counts.tolist() == [[0, 0], [1, 0]]
    assert data.partition.test_counts.tolist() == [[0, 0], [0, 1]]
    assert data.validation().client_test_indices(1).tolist() == [0]


def test_without_splits_a_fifth_of_each_site_is_drawn_for_testing(tmp_path):
    table = site_table(tmp_path, split=False, tests=(0, 0), sites={"A": (10, 10), "B": (5, 5)})
    first, again, other = (set_up(SiteTable(str(table), image_size=8), seed=seed) for seed in (0, 0, 1))
    assert first.partition.test_counts.tolist() == [[2, 2], [1, 1]]
    assert first.partition.train_counts.tolist() == [[8, 8], [4, 4]]
    assert first.dataset.test_paths == again.dataset.test_paths != other.dataset.test_paths


def test_drawn_validation_keeps_groups_together(tmp_path):
    table = site_table(tmp_path, split=False, tests=(0, 0), sites={"A": (20, 20)}, group_size=2)
    data = set_up(SiteTable(str(table), image_size=8), val_fraction=0.25)
    groups = data.dataset.train_groups.numpy()
    assert data.partition.val_counts.tolist() == [[4, 4]]
    assert not set(groups[data.partition.val[0]]) & set(groups[data.partition.train[0]])


def read_shape(path):
    """Reads any file as an image of one value."""
    return np.full((8, 8), len(path) % 7, dtype=np.uint8)


def read_floats(path):
    return np.zeros((8, 8))


def test_a_function_of_the_user_reads_the_pixels(tmp_path):
    table = site_table(tmp_path)
    source = SiteTable(str(table), image_size=8, channels=1, reader=read_shape)
    images = source.load().train.gather(torch.tensor([0]))
    assert images.unique().tolist() == [len(str(tmp_path / "images" / "0.png")) % 7]
    with pytest.raises(DataError, match=r"reader returned float64 \[8, 8\], not uint8"):
        SiteTable(str(table), image_size=8, reader=read_floats).load()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace("images/0.png", "images/none.png"), r"1 image\(s\) are not in .*images/none.png"),
        (lambda text: text.replace(",test", ",train"), r"has no test images\. Set data\.source\.test_fraction=0\.2"),
        (lambda text: text.replace("Wien,test", "Vien,test"), r"4 image\(s\) belong to a site .*Is 'Vien' 'Wien'\?"),
        (lambda text: text.replace("images/1.png", "images/0.png"), r"1 image\(s\) are listed already"),
    ],
)
def test_tables_that_break_a_rule(tmp_path, edit, message):
    table = site_table(tmp_path)
    table.write_text(edit(table.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        SiteTable(str(table), image_size=8).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 0.2}, r"source\.test_fraction=0\.2 but the table has test images"),
        ({"test_fraction": 1.0}, r"source\.test_fraction=1\.0 must lie in"),
        ({"allow": ["all"]}, r"source\.allow='all' is unknown"),
        ({"stored_size": 4}, r"source\.stored_size=4 must be at least 8"),
    ],
)
def test_options_that_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        SiteTable(str(site_table(tmp_path)), image_size=8, **options)


def test_neither_table_nor_folder():
    with pytest.raises(ConfigError, match=r"source\.table=None and no root"):
        SiteTable()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of FedLoGe on three sites and public test images, from the command line."""
    folder = tmp_path_factory.mktemp("sites")
    table = site_table(folder / "data", public=4)
    (folder / "c.yaml").write_text(f"""
trainer: {{rounds: 2, local_epochs: 1, accelerator: cpu, run_dir: {folder / "run"}}}
model:
  class_path: FedLoGe
  init_args: {{backbone: {{class_path: SmallCNN, init_args: {{channels: [8]}}}}, gamma: 1.0}}
data:
  source: {{class_path: SiteTable, init_args: {{table: {table}, image_size: 8}}}}
  num_clients: null
  scheme: natural
  imbalance_factor: null
  batch_size: 4
""")
    assert main(["fit", "--config", str(folder / "c.yaml"), "--quiet"]) == 0
    return folder / "run"


def rows(run, name):
    with (run / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_names_are_in_the_run_folder(run):
    clients = json.loads((run / "partition.json").read_text(encoding="utf-8"))["clients"]
    assert [client["name"] for client in clients] == ["Wien", "Charité", "Oslo"]
    tested = {(row["client"], row["name"], row["n_test"]) for row in rows(run, "per_client.csv")}
    assert tested == {("0", "Wien", "4"), ("1", "Charité", "4")}


def test_the_generic_model_is_tested_on_both(run):
    """Four public images; the eight of the sites together are a column of their own."""
    per_class = [row for row in rows(run, "per_class.csv") if row["view"] == "global" and row["round"] == "2"]
    assert sum(int(row["n_test"]) for row in per_class) == 4
    value = float(rows(run, "metrics.csv")[-1]["global/acc_clients"])
    assert value * 8 == pytest.approx(round(value * 8), abs=1e-4)


def test_a_site_predicts_by_its_name(run, capsys):
    image = str(run.parent / "data" / "images" / "0.png")
    assert main(["predict", str(run), image, "--client", "Charité", "--format=json"]) == 0
    named = capsys.readouterr().out
    assert main(["predict", str(run), image, "--client", "1", "--format=json"]) == 0
    assert capsys.readouterr().out == named
    assert main(["predict", str(run), image, "--client", "Charitee"]) == 2
    error = capsys.readouterr().err
    assert "The run has the clients 'Wien', 'Charité', 'Oslo'. Did you mean 'Charité'?" in error


def test_exported_models_and_the_report_have_the_names(run, tmp_path):
    assert main(["export", str(run), "--client", "all", "--output", str(tmp_path / "out")]) == 0
    models = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))["models"]
    assert [model.get("client") for model in models.values()] == [None, "Wien", "Charité", "Oslo"]
    assert main(["report", str(run), "--output", str(tmp_path / "r.md")]) == 0
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert re.search("Worst tenth: client (Wien|Charité) ", text)
    assert re.search(r"the clients' test images together \| [\d.]+.% \|", text)


def test_predictions_are_those_of_the_accuracies(run, tmp_path, capsys):
    """Of the sites' eight images the best class is the personal models'; the four public ones have no client."""
    file = tmp_path / "p.csv"
    assert main(["test", str(run), "--predictions", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    found = rows(tmp_path, "p.csv")
    assert [row["client"] for row in found] == ["Wien"] * 4 + ["Charité"] * 4 + [""] * 4
    assert {row["path"].partition("/")[0] for row in found} == {"images"}
    names = ("benign", "malignant")

    def accuracy(own, model):
        best = [max(names, key=lambda name: float(row[f"{model} {name}"])) for row in own]
        return sum(name == row["true"] for name, row in zip(best, own, strict=True)) / len(own)

    last = [row for row in rows(run, "per_client.csv") if row["round"] == "2" and row["view"] == "personal"]
    assert [accuracy(found[i : i + 4], "personal") for i in (0, 4)] == [float(row["accuracy"]) for row in last]
    summary = json.loads((run / "summary.json").read_text())
    assert accuracy(found[8:], "generic") == summary["global"]["acc"]
    assert accuracy(found[:8], "generic") == summary["global"]["acc_clients"]
    assert found[8]["personal benign"] == ""
    assert main(["test", str(run), "--predictions", str(tmp_path / "p.xlsx")]) == 2
    assert "ends neither with .csv nor .parquet" in capsys.readouterr().err


def test_a_run_has_details_with_intervals(run, tmp_path):
    summary = json.loads((run / "summary.json").read_text())
    for part, mean in ((summary["global"], "acc"), (summary["personal"], "acc_mean")):
        assert part[f"{mean}_low"] <= part[mean] <= part[f"{mean}_high"]
        assert 0 <= part["brier"] <= 2
    final = [row for row in rows(run, "per_client.csv") if row["round"] == "2" and row["view"] == "personal"]
    assert summary["personal"]["acc_worst"] == min(float(row["accuracy"]) for row in final)
    assert all(float(row["acc_low"]) <= float(row["accuracy"]) <= float(row["acc_high"]) for row in final)
    assert main(["report", str(run), "--output", str(tmp_path / "r.md")]) == 0
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "| number | generic | interval | personal, mean | interval | worst client | range |" in text
    assert re.search(r"\| AUROC \| [\d.]+.% \|", text)
