"""Write the results of studies as pages of docs/reproduction/: ``python -m benchmarks.reproduction runs/studies``."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reproduction"
STUDIES = ROOT / "configs" / "studies"
FIGURES = ROOT / "docs" / "figures"
SCALES = ("full", "small", "tiny")


def names() -> list[str]:
    """The studies of the paper's tables and figures."""
    return sorted(path.stem for kind in ("table", "fig") for path in STUDIES.glob(f"{kind}*.yaml"))


def found(folder: Path, name: str) -> Path | None:
    """The result of a study at the largest scale at which it was run."""
    folders = [folder / scale / name for scale in SCALES]
    return next((path for path in folders if (path / "study.md").is_file()), None)


def page(result: Path) -> str:
    """The page of a study: its title, the command that repeats it, its figure and its tables.

    The figure is copied to the documentation's figures.
    """
    title, _, body = (result / "study.md").read_text(encoding="utf-8").partition("\n")
    scale, name = result.parent.name, result.name
    lines = [title, "", f"```\nfedloge study configs/studies/{name}.yaml --scale={scale}\n```", ""]
    if (result / "study.png").is_file():
        picture = f"study_{name}_{scale}.png"
        shutil.copy(result / "study.png", FIGURES / picture)
        lines += [f"![{title.removeprefix('# ')}](../figures/{picture})", ""]
    return "\n".join([*lines, body.strip(), ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages of all studies that have a result; the other pages stay as they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=__doc__)
    parser.add_argument("folder", type=Path, help="where `fedloge study` wrote, runs/studies for example")
    folder = parser.parse_args(arguments).folder
    for name in names():
        result = found(folder, name)
        if result:
            (PAGES / f"{name}.md").write_text(page(result), encoding="utf-8")
        print(f"{name}: {result.parent.name if result else 'no result, left as it is'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
