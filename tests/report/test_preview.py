import json
from pathlib import Path

from fedloge.cli import main

QUICKSTART = ["--config", str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")]


def test_the_split_is_that_of_the_run(tmp_path, capsys):
    options = ["--data.alpha=0.2", "--data.num_clients=5", f"--trainer.run_dir={tmp_path / 'run'}"]
    assert main(["partition", *QUICKSTART, *options]) == 0
    text = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert "scheme: dirichlet, alpha 0.2, seed 3407, IF 20 (max/min)" in text
    assert "4 many, 4 medium, 2 few (by mass)" in text
    assert main(["fit", *QUICKSTART, *options, "--trainer.rounds=1", "--trainer.local_epochs=1", "--report=false"]) == 0
    partition = json.loads((tmp_path / "run" / "partition.json").read_text())
    assert f"sha256: {partition['sha256']}" in text
    sizes = sorted(len(client["train"]) for client in partition["clients"])
    assert f"training images of a client: {sizes[0]} to {sizes[-1]} (median {sizes[2]})" in text


def test_the_heat_map(tmp_path, capsys):
    target = tmp_path / "deep" / "split.png"
    assert main(["partition", *QUICKSTART, f"--output={target}"]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert str(target) in capsys.readouterr().out


def test_bad_input_gets_one_line(tmp_path, capsys):
    cases = {
        "--output=x.jpg": "is not a .png file",
        "--data.alpha=0": "data.alpha=0.0 must be positive",
        "--data.num_clients=1000": "is too many for 477 training images",
        "--data.alpa=1": "Did you mean 'alpha'?",
    }
    for option, message in cases.items():
        assert main(["partition", *QUICKSTART, option]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
