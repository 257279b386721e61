"""What a wheel and a source archive contain."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

CONTENT = [path.name for path in ROOT.iterdir() if path.name not in (".git", "build", "dist", "runs", "data", "site")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="the tests do not lie in a checkout"),
]


def files(folder, pattern="*"):
    """Files of a folder of the checkout, relative to the checkout."""
    found = (path for path in (ROOT / folder).rglob(pattern) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Names of the files in the wheel and in the source archive, built without a network from a copy."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 is needed to build")
    base = tmp_path_factory.mktemp("packaging")
    (base / "checkout").mkdir()
    for name in CONTENT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, base / "checkout" / name)
    made = {}
    for hook in ("build_wheel", "build_sdist"):
        command = [sys.executable, "-c", BUILD, hook, str(base)]
        done = subprocess.run(command, cwd=base / "checkout", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made[hook] = base / done.stdout.splitlines()[-1]
    return made["build_wheel"], made["build_sdist"], base


def test_a_wheel_has_the_package_with_its_configurations(built):
    with zipfile.ZipFile(built[0]) as archive:
        names = set(archive.namelist())
    assert {f"fedloge/{name}" for name in files("configs")} <= names
    assert {name.removeprefix("src/") for name in files("src/fedloge", "*.py")} <= names
    assert "fedloge/report/assets/page.html" in names
    assert "fedloge/py.typed" in names
    assert all(name.startswith(("fedloge/", "fedloge-")) for name in names)


def test_a_source_archive_has_everything_that_its_tests_need(built):
    with tarfile.open(built[1]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    for folder in ("src", "tests", "configs", "docs", "notebooks", "benchmarks"):
        missing = {name for name in files(folder) if ".egg-info" not in name and "/.venvs/" not in name} - names
        assert not missing, sorted(missing)[:5]
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "constraints.txt", "mkdocs.yml"} <= names
    assert {"pyproject.toml", "setup.py", "MANIFEST.in"} <= names


def test_a_run_begins_from_a_wheel(built):
    wheel, _, base = built
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(base / "installed")
    options = ["--trainer.rounds=1", "--trainer.local_epochs=1", "--data.num_clients=2", "--report=false", "--quiet"]
    command = [sys.executable, "-m", "fedloge", "fit", "--config", "quickstart", *options]
    environment = {**os.environ, "PYTHONPATH": str(base / "installed")}
    done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = (base / "runs" / "quickstart" / "environment.json").read_text()
    assert '"git_commit": null' in found
