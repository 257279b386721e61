"""What is done on a GPU that is there for ten minutes only, as data: stages, their processes and their limits."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.machine import ROOT

SECONDS = 570.0
"""Of all stages together."""
NO_GPU = 40
"""Exit status of a part that needs a GPU where there is none."""
SHARES = 4
"""Processes among which the ``gpu`` tests are divided."""


@dataclass(frozen=True)
class Part:
    """A process of a stage.

    Args:
        name: Name within the stage; its output and its files carry it.
        command: Arguments of Python. ``{file}`` is the JSON file of the part, ``{folder}`` the folder of all of them,
            ``{profile}`` full or quick, ``{seconds}`` and ``{minutes}`` the time that it has.
        seconds: Limit; the process is stopped then.
        after: Part of an earlier group that must have failed for this one to run.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    after: str = ""


@dataclass(frozen=True)
class Stage:
    """A stage: groups of parts, one group after the other, the parts of a group at the same time.

    Args:
        about: What it tells.
        seconds: Limit of the stage; it is dropped where less than half of that is left.
        groups: Groups of parts.
    """

    about: str
    seconds: float
    groups: tuple[tuple[Part, ...], ...]

    @property
    def least(self) -> float:
        """Seconds without which it is not begun."""
        return self.seconds / 2


def own(name: str, seconds: float, module: str, *arguments: str, after: str = "") -> Part:
    """A module of this package, which writes its measurements into ``{file}``."""
    kept = ("--output", "{file}", "--profile", "{profile}", "--seconds", "{seconds}")
    return Part(name, ("-m", f"benchmarks.first_gpu.{module}", *arguments, *kept), seconds, after=after)


def workload(name: str, seconds: float) -> Part:
    """A workload of :mod:`benchmarks.run`, fedloge alone; it writes its result into ``{folder}``."""
    alone = ("--workload", name, "--against", "none", "--pairs", "1")
    kept = ("--minutes", "{minutes}", "--profile", "{profile}", "--results", "{folder}")
    return Part(name, ("-m", "benchmarks.run", *alone, *kept), seconds)


def marked() -> list[str]:
    """Files with tests that need a CUDA device."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in tests if "mark.gpu" in path.read_text(encoding="utf-8")]


def tests(shares: int) -> tuple[Part, ...]:
    """The ``gpu`` tests, divided among processes; where one hangs, the others say so, and where it hangs."""
    chosen = ("-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=40")
    share = ("-p", "benchmarks.first_gpu.shares", "--share")
    return tuple(
        Part(f"tests-{number}", (*chosen, *share, f"{number}/{shares}", *marked()), 75)
        for number in range(1, shares + 1)
    )


def stages(profile: str) -> tuple[Stage, ...]:
    """The stages in order, the most telling first."""
    return (
        Stage(
            "versions, ceilings of copies, products and launches, a tiny fit", 30, ((own("ceilings", 30, "ceilings"),),)
        ),
        Stage(
            "one ResNet-18 step: eager, captured, 100 replays equal to eager",
            60,
            (
                (own("step", 25, "step", "--until", "sgd"),),
                *((own(part, 12, "step", "--until", part, after="step"),) for part in ("forward", "backward")),
                (own("relaxed", 12, "step", "--until", "sgd", "--mode", "relaxed", after="step"),),
                (own("check", 25, "check"),),
            ),
        ),
        Stage(
            "the gpu tests, and two lanes under torch's CUDA sanitizer",
            110,
            (tests(1 if profile == "quick" else SHARES), (own("sanitized", 35, "sanitized"),)),
        ),
        Stage(
            "milliseconds per client-step by lanes, BatchNorm, cuDNN's benchmark and precision",
            120,
            tuple((own(kind, 60, "lanes", "--batchnorm", kind),) for kind in ("native", "cudnn")),
        ),
        Stage(
            "convolutions with 1, 8 and 16 groups, the kernels of a replay, the compiled step",
            100,
            (
                (own("convolutions", 40, "convolutions"),),
                (own("kernels", 20, "step", "--until", "kernels"),),
                (own("compiled", 40, "step", "--until", "compiled"),),
            ),
        ),
        Stage("gpu-c10, fedloge alone, three rounds", 90, ((workload("gpu-c10", 90),),)),
        Stage("gpu-c100, fedloge alone, two rounds", 60, ((workload("gpu-c100", 60),),)),
    )
