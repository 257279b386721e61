"""Results of an experiment: a folder with CSV, JSON and figures, and a table on the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from fedloge.errors import ConfigError

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
        (self.path / name).write_text(json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n")

    def figure(self, name: str, figure: Figure, colours: int = 64) -> None:
        """Write a PNG reduced to ``colours`` (at most 256); 64 take a third of the space of full colour."""
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=100)
        Image.open(buffer).convert("RGB").quantize(colours).save(self.path / name, optimize=True)


def print_table(title: str, rows: Sequence[Row], caption: str | None = None) -> None:
    """Print rows with the same keys as a table; 200 columns wide where the output is not a terminal."""
    table = Table(title=title, caption=caption)
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(cell(value) for value in row.values()))
    console = Console()
    (console if sys.stdout.isatty() else Console(width=200)).print(table)


def cell(value: Any) -> str:
    """Text of a table cell: floats with two or four decimals, nan and None as an empty cell."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if math.isnan(value):
        return ""
    return f"{value:.1e}" if value and not 1e-3 <= abs(value) < 1e4 else f"{value:.4f}"


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
