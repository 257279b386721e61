"""Whatever a plan file holds: its runs are listed, or one line says what is wrong, with exit code 2."""

import io
import os
from contextlib import redirect_stderr, redirect_stdout

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloge.cli import main
from fuzz.plan_files import COMPARISONS, OVERRIDES, STUDIES, SWEEPS

EXAMPLES = int(os.environ.get("FEDLOGE_FUZZ", "300"))
"""Number of files for each verb, the same ones every time; FEDLOGE_FUZZ=5000 tries more."""

SCALE = """
trainer: {rounds: 1, local_epochs: 1}
model: {init_args: {backbone: {class_path: SmallCNN, init_args: {channels: [4], in_channels: 1}}}}
data: {source: Digits, num_clients: 4}
"""
ARGS = {"compare": ["compare", "--config"], "sweep": ["sweep"], "study": ["study"]}
FILES = {"compare": COMPARISONS, "sweep": SWEEPS, "study": STUDIES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans")
    (path / "scale.yaml").write_text(SCALE)
    (path / "base.yaml").write_text(SCALE.replace("model: {", "model: {class_path: FedLoGe, "))
    return path


def listed_or_refused(args):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(args)
    if code == 0:
        assert "of which 0 are done" in out.getvalue()
        assert not err.getvalue()
    else:
        assert code == 2
        assert err.getvalue().startswith("fedloge: error: ")
        assert err.getvalue().count("\n") == 1, err.getvalue()


@pytest.mark.parametrize("verb", FILES)
def test_any_file_is_listed_or_refused_in_one_line(verb, folder, monkeypatch):
    monkeypatch.chdir(folder)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(FILES[verb], OVERRIDES)
    def check(content, overrides):
        (folder / "plan.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        listed_or_refused([*ARGS[verb], "plan.yaml", "--dry_run", *overrides])

    check()
    assert sorted(path.name for path in folder.iterdir()) == ["base.yaml", "plan.yaml", "scale.yaml"]


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(ARGS)), st.binary(max_size=20) | st.text(max_size=20).map(str.encode))
def test_any_bytes_are_refused_in_one_line(folder, verb, content):
    (folder / "plan.yaml").write_bytes(content)
    listed_or_refused([*ARGS[verb], str(folder / "plan.yaml"), "--dry_run"])
