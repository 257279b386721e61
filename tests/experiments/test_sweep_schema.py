"""The shipped sweep files against W&B's own schema.

It comes with the package ``sweeps``, which wants an older NumPy than fedloge: CONTRIBUTING.md says how to run this in
an environment of its own.
"""

from pathlib import Path

import pytest
import yaml

FILES = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_sweep_files_keep_to_the_schema(path):
    config = pytest.importorskip("sweeps.config")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config.schema_violations_from_proposed_config(content) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_wandb_draws_the_same_settings(path, monkeypatch):
    """W&B's own search goes through the file's settings, and then stops."""
    sweeps = pytest.importorskip("sweeps")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    runs = []
    while (run := sweeps.next_run(content, runs)) is not None:
        runs.append(run)
    drawn = {tuple(run.config[name]["value"] for name in content["parameters"]) for run in runs}
    sizes = [len(said["values"]) for said in content["parameters"].values()]
    assert len(drawn) == len(runs) == sizes[0] * sizes[1]
