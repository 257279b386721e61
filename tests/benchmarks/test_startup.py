import json
from pathlib import Path

import fedloge
from benchmarks import startup


def test_a_command_is_paired_with_torch_and_with_other_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "prepare", lambda folder: None)  # the help needs no run
    source = Path(fedloge.__file__).parents[1]
    options = [
        "--pairs=1",
        "--only",
        "fedloge --help",
        "--against",
        str(source),
        "--output",
        str(tmp_path / "result.json"),
    ]
    startup.main(options)
    (run,) = json.loads((tmp_path / "result.json").read_text())["runs"]
    assert run["command"] == "fedloge --help"
    assert set(run["ratio"]) == {"torch", "other"}
