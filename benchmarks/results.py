"""Results as JSON files, each written as a whole, so that what was measured last survives whatever comes next."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS = Path(__file__).parent / "results"


def today() -> str:
    """The date as results have it, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def about(workload: str) -> dict[str, Any]:
    """What was measured, when, with which commit and on what."""
    return {"workload": workload, "date": today(), "commit": machine.commit(), "machine": machine.machine()}


def write(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a result under a temporary name, then rename it; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path
