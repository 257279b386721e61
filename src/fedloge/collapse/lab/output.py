"""Results of an experiment: a folder with CSV, JSON and figures, and the finished parts of one that was stopped."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedloge.errors import ConfigError, FedlogeError
from fedloge.plotting import png
from fedloge.system.storage import clear_os_errors, without_nan, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

PARTS = "parts"
"""Folder of the finished parts, which :meth:`Output.finish` removes."""

SETTINGS = "settings.json"
"""File in :data:`PARTS` with the settings of the experiment."""

HARMLESS = ("output", "overwrite", "figure")
"""Settings that change no part."""


class Output:
    """The folder of an experiment.

    Args:
        path: Path of the folder; created with its parents.
        overwrite: Whether an older experiment may be replaced.
        settings: Settings of an experiment in parts. One that was stopped goes on from its finished parts if its
            settings were the same.

    Raises:
        ConfigError: If the path exists, is not an empty folder, and may not be overwritten.
        RunError: If the folder cannot be made.
    """

    def __init__(self, path: str, *, overwrite: bool = False, settings: Mapping[str, Any] | None = None) -> None:
        self.path, self.parts = Path(path), Path(path) / PARTS
        kept = {key: value for key, value in (settings or {}).items() if key not in HARMLESS}
        unfinished = settings is not None and self._settings() == json.loads(json.dumps(kept))
        if not unfinished and not overwrite and self.path.exists() and not _empty(self.path):
            stopped = "exists already" if self._settings() is None else "holds an unfinished one with other settings"
            raise ConfigError("output", path, stopped, "Choose another folder, or --overwrite=true.")
        with clear_os_errors(path):
            self.path.mkdir(parents=True, exist_ok=True)
            if not unfinished:
                self.finish()
            if settings is not None:
                self.parts.mkdir(exist_ok=True)
                write_whole(self.parts / SETTINGS, json.dumps(kept) + "\n")

    def _settings(self) -> Any:
        """The settings of an unfinished experiment in the folder; None without one."""
        try:
            return json.loads((self.parts / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """A finished part of the experiment from the folder, or made now and kept there.

        Args:
            name: Name of its file without the ending.
            make: Returns the part, a value that JSON can hold.
        """
        path = self.parts / f"{name}.json"
        if not path.is_file():
            try:
                made = json.dumps(make())
            except FedlogeError:
                if not any(other for other in self.parts.iterdir() if other.name != SETTINGS):
                    self.finish()
                    with contextlib.suppress(OSError):  # it has results of an older one
                        self.path.rmdir()
                raise
            with clear_os_errors(str(path)):
                write_whole(path, made)
        return json.loads(path.read_text(encoding="utf-8"))

    def finish(self) -> None:
        """Remove the parts: everything is in the results."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def csv(self, name: str, rows: Sequence[Row]) -> None:
        """Write rows with the same keys."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path / name, text.getvalue())

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write JSON; a number that is not finite becomes null."""
        self.text(name, json.dumps(without_nan(content), indent=1, ensure_ascii=False) + "\n")

    def text(self, name: str, content: str) -> None:
        """Write a text."""
        write_whole(self.path / name, content)

    def figure(self, name: str, figure: Figure, colours: int = 64) -> None:
        """Write a PNG reduced to ``colours``, at most 256."""
        write_whole(self.path / name, png(figure, colours=colours))


def _empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
