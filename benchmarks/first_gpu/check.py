"""Stage 1: what ``fedloge doctor --gpu`` checks, a small network by eager and by captured steps."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.first_gpu.record import Record, parser

NAME = "fedloge doctor --gpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check; 1 where something is wrong."""
    record = Record.of(parser("check", __doc__).parse_args(arguments))
    try:
        module: Any = importlib.import_module("fedloge.executors.cuda.check")
    except ModuleNotFoundError:
        record.add(NAME, skipped="not in this version")
        return 0
    if record.device.type != "cuda":
        record.add(NAME, skipped="needs a GPU")
        return 0
    checks = module.check_gpu()
    for check in checks:
        record.add(check.name, found=check.found, problem=check.problem)
    return int(any(check.problem for check in checks))


if __name__ == "__main__":
    sys.exit(main())
