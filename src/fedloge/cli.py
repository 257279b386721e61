"""The command line: ``fedloge VERB``. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata

from fedloge.errors import FedlogeError

USAGE = """usage: fedloge VERB ...

verbs:
  fit --config FILE [--trainer.rounds=N ...]   train, realign, evaluate, and write a run folder
  fit --config FILE --resume                   go on with the run in its folder, or start it
  fit ... --quiet, --log_format json           no output but errors; a JSON object per line
  resume RUN [--trainer.rounds=N ...]          the same, from the run's own configuration
  test RUN                                     evaluate a saved run again
  realign RUN [--ga_scale=X ...]               realign a trained run again, with other options
  compare --config FILE                        methods x seeds under the same conditions, and their table
  report RUN [RUN ...] [--format html]         a page (html), text (md), table (csv) or picture (png) of runs
  partition --config FILE [--output x.png]     show how the clients would share the data, without training
  doctor                                       versions, devices, and what is missing
  collapse VERB ...                            the neural-collapse lab: `fedloge collapse --help`

options:
  --help, --version      `fedloge VERB --help` tells a verb's options
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; errors of the user are one line on standard error and exit code 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    # Idle OpenMP threads that spin slow everything down on a machine that does anything else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(f"fedloge {metadata.version('fedloge')}")
        return 0
    verbs = {
        "fit": fit,
        "resume": resume,
        "test": test,
        "realign": realign,
        "compare": compare,
        "report": report,
        "partition": partition,
        "doctor": doctor,
        "collapse": collapse,
    }
    try:
        if args[0] not in verbs:
            raise FedlogeError(f"no verb {args[0]!r}. Choose one of {', '.join(verbs)}.")
        return verbs[args[0]](args[1:])
    except FedlogeError as error:
        print(f"fedloge: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"fedloge: interrupted; {stop or 'what was saved until then is kept'}", file=sys.stderr)
        return 128 + getattr(stop, "signum", signal.SIGINT)


def fit(args: Sequence[str]) -> int:
    """``fedloge fit``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", action="store_true")
    known, rest = parser.parse_known_args(args)
    return _fit(rest, "last" if known.resume else None)


def resume(args: Sequence[str]) -> int:
    """``fedloge resume``."""
    parser = _parser("resume", "Go on with a run where its newest checkpoint is; more --trainer.rounds extend it.")
    parser.add_argument("--checkpoint", choices=("last", "previous"), default="last", help="which one to go on from")
    known, overrides = parser.parse_known_args(args)

    from fedloge.runs import run_config

    return _fit([*run_config(known.run), f"--trainer.run_dir={known.run}", *overrides], known.checkpoint)


def _fit(args: Sequence[str], checkpoint: str | None) -> int:
    parser = argparse.ArgumentParser(prog="fedloge fit", add_help=False, allow_abbrev=False)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--log_format", default="text")
    known, rest = parser.parse_known_args(args)
    if known.log_format not in ("text", "json"):
        raise FedlogeError(f"--log_format={known.log_format!r} is unknown. Choose text or json.")

    from rich.console import Console

    from fedloge.config import SaveConfig, build
    from fedloge.progress import JsonProgress, RunProgress
    from fedloge.report.write import WriteReport

    cli = build(rest)
    progress = [] if known.quiet else [JsonProgress() if known.log_format == "json" else RunProgress()]
    console = Console(quiet=known.quiet or known.log_format == "json")
    callbacks = [SaveConfig(cli.resolved()), *progress, *([WriteReport(console)] if cli.config.report else [])]
    cli.trainer.callbacks += callbacks  # type: ignore[attr-defined]
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    finally:
        for callback in progress:
            callback.stop()
    return 0


def test(args: Sequence[str]) -> int:
    """``fedloge test``."""
    parser = _parser("test", "Evaluate a saved run again; nothing is written.")
    known, overrides = parser.parse_known_args(args)

    from fedloge.runs import test_run

    _print_table(test_run(known.run, overrides))
    return 0


def realign(args: Sequence[str]) -> int:
    """``fedloge realign``."""
    parser = _parser("realign", "Do stages 2 and 3 again from a trained run, into a folder of its own.")
    parser.add_argument("--output_dir", help="the new run folder (RUN/realigned-1, -2, ...)")
    for name, text in {
        "ga_scale": "norm of the realigned rows",
        "ga_bias": "keep or drop",
        "la_source": "raw or unit",
        "pm_rule": "la, phi+la, la+psi or phi+psi",
        "finetune_epochs": "epochs on each client after LA-FR",
        "finetune_lr": "learning rate of that",
    }.items():
        parser.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS)
    known, overrides = parser.parse_known_args(args)
    options = vars(known)
    run, output_dir = options.pop("run"), options.pop("output_dir")

    from fedloge.runs import realign_run

    summary, folder = realign_run(run, options, output_dir, overrides)
    _print_table(summary)
    print(f"everything is in {folder}")
    return 0


def compare(args: Sequence[str]) -> int:
    """``fedloge compare``."""
    parser = argparse.ArgumentParser(
        prog="fedloge compare",
        description="Run methods x seeds under the same conditions. Runs that are done are skipped: the same command "
        "goes on where it was interrupted.",
        epilog="Options of `fedloge fit` (--trainer.rounds=2) go to all runs; --output_dir, --seeds and --jobs to the "
        "comparison.",
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="for example configs/studies/compare_quick.yaml"
    )
    known, overrides = parser.parse_known_args(args)

    from rich.console import Console

    from fedloge.compare import load_comparison
    from fedloge.report.comparison import comparison_table, write_comparison
    from fedloge.report.live import CellProgress

    comparison = load_comparison(known.config, overrides)
    with CellProgress() as progress:
        cells = comparison.run(progress.update)
    path = write_comparison(comparison.output_dir, cells)
    console = Console()
    console.print(comparison_table(cells, console.width))
    failed = [cell for cell in cells if cell.error]
    for cell in failed:
        print(f"{cell.name}, seed {cell.seed}, failed: {cell.error} (see {cell.log})", file=sys.stderr)
    print(f"everything is in {path.parent}")
    return 1 if failed else 0


def report(args: Sequence[str]) -> int:
    """``fedloge report``."""
    parser = argparse.ArgumentParser(prog="fedloge report", description="Show finished runs, several side by side.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder")
    parser.add_argument("--output", help="the file (RUN/report.html; report.html here for several runs)")
    parser.add_argument("--format", help="html, md, csv or png (the ending of --output, else html)")
    known = parser.parse_args(args)

    from fedloge.report.write import write_report

    print(write_report(known.runs, known.output, known.format))
    return 0


def partition(args: Sequence[str]) -> int:
    """``fedloge partition``."""
    parser = argparse.ArgumentParser(
        prog="fedloge partition",
        description="Split the data as `fedloge fit` would, and show the split; nothing is trained.",
        epilog="Options of `fedloge fit` are taken, --config among them.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", help="a PNG file for a heat map of clients and classes")
    known, options = parser.parse_known_args(args)

    from rich.console import Console

    from fedloge.config import build
    from fedloge.report.preview import preview_partition

    cli = build(options)
    preview_partition(cli.datamodule, cli.trainer.shot_rule, known.output, Console())
    return 0


def doctor(args: Sequence[str]) -> int:
    """``fedloge doctor``; 1 where something needed is missing."""
    description = "Print the environment, versions and devices, and what is missing."
    argparse.ArgumentParser(prog="fedloge doctor", description=description).parse_args(args)

    from fedloge import doctor as office

    checks = office.examine()
    print(office.report(checks))
    return 0 if office.healthy(checks) else 1


def collapse(args: Sequence[str]) -> int:
    """``fedloge collapse``."""
    from fedloge.analysis.collapse.command import main

    return main(args)


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"fedloge {verb}", description=description, epilog="Options of `fedloge fit` are taken too."
    )
    parser.add_argument("run", metavar="RUN", help="a run folder")
    return parser


def _print_table(summary: dict[str, object]) -> None:
    from rich.console import Console

    from fedloge.report.tables import accuracy_table

    Console().print(accuracy_table(summary))
