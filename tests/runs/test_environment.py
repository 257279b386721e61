from importlib import metadata

from fedloge.runs.environment import PACKAGES, environment


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
