import subprocess
from importlib import metadata

import pytest

from fedloge.runs.environment import CHECKOUT, PACKAGES, environment, git_commit


@pytest.fixture
def repository(tmp_path):
    """A repository with a commit and a folder that git ignores; its root and its commit."""

    def git(*arguments):
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / ".gitignore").write_text("venv\n")
    (tmp_path / "venv" / "lib").mkdir(parents=True)
    git("add", ".gitignore")
    git("commit", "-q", "-m", "first")
    return tmp_path, git("rev-parse", "HEAD")


def test_a_checkout_has_its_commit(repository, monkeypatch):
    root, commit = repository
    assert git_commit(root) == commit
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a git hook
    assert git_commit(root) == commit


def test_an_installed_package_does_not_take_its_users_commit(repository, tmp_path_factory):
    root, _ = repository
    assert git_commit(root / "venv") is None
    assert git_commit(root / "venv" / "lib") is None
    assert git_commit(root / "absent") is None
    assert git_commit(tmp_path_factory.mktemp("no repository")) is None


def test_the_package_records_its_own_commit():
    assert environment()["git_commit"] == git_commit(CHECKOUT)
    assert (CHECKOUT / "src" / "fedloge" / "runs" / "environment.py").is_file()


def test_what_is_not_installed_has_no_version(monkeypatch):
    found = metadata.version

    def version(package):
        if package in ("fedloge", "jsonargparse"):
            raise metadata.PackageNotFoundError(package)
        return found(package)

    monkeypatch.setattr(metadata, "version", version)
    versions = {package: environment()[package] for package in PACKAGES}
    assert [package for package, known in versions.items() if known is None] == ["fedloge", "jsonargparse"]
    assert versions["torch"] == found("torch")
