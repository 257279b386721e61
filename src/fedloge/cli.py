"""The command line: ``fedloge VERB``. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from fedloge.errors import FedlogeError

if TYPE_CHECKING:
    from fedloge.experiments.runner import Cell

USAGE = """usage: fedloge VERB ...

verbs:
  fit --config FILE [--trainer.rounds=N ...]   train, realign, evaluate, and write a run folder
  fit --config FILE --resume                   go on with the run in its folder, or start it
  fit ... --quiet, --log_format json           no output but errors; a JSON object per line
  resume RUN [--trainer.rounds=N ...]          the same, from the run's own configuration
  test RUN                                     evaluate a saved run again
  realign RUN [--ga_scale=X ...]               realign a trained run again, with other options
  compare --config FILE                        methods x seeds under the same conditions, and their table
  study FILE [--scale=tiny|small|full ...]     a table or figure of the paper, ours beside the printed numbers
  sweep FILE [--jobs=4 ...]                    the runs of a W&B sweep file, here; their table and heat map
  predict RUN [--client K] IMAGES...           classes of images, by the generic or a client's model
  export RUN [--client K|all] --output DIR     the models as safetensors, ONNX or TorchScript
  new-client RUN DATA [--output DIR]           a personal model for a client that never took part
  report RUN [RUN ...] [--format html]         a page (html), text (md), table (csv) or picture (png) of runs
  analyze RUN [RUN ...] [--output DIR]         what features and heads of runs are like: degeneration, pruning, angles
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
        "study": study,
        "sweep": sweep,
        "predict": predict,
        "export": export,
        "new-client": new_client,
        "report": report,
        "analyze": analyze,
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
        print(f"fedloge: interrupted; {str(stop) or 'what was saved until then is kept'}", file=sys.stderr)
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

    from fedloge.runs.run import run_config

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
    from fedloge.report.progress import JsonProgress, RunProgress
    from fedloge.report.write import WriteReport
    from fedloge.tracking import agent_options

    cli = build([*rest, *agent_options(rest)])
    progress = [] if known.quiet else [JsonProgress() if known.log_format == "json" else RunProgress()]
    console = Console(quiet=known.quiet or known.log_format == "json")
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    callbacks.insert(0, SaveConfig(cli.resolved()))  # loggers read the saved configuration
    callbacks += [*progress, *([WriteReport(console)] if cli.config.report else [])]
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

    from fedloge.runs.run import test_run

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

    from fedloge.runs.run import realign_run

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

    from fedloge.experiments.compare import load_comparison
    from fedloge.experiments.live import CellProgress
    from fedloge.experiments.tables import comparison_table, write_comparison

    comparison = load_comparison(known.config, overrides)
    with CellProgress() as progress:
        cells = comparison.run(progress.update)
    path = write_comparison(comparison.output_dir, cells)
    console = Console()
    console.print(comparison_table(cells, console.width))
    failed = _tell_failures(cells)
    print(f"everything is in {path.parent}")
    return 1 if failed else 0


def study(args: Sequence[str]) -> int:
    """``fedloge study``."""
    parser = argparse.ArgumentParser(
        prog="fedloge study",
        description="Run tables and figures of the paper at a scale that fits the machine. Studies share runs, and "
        "those that are done are skipped: the same command goes on where it was interrupted.",
        epilog="Options of `fedloge fit` (--trainer.executor=cuda) go to all runs, as does --seeds=[0,1].",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="for example configs/studies/table3.yaml")
    parser.add_argument("--scale", default="tiny", help="tiny (digits, minutes), small (CIFAR-10, hours) or full")
    parser.add_argument("--output_dir", default="runs/studies", help="where everything goes (runs/studies)")
    parser.add_argument("--jobs", type=int, help="runs at once; one per core by default (take 1 for a GPU)")
    known, overrides = parser.parse_known_args(args)

    from rich.console import Console

    from fedloge.experiments.live import CellProgress
    from fedloge.experiments.study import load_study
    from fedloge.experiments.study_report import banner, check_measures, study_table, study_values, write_study

    console, failed = Console(), 0
    studies = [load_study(file, known.scale, overrides, known.output_dir, known.jobs) for file in known.files]
    for each in studies:
        check_measures(each)
    for each in studies:
        with CellProgress(console, rows="run") as progress:
            cells = each.run(progress.update)
        values = study_values(each)
        path = write_study(each, values)
        console.print(banner(each).replace("**", ""), study_table(each, values), sep="\n\n")
        failed += _tell_failures(cells)
        print(f"everything is in {path.parent}")
    return 1 if failed else 0


