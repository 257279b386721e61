"""On what, with what, and beside what a measurement was made."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system, and graphics device where there is one."""
    cpuinfo = _read("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    flags = set(re.findall(r"\b(avx2|avx512f|amx_tile)\b", cpuinfo))
    memory = re.search(r"MemTotal:\s*(\d+)", _read("/proc/meminfo"))
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": cores(),
        "vector_units": sorted(flags),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": gpu(),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu() -> str | None:
    """Name of the CUDA device."""
    import torch  # the runner needs it for nothing else

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def commit() -> str:
    """The git commit, with ``+`` where tracked files differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def load() -> float:
    """Load average of the last minute; it still counts what ended just now."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used so far; 0 without /proc."""
    first = _read("/proc/stat").partition("\n")[0].split()[1:]
    if not first:
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, first)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
