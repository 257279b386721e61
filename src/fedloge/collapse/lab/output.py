"""Results of an experiment: a folder with CSV, JSON and figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedloge.errors import ConfigError
from fedloge.plotting import png
from fedloge.system.storage import without_nan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


class Output:
    """The folder of an experiment.

    Args:
        path: Path of the folder; created with its parents.
        overwrite: Whether an older experiment may be replaced.

    Raises:
        ConfigError: If the path exists, is not an empty folder, and may not be overwritten.
    """

    def __init__(self, path: str, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        if not overwrite and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError("output", path, "exists already", "Choose another folder, or --overwrite=true.")
        self.path.mkdir(parents=True, exist_ok=True)

    def csv(self, name: str, rows: Sequence[Row]) -> None:
        """Write rows with the same keys."""
        with (self.path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write JSON; a number that is not finite becomes null."""
        (self.path / name).write_text(json.dumps(without_nan(content), indent=1, ensure_ascii=False) + "\n")

    def figure(self, name: str, figure: Figure, colours: int = 64) -> None:
        """Write a PNG reduced to ``colours``, at most 256."""
        (self.path / name).write_bytes(png(figure, colours=colours))
