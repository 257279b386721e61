"""Put the results of studies into docs/reproduction.md: ``python -m benchmarks.reproduction runs/studies``."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproduction.md"
STUDIES = ROOT / "configs" / "studies"
FIGURES = ROOT / "docs" / "figures"
SCALES = ("full", "small", "tiny")
BLOCK = re.compile(r"<!-- study (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def names() -> list[str]:
    """The studies of the paper's tables and figures."""
    return sorted(path.stem for kind in ("table", "fig") for path in STUDIES.glob(f"{kind}*.yaml"))


def found(folder: Path, name: str) -> Path | None:
    """The result of a study at the largest scale that it was run at."""
    folders = [folder / scale / name for scale in SCALES]
    return next((path for path in folders if (path / "study.md").is_file()), None)


def block(result: Path) -> str:
    """What a study says, as a section of the page; its figure is copied to the page's figures."""
    title, _, body = (result / "study.md").read_text(encoding="utf-8").partition("\n")
    scale, name = result.parent.name, result.name
    command = f"fedloge study configs/studies/{name}.yaml --scale={scale}"
    lines = [f"<!-- study {name} -->", f"#{title}", "", f"```\n{command}\n```", ""]
    if (result / "study.png").is_file():
        picture = f"study_{name}_{scale}.png"
        shutil.copy(result / "study.png", FIGURES / picture)
        lines += [f"![{title.removeprefix('# ')}](figures/{picture})", ""]
    return "\n".join([*lines, body.strip(), "", "<!-- end -->"])


def page(text: str, folder: Path) -> str:
    """The page with the blocks renewed for which there is a result."""

    def renew(match: re.Match[str]) -> str:
        result = found(folder, match[1])
        return block(result) if result else match[0]

    return BLOCK.sub(renew, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Renew the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=__doc__)
    parser.add_argument("folder", type=Path, help="where `fedloge study` wrote, runs/studies for example")
    folder = parser.parse_args(arguments).folder
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), folder), encoding="utf-8")
    for name in names():
        result = found(folder, name)
        print(f"{name}: {result.parent.name if result else 'no result, left as it is'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
