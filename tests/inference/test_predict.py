import csv
import io
import json

import pytest

import fedloge
from fedloge.cli import main


@pytest.mark.parametrize("client", [None, 2])
def test_predict_gives_the_models_classes(client, run, images, digits, capsys):
    loaded = fedloge.load_run(run)
    predictor = loaded.generic() if client is None else loaded.personal(client)
    index = (digits.test_labels == 4).nonzero()[:5, 0]
    expected = predictor.predict_step(digits.test.gather(index))
    capsys.readouterr()
    chosen = [] if client is None else ["--client", str(client)]
    assert main(["predict", str(run), *chosen, str(images / "4"), "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["image"] for row in rows] == [str(images / "4" / f"{i}.png") for i in range(5)]
    assert [int(row["class"]) for row in rows] == expected.argmax(1).tolist()
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected.amax(1).tolist(), abs=1e-5)


def test_predict_takes_files_and_folders_in_all_formats(run, images, capsys):
    capsys.readouterr()
    paths = [str(images / "7" / "0.png"), str(images)]
    assert main(["predict", str(run), *paths, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 15  # an image that is given twice counts once
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert rows[0]["probability"] == rows[0]["probabilities"][rows[0]["class"]]
    assert main(["predict", str(run), *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "class", "probability"]
    assert len(lines) == 16