def sweep(args: Sequence[str]) -> int:
    """``fedloge sweep``."""
    parser = argparse.ArgumentParser(
        prog="fedloge sweep",
        description="Run a W&B sweep file on this machine, without a server: grid or random. Runs that are done are "
        "skipped: the same command goes on where it was interrupted.",
        epilog="Options of `fedloge fit` (--trainer.rounds=2) go to all runs.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="for example configs/sweeps/gamma_beta.yaml")
    parser.add_argument("--output_dir", help="where everything goes (runs/<name of the file>)")
    parser.add_argument("--jobs", type=int, help="runs at once; one per core by default")
    parser.add_argument("--runs", type=int, dest="run_cap", help="runs at most; the file's run_cap by default")
    parser.add_argument("--seed", type=int, help="of random draws (0)")
    known, overrides = parser.parse_known_args(args)
    settings = vars(known)
    file = settings.pop("file")

    from rich.console import Console

    from fedloge.experiments.live import CellProgress
    from fedloge.experiments.sweep import load_sweep
    from fedloge.experiments.sweep_report import best_note, sweep_table, write_sweep

    plan = load_sweep(file, overrides, **settings)
    with CellProgress(rows="setting") as progress:
        cells = plan.run(progress.update)
    rows = write_sweep(plan, cells)
    Console().print(sweep_table(rows))
    print(best_note(plan, rows))
    failed = _tell_failures(cells)
    print(f"everything is in {plan.output_dir}")
    return 1 if failed else 0


def predict(args: Sequence[str]) -> int:
    """``fedloge predict``."""
    parser = _parser("predict", "Classes and probabilities of images, by one of a run's models.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, or a folder of images")
    parser.add_argument("--client", metavar="K", help="a client's number, or a new client's folder; else the generic")
    parser.add_argument("--format", choices=["table", "csv", "json"], default="table")
    parser.add_argument("--convert", action="store_true", help="scale, crop and convert images that do not fit")
    known, overrides = parser.parse_known_args(args)

    from fedloge.inference.models import load_finished
    from fedloge.inference.predict import predict_images, print_predictions

    run = load_finished(known.run, overrides)
    predictions = list(predict_images(run, known.images, known.client, known.convert))
    print_predictions(predictions, run.data.source.class_names, known.format)
    return 0


def export(args: Sequence[str]) -> int:
    """``fedloge export``."""
    parser = _parser("export", "A run's models for use elsewhere: one body, and a small head for each model.")
    parser.add_argument("--client", metavar="K", help="a client's number or folder, or all; else the generic model")
    parser.add_argument("--format", choices=["safetensors", "onnx", "torchscript"], default="safetensors")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new or empty folder")
    known, overrides = parser.parse_known_args(args)

    from fedloge.inference.export import export_models
    from fedloge.inference.models import load_finished

    files = export_models(load_finished(known.run, overrides), known.client, known.format, known.output)
    for file in files:
        print(f"{file.stat().st_size:>12,} bytes  {file}")
    return 0


def new_client(args: Sequence[str]) -> int:
    """``fedloge new-client``."""
    parser = _parser("new-client", "A personal model for a client that never took part, from its images.")
    parser.add_argument("data", metavar="DATA", help="a folder with its images: DATA/<class>/*")
    parser.add_argument("--output", metavar="DIR", help="where its model goes (RUN/new_clients/<name of DATA>)")
    parser.add_argument("--epochs", type=int, default=100, help="(100) of what it trains of its own on the frozen body")
    parser.add_argument("--convert", action="store_true", help="scale, crop and convert images that do not fit")
    known, overrides = parser.parse_known_args(args)

    from fedloge.inference.models import load_finished
    from fedloge.inference.new_client import add_client

    run = load_finished(known.run, overrides)
    folder, about = add_client(run, known.data, known.output, known.epochs, known.convert)
    accuracies = ", ".join(f"{kind} {100 * value:.1f} %" for kind, value in about["accuracy"].items())
    print(f"{about['images']} images of {len(about['class_counts'])} classes; trained: {about['trained']}")
    print(f"accuracy on these images, which it was trained on: {accuracies}")
    print(f"its model is in {folder}: fedloge predict {known.run} --client {folder} IMAGES...")
    return 0


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


def analyze(args: Sequence[str]) -> int:
    """``fedloge analyze``."""
    parser = argparse.ArgumentParser(
        prog="fedloge analyze",
        description="Feature degeneration, pruning, class means, angles and norms of heads, and neural collapse of the "
        "generic model of runs: tables, figures and a reading. Nothing is trained.",
        epilog="Options of `fedloge fit` are taken too.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder")
    parser.add_argument("--output", metavar="DIR", help="where it goes (RUN/analysis); needed for several runs")
    shown = "a class whose features are drawn, by name or number; can be repeated (one each of many, medium, few)"
    parser.add_argument("--class", dest="classes", metavar="NAME", action="append", default=[], help=shown)
    parser.add_argument("--state", default="last", help="last, as trained (the default), or final, after realignment")
    known, overrides = parser.parse_known_args(args)
    if len(known.runs) > 1 and not known.output:
        raise FedlogeError("several runs are shown side by side in a folder of their own. Give --output=DIR.")

    from fedloge.analysis import analyze_run, analyze_runs
    from fedloge.analysis.text import headline
    from fedloge.tables import print_table

    options = {"state": known.state, "classes": known.classes}
    if len(known.runs) > 1:
        results = analyze_runs(known.runs, known.output, overrides, **options)
    else:
        result = analyze_run(known.runs[0], known.output, overrides, **options)
        results = {result["run"]["name"]: result}
    print_table("generic model", [headline(name, result) for name, result in results.items()])
    print(f"everything is in {known.output or os.path.join(known.runs[0], 'analysis')}")
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

    from fedloge.system import doctor as office

    checks = office.examine()
    print(office.report(checks))
    return 0 if office.healthy(checks) else 1


def collapse(args: Sequence[str]) -> int:
    """``fedloge collapse``."""
    from fedloge.collapse.lab.command import main

    return main(args)


def _tell_failures(cells: Sequence[Cell]) -> int:
    """A line for each cell that failed; returns how many."""
    failed = [cell for cell in cells if cell.error]
    for cell in failed:
        print(f"{cell.name}, seed {cell.seed}, failed: {cell.error} (see {cell.log})", file=sys.stderr)
    return len(failed)


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
