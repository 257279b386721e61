"""Writing reports: one function for all formats, and a callback that writes one at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedloge.callbacks import FederatedCallback
from fedloge.checks import check_choice
from fedloge.errors import ConfigError, FedlogeError
from fedloge.markup import rich_text
from fedloge.report.run_data import RunData, read_runs
from fedloge.system.live import Line
from fedloge.system.storage import write_whole
from fedloge.trainer import FederatedTrainer

FORMATS = ("html", "md", "csv", "png")


def write_report(paths: Sequence[str | Path], output: str | Path | None = None, format: str | None = None) -> Path:
    """Write a report of one run, or of several side by side.

    Args:
        paths: Run folders.
        output: File to write; None takes ``report.html`` in the folder of a single run, otherwise in the current one.
        format: ``html``, ``md``, ``csv`` or ``png``; None takes the ending of ``output``, or ``html`` without one.

    Returns:
        Path of the file.

    Raises:
        RunError: If a folder is not a finished run.
        ConfigError: If the format is unknown or needs a package that is missing, or the file cannot be written.
    """
    format = format or _format_of(output)
    check_choice("format", format, FORMATS)
    ending = _ending(output)
    if ending in FORMATS and ending != format:
        raise ConfigError("format", format, f"but output={str(output)!r} ends in .{ending}", "Leave one of them out.")
    target = Path(output) if output else (Path(paths[0]) if len(paths) == 1 else Path()) / f"report.{format}"
    try:
        with Line("writing the report"):
            content = _render(read_runs(paths), format)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ConfigError("format", format, f"needs the package {package}", f"Run `pip install {package}`.") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content)
    except OSError as error:
        raise ConfigError(
            "output", str(target), f"cannot be written: {error.strerror}", "Choose another file."
        ) from error
    return target


class WriteReport(FederatedCallback):
    """Writes ``report.html`` into the run folder when a run ends; a failing report never fails the run.

    Args:
        console: Console for the path of the report or the reason of a failure; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()

    def on_run_end(self, trainer: FederatedTrainer, summary: Mapping[str, Any]) -> None:
        """Write the report from the files of the run, or print why it failed."""
        try:
            target = write_report([trainer.folder.path])
        except Exception as error:
            reason = str(error) if isinstance(error, FedlogeError) else repr(error)
            self.console.print(rich_text(f"no report: {reason}"), soft_wrap=True)
        else:
            self.console.print(rich_text(f"report: {target}"), soft_wrap=True)


def _ending(output: str | Path | None) -> str:
    return Path(output).suffix.lstrip(".").lower() if output else ""


def _format_of(output: str | Path | None) -> str:
    suffix = _ending(output) if output else "html"
    if suffix not in FORMATS:
        raise ConfigError("output", str(output), "has an ending that is no format", "Give --format too.")
    return suffix


def _render(runs: Sequence[RunData], format: str) -> bytes:
    match format:
        case "html":
            from fedloge.report.page import render

            return render(runs).encode()
        case "png":
            from fedloge.report.pictures import picture

            return picture(runs)
        case "md":
            from fedloge.report.text import markdown

            return markdown(runs).encode()
        case _:
            from fedloge.report.text import comma_separated

            return comma_separated(runs).encode()
