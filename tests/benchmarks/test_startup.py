import json
from pathlib import Path

import fedloge
from benchmarks import startup


def test_the_error_of_a_missing_file_costs_less_than_torch(tmp_path):
    name, source = "fedloge fit --config missing.yaml", Path(fedloge.__file__).parents[1]
    options = ["--pairs=1", "--only", name, "--against", str(source), "--output", str(tmp_path / "result.json")]
    startup.main(options)
    (run,) = json.loads((tmp_path / "result.json").read_text())["runs"]
    assert run["command"] == name
    assert run["ratio"]["torch"]["median"] < 0.8
    assert 0.2 < run["ratio"]["other"]["median"] < 5
