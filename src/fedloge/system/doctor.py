"""``fedloge doctor``: checks of this machine and its packages, which work without torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fedloge.system.imports import installed_version

try:
    from packaging.requirements import Requirement
except ModuleNotFoundError:  # reported by _packages
    Requirement = None  # type: ignore[assignment, misc]

EXTRA = "extra"
"""Marker variable of the requirements of an optional extra."""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        name: Name of the checked item.
        found: What was found.
        problem: Problem and remedy; empty if there is none.
        needed: Whether fedloge cannot work with the problem.
    """

    name: str
    found: str
    problem: str = ""
    needed: bool = True


def examine() -> list[Check]:
    """All checks, in the order in which they are printed."""
    return [*_machine(), *_packages(), *_devices(), *_settings()]


def report(checks: list[Check]) -> str:
    """The checks as text; the last line says what is missing."""
    width = max(len(check.name) for check in checks)
    lines = [f"{_sign(check)} {check.name:<{width}}  {_words(check)}" for check in checks]
    broken = [check for check in checks if check.problem and check.needed]
    optional = [check for check in checks if check.problem and not check.needed]
    verdict = f"missing or broken: {', '.join(check.name for check in broken)}" if broken else "nothing is missing"
    if optional:
        verdict += f" ({len(optional)} remark{'s' * (len(optional) > 1)} above)"
    return "\n".join([*lines, "", verdict])


def healthy(checks: list[Check]) -> bool:
    """Whether nothing that fedloge needs is missing."""
    return not any(check.problem and check.needed for check in checks)


def _sign(check: Check) -> str:
    return "ok " if not check.problem else "NO " if check.needed else "-  "


def _words(check: Check) -> str:
    return f"{check.found}: {check.problem}" if check.problem else check.found


def _machine() -> Iterator[Check]:
    version = installed_version("fedloge")
    unknown = "" if version else "its requirements are not known and not checked before `pip install -e .`"
    yield Check("fedloge", version or "a checkout that is not installed", unknown, needed=False)
    yield Check("python", f"{platform.python_version()}, {sys.executable}")
    yield Check("platform", platform.platform())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("processor", f"{cores} cores usable")
    memory = _memory()
    if memory:
        yield Check("memory", memory)
    free = shutil.disk_usage(Path.cwd()).free
    low = "less than 1 GB; the run folder is written here" if free < 1e9 else ""
    yield Check("disk", f"{free / 1e9:.0f} GB free in {Path.cwd()}", low, needed=False)


def _memory() -> str:
    try:
        total, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return ""
    return f"{total * page / 1e9:.1f} GB"


def _packages() -> Iterator[Check]:
    """Requirements that fedloge declares; those of the extras are optional."""
    if Requirement is None:
        yield Check("packaging", "not installed", "pip install -e . installs everything")
        return
    for requirement in sorted(_requirements(), key=lambda r: (_extra(r), r.name.lower())):
        extra, installed = _extra(requirement), installed_version(requirement.name)
        if installed is None:
            remedy = f"pip install 'fedloge[{extra}]'" if extra else f"pip install '{_plain(requirement)}'"
            yield Check(requirement.name, "not installed", remedy, needed=not extra)
        elif not requirement.specifier.contains(installed, prereleases=True):
            yield Check(requirement.name, installed, f"pip install '{_plain(requirement)}'", needed=not extra)
        elif not extra:
            yield Check(requirement.name, installed)


def _requirements() -> Iterator[Requirement]:
    try:
        lines = metadata.requires("fedloge") or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({EXTRA: _extra(requirement)}):
            yield requirement


def _extra(requirement: Requirement) -> str:
    """Optional extra of a requirement; empty for none."""
    text = str(requirement.marker or "")
    return text.partition(f"{EXTRA} == ")[2].strip("\"' )") if EXTRA in text else ""


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _devices() -> Iterator[Check]:
    """CPU threads of torch, and every CUDA device, tested with a small matrix product."""
    try:
        import torch
    except Exception as error:  # a broken installation raises anything
        yield Check("torch", "cannot be imported", f"{error}. Reinstall it.")
        return
    yield Check("threads", f"{torch.get_num_threads()} of torch; --trainer.threads changes them")
    build = f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch was built without CUDA"
    if not torch.cuda.is_available():
        yield Check("cuda", f"no device, runs use the CPU ({build})")
    for index in range(torch.cuda.device_count()):
        yield _cuda_device(index, build)


def _cuda_device(index: int, build: str) -> Check:
    import torch

    name = f"cuda:{index}"
    try:
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found = f"{about.name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {build}"
        ones = torch.ones(64, 64, device=name)
        works = float((ones @ ones).sum()) == 64**3
    except RuntimeError as error:
        return Check(name, build, f"cannot be used: {str(error).splitlines()[0]}. Take --trainer.accelerator=cpu.")
    return Check(name, found, "" if works else "computes wrongly. Take --trainer.accelerator=cpu.")


def _settings() -> Iterator[Check]:
    """Environment variables, if set, that change the speed or the device of fedloge."""
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "WANDB_MODE"):
        if name in os.environ:
            yield Check(name, os.environ[name])
