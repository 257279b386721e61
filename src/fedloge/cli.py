"""The command line: ``fedloge VERB``. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import fedloge
from fedloge.checks import check_paths, check_text
from fedloge.errors import FedlogeError, did_you_mean
from fedloge.help import asked_topic, fit_help, full_help
from fedloge.options import FLAGS, check_options, joined, read_mapping
from fedloge.runs.locate import require_run, run_config
from fedloge.system.configs import resolved
from fedloge.system.imports import loading
from fedloge.system.interrupts import Interrupts
from fedloge.system.live import Line, drawn
from fedloge.system.output import lenient_output

DRY_RUN = "list the runs and their folders, and run nothing"
EPILOG = "Options of `fedloge fit` are accepted too."


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the complaint."""
        raise FedlogeError(f"{message}. `{self.prog} --help` lists the options.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; errors of the user are one line on standard error and exit code 2.

    Signals that end the process let it save and clean up first, and no output ends it.
    """
    with lenient_output(), Interrupts() as interrupts:
        return _run(list(sys.argv[1:] if argv is None else argv), interrupts)


def _run(args: list[str], interrupts: Interrupts) -> int:
    # Idle OpenMP threads that spin slow everything down on a machine that does anything else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(f"fedloge {fedloge.__version__ or 'from a checkout, not installed'}")
        return 0
    try:
        check_text(args, "of the command line")
        if args[0] not in VERBS:
            raise FedlogeError(f"no verb {args[0]!r}.{did_you_mean(args[0], VERBS)} Choose one of {', '.join(VERBS)}.")
        return VERBS[args[0]](resolved(args[0], args[1:]))
    except FedlogeError as error:
        print(f"fedloge: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"fedloge: interrupted; {str(stop) or 'everything saved so far is kept'}", file=sys.stderr)
        return 128 + int(getattr(stop, "signum", interrupts.signum))


def fit(args: Sequence[str]) -> int:
    """``fedloge fit``."""
    if topic := asked_topic(args):
        return _fit_help(topic)
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", action="store_true")
    known, rest = _known(parser, args)
    return _fit(rest, "last" if known.resume else None)


def _fit_help(topic: str) -> int:
    """Print the short help, for which torch is not imported, or that of all options."""
    if topic == "short":
        print(fit_help(), end="")
        return 0
    _load()

    from fedloge.config import help_text

    print(full_help(help_text(), topic), end="")
    return 0


def resume(args: Sequence[str]) -> int:
    """``fedloge resume``."""
    parser = _parser("resume", "Resume a run from its newest checkpoint; more --trainer.rounds extend it.")
    parser.add_argument("--checkpoint", choices=("last", "previous"), default="last", help="the one to resume from")
    known, overrides = _known(parser, args)
    return _fit([*run_config(known.run), f"--trainer.run_dir={known.run}", *overrides], known.checkpoint)


def _fit(args: Sequence[str], checkpoint: str | None) -> int:
    parser = Parser(prog="fedloge fit", add_help=False, allow_abbrev=False)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--log_format", default="text")
    known, rest = _known(parser, args)
    if known.log_format not in ("text", "json"):
        raise FedlogeError(f"--log_format={known.log_format!r} is unknown. Choose text or json.")
    if known.quiet and known.log_format == "json":
        raise FedlogeError("--quiet prints nothing and --log_format=json a line per round. Leave one of them out.")
    check_options(rest, (*vars(known), "resume"))
    _load(quiet=known.quiet or known.log_format == "json")

    from fedloge.runs.run import fit_run

    with nullcontext() if known.quiet or known.log_format == "json" else drawn():
        fit_run(rest, checkpoint, known.log_format, known.quiet)
    return 0


@drawn()
def test(args: Sequence[str]) -> int:
    """``fedloge test``."""
    parser = _parser("test", "Evaluate a saved run again; the run folder is not changed.")
    text = "write the class probabilities of all test images to this .csv or .parquet file"
    parser.add_argument("--predictions", metavar="FILE", help=text)
    known, overrides = _parse(parser, args)

    from fedloge.inference.models import load_finished
    from fedloge.inference.predictions import write_predictions
    from fedloge.runs.run import test_run

    if known.predictions:
        print(write_predictions(load_finished(known.run, overrides, data=True), known.predictions))
        return 0
    _print_table(test_run(known.run, overrides))
    return 0


@drawn()
def realign(args: Sequence[str]) -> int:
    """``fedloge realign``."""
    parser = _parser("realign", "Repeat stages 2 and 3 of a trained run with other options, into a new folder.")
    parser.add_argument("--output_dir", help="the new run folder (RUN/realigned-1, -2, ...)")
    for name, text in {
        "ga_scale": "norm of the realigned rows",
        "ga_bias": "keep or drop",
        "la_source": "raw or unit",
        "pm_rule": "la, phi+la, la+psi or phi+psi",
        "finetune_epochs": "epochs on each client after LA-FR",
        "finetune_lr": "learning rate of these epochs",
    }.items():
        parser.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS)
    known, overrides = _parse(parser, args)
    options = vars(known)
    run, output_dir = options.pop("run"), options.pop("output_dir")

    from fedloge.runs.run import realign_run

    summary, folder = realign_run(run, options, output_dir, overrides)
    _print_table(summary)
    print(f"everything is in {folder}")
    return 0


def compare(args: Sequence[str]) -> int:
    """``fedloge compare``."""
    parser = Parser(
        prog="fedloge compare",
        description="Run methods x seeds under the same conditions. Finished runs are skipped, so the same command "
        "resumes an interrupted comparison.",
        epilog="Options of `fedloge fit` (--trainer.rounds=2) apply to all runs; --output_dir, --seeds=0,1 and --jobs "
        "to the comparison.",
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="for example configs/studies/compare_quick.yaml"
    )
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    known, overrides = _known(parser, args)
    read_mapping(known.config, "--config")
    _load("fedloge.experiments.live")

    from fedloge.experiments.compare import load_comparison, report_comparison

    return _run_plans([load_comparison(known.config, overrides)], report_comparison, "method", known.dry_run)


def study(args: Sequence[str]) -> int:
    """``fedloge study``."""
    parser = Parser(
        prog="fedloge study",
        description="Run tables and figures of the paper at a scale that fits the machine. Studies share runs, and "
        "finished ones are skipped, so the same command resumes an interrupted study.",
        epilog="Options of `fedloge fit` (--trainer.executor=cuda) apply to all runs, as does --seeds=0,1.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="for example configs/studies/table3.yaml")
    parser.add_argument("--scale", default="tiny", help="tiny (digits, minutes), small (CIFAR-10, hours) or full")
    parser.add_argument("--output_dir", default="runs/studies", help="folder of tables and runs (runs/studies)")
    parser.add_argument("--jobs", type=int, help="runs at once; one per core by default (take 1 for a GPU)")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    known, overrides = _known(parser, args)
    for file in known.files:
        read_mapping(file, "FILE")
    _load("fedloge.experiments.study_report")

    from fedloge.experiments.study import load_study
    from fedloge.experiments.study_report import check_measures, report_study

    plans = [load_study(file, known.scale, overrides, known.output_dir, known.jobs) for file in known.files]
    for plan in plans:
        check_measures(plan)
    return _run_plans(plans, report_study, "run", known.dry_run)


def sweep(args: Sequence[str]) -> int:
    """``fedloge sweep``."""
    parser = Parser(
        prog="fedloge sweep",
        description="Run a W&B sweep file on this machine, without a server: grid or random. Finished runs are "
        "skipped, so the same command resumes an interrupted sweep.",
        epilog="Options of `fedloge fit` (--trainer.rounds=2) apply to all runs; --seeds=0,1 runs every setting "
        "with each seed.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="for example configs/sweeps/gamma_beta.yaml")
    parser.add_argument("--output_dir", help="folder of tables and runs (runs/<name of the file>)")
    parser.add_argument("--jobs", type=int, help="runs at once; one per core by default")
    parser.add_argument("--runs", type=int, dest="run_cap", help="runs at most; the file's run_cap by default")
    parser.add_argument("--seed", type=int, help="seed of random draws (0)")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    known, overrides = _known(parser, args)
    settings = vars(known)
    file, dry_run = settings.pop("file"), settings.pop("dry_run")
    read_mapping(file, "FILE")
    _load("fedloge.experiments.sweep_report")

    from fedloge.experiments.sweep import load_sweep
    from fedloge.experiments.sweep_report import report_sweep

    return _run_plans([load_sweep(file, overrides, **settings)], report_sweep, "setting", dry_run)


@drawn()
def predict(args: Sequence[str]) -> int:
    """``fedloge predict``."""
    parser = _parser("predict", "Classify images with one of the models of a run.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, or a folder of images")
    parser.add_argument(
        "--client", metavar="K", help="number or name of a client, or folder of a new one (generic model)"
    )
    parser.add_argument("--format", choices=["table", "csv", "json"], default="table")
    parser.add_argument("--convert", action="store_true", help="scale, crop and convert images that do not fit")
    known, overrides = _parse(parser, args, "images")

    from fedloge.inference.models import load_finished
    from fedloge.inference.predict import predict_images, print_predictions

    run = load_finished(known.run, overrides)
    predictions = list(predict_images(run, known.images, known.client, known.convert))
    print_predictions(predictions, run.record.class_names, known.format)
    return 0


@drawn()
def export(args: Sequence[str]) -> int:
    """``fedloge export``."""
    parser = _parser("export", "Write the models of a run for use elsewhere: one body, and a small head per model.")
    parser.add_argument("--client", metavar="K", help="number, name or folder of a client, or all (generic model)")
    parser.add_argument("--format", choices=["safetensors", "onnx", "torchscript"], default="safetensors")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new or empty folder")
    known, overrides = _parse(parser, args)

    from fedloge.inference.export import export_models
    from fedloge.inference.models import load_finished

    files = export_models(load_finished(known.run, overrides), known.client, known.format, known.output)
    for file in files:
        print(f"{file.stat().st_size:>12,} bytes  {file}")
    return 0


@drawn()
def new_client(args: Sequence[str]) -> int:
    """``fedloge new-client``."""
    parser = _parser("new-client", "Make a personal model for a client that did not take part, from its images.")
    parser.add_argument("data", metavar="DATA", help="folder with its images: DATA/<class>/*")
    parser.add_argument("--output", metavar="DIR", help="folder for its model (RUN/new_clients/<name of DATA>)")
    parser.add_argument("--epochs", type=int, default=100, help="epochs for its own layers, body frozen (100)")
    parser.add_argument("--convert", action="store_true", help="scale, crop and convert images that do not fit")
    known, overrides = _parse(parser, args, "data")

    from fedloge.inference.models import load_finished
    from fedloge.inference.new_client import add_client

    run = load_finished(known.run, overrides)
    folder, about = add_client(run, known.data, known.output, known.epochs, known.convert)
    accuracies = ", ".join(f"{kind} {100 * value:.1f} %" for kind, value in about["accuracy"].items())
    print(f"{about['images']} images of {len(about['class_counts'])} classes; trained: {about['trained']}")
    print(f"accuracy on these images, which it was trained on: {accuracies}")
    print(f"its model is in {folder}: fedloge predict {known.run} --client {folder} IMAGES...")
    return 0


@drawn()
def embed(args: Sequence[str]) -> int:
    """``fedloge embed``."""
    parser = argparse.ArgumentParser(
        prog="fedloge embed",
        description="Write the features of all images of a source, for training on features alone "
        "(--data.source=Features --data.source.file=FILE --model.backbone=Identity).",
        epilog="The data and the backbone are given by options of `fedloge fit`, --config among them.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="an .npz or .parquet file to write")
    parser.add_argument("--run", metavar="RUN", help="a run whose trained generic body is used")
    known, options = parser.parse_known_args(args)
    check_options([*(run_config(known.run) if known.run else []), *options], vars(known))
    _load()

    from fedloge.inference.embed import embed_source

    rows, length = embed_source(options, known.output, known.run)["features"].shape
    print(f"{rows:,} vectors of {length} features are in {known.output}")
    return 0


@drawn()
def report(args: Sequence[str]) -> int:
    """``fedloge report``."""
    description = "Write a report of one finished run, or of several side by side."
    parser = Parser("fedloge report", description=description)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder")
    parser.add_argument("--output", help="file to write (RUN/report.html; report.html here for several runs)")
    parser.add_argument("--format", help="html, md, csv or png (by the ending of --output, else html)")
    known = parser.parse_args(args)
    for run in known.runs:
        require_run(run)
    _load("fedloge.report.write")

    from fedloge.report.write import write_report

    print(write_report(known.runs, known.output, known.format))
    return 0


@drawn()
def analyze(args: Sequence[str]) -> int:
    """``fedloge analyze``."""
    parser = Parser(
        prog="fedloge analyze",
        description="Feature degeneration, pruning, class means, angles and norms of heads, and neural collapse of the "
        "generic model of runs: tables, figures and a reading. Nothing is trained.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder")
    parser.add_argument("--output", metavar="DIR", help="folder to write (RUN/analysis); required for several runs")
    shown = "class whose features are drawn, by name or number; repeatable (one each of many, medium, few)"
    parser.add_argument("--class", dest="classes", metavar="NAME", action="append", default=[], help=shown)
    parser.add_argument("--state", default="last", help="last (as trained, the default) or final (after realignment)")
    known, overrides = _known(parser, args)
    if len(known.runs) > 1 and not known.output:
        raise FedlogeError("several runs need a folder for their common results. Give --output=DIR.")
    for run in known.runs:
        check_options([*run_config(run), *overrides], vars(known))
    _load()

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


@drawn()
def partition(args: Sequence[str]) -> int:
    """``fedloge partition``."""
    description = "Split the data as `fedloge fit` would, and show the split; nothing is trained."
    epilog = "Options of `fedloge fit` are accepted, --config among them."
    parser = Parser("fedloge partition", description=description, epilog=epilog, allow_abbrev=False)
    parser.add_argument("--output", help="PNG file for a heat map of clients and classes")
    known, options = _known(parser, args)
    check_options(options, vars(known))
    _load()

    from rich.console import Console

    from fedloge.config import build
    from fedloge.report.preview import preview_partition

    cli = build(options)
    preview_partition(cli.datamodule, cli.trainer.shot_rule, known.output, Console())
    return 0


def configs(args: Sequence[str]) -> int:
    """``fedloge configs``."""
    from fedloge.system.configs import copy, listing, names

    description = "List the configurations that come with the package, or copy them. fit, compare, study, sweep, "
    parser = Parser(
        prog="fedloge configs",
        description=f"{description}partition and collapse take their names in place of a file.",
        usage="fedloge configs [copy NAME... DIR | copy --all DIR]",
        allow_abbrev=False,
    )
    parser.add_argument("action", nargs="?", choices=("list", "copy"), default="list", help="list (default) or copy")
    parser.add_argument("names", nargs="*", metavar="NAME... DIR", help="what to copy, and the folder to copy it to")
    parser.add_argument("--all", action="store_true", help="copy everything")
    known = parser.parse_intermixed_args(args)
    if known.action == "list":
        if known.names or known.all:
            raise FedlogeError("`fedloge configs` lists; write `fedloge configs copy NAME DIR` to copy.")
        print("\n".join(listing()))
        return 0
    *chosen, target = known.names or [""]
    if not target or bool(chosen) == known.all:
        raise FedlogeError("write `fedloge configs copy NAME DIR`, or --all in place of the name.")
    for path in copy(names() if known.all else chosen, target):
        print(path)
    return 0


@drawn()
def doctor(args: Sequence[str]) -> int:
    """``fedloge doctor``; returns 1 if a required package is missing, or the check of the GPU fails."""
    description = "Print the environment, versions, devices and missing packages."
    parser = Parser(prog="fedloge doctor", description=description)
    parser.add_argument("--gpu", action="store_true", help="also train a small network on the GPU, by captured steps")
    known = parser.parse_args(args)

    from fedloge.system import doctor as office

    with Line("examining this machine"):
        checks = office.examine()
    if known.gpu:
        _load("fedloge.executors.cuda.check")
        from fedloge.executors.cuda.check import check_gpu

        checks += check_gpu()
    print(office.report(checks))
    return 0 if office.healthy(checks) else 1


@drawn()
def collapse(args: Sequence[str]) -> int:
    """``fedloge collapse``."""
    from fedloge.collapse.lab.command import main

    return main(args)


def _run_plans(plans: Sequence[Any], report: Callable[[Any, Any], None], rows: str, dry_run: bool) -> int:
    """Run plans and report each; returns 1 if a run failed. A dry run lists the runs only."""
    from rich.console import Console

    from fedloge.experiments.live import CellProgress, list_cells
    from fedloge.experiments.plan import check_plans
    from fedloge.experiments.tables import failures

    check_plans(plans)
    console, code = Console(), 0
    for plan in plans:
        if dry_run:
            list_cells(plan.cells(), console)
            continue
        with CellProgress(console, rows) as progress:
            plan.run(progress.update)
        report(plan, console)
        failed = failures(plan.cells())
        for line in failed:
            print(line, file=sys.stderr)
        print(f"everything is in {plan.output_dir}")
        code |= bool(failed)
    return code


def _known(parser: argparse.ArgumentParser, args: Sequence[str]) -> tuple[Any, list[str]]:
    """The arguments that a verb knows, and options of ``fedloge fit``, in one word each."""
    own = [flag for action in parser._actions for flag in action.option_strings]
    return parser.parse_known_args(joined(args, (*own, *FLAGS)))


def _parse(parser: argparse.ArgumentParser, args: Sequence[str], files: str = "") -> tuple[Any, list[str]]:
    """Parse the arguments of a verb with a RUN, check what does not need torch, then import torch.

    Args:
        parser: Parser of the verb's own arguments; the others are options of ``fedloge fit``.
        args: The arguments.
        files: Name of an argument with files or folders to read.
    """
    known, overrides = _known(parser, args)
    check_options([*run_config(known.run), *overrides], vars(known))
    paths = getattr(known, files, [])
    check_paths(paths if isinstance(paths, list) else [paths])
    _load()
    return known, overrides


def _load(module: str = "fedloge.config", quiet: bool = False) -> None:
    """Import a module that may need torch, after everything that can be checked without it."""
    with loading(quiet):
        importlib.import_module(module)


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    parser = Parser(f"fedloge {verb}", description=description, epilog=EPILOG)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    return parser


def _print_table(summary: dict[str, object]) -> None:
    from rich.console import Console

    from fedloge.report.tables import accuracy_table

    Console().print(accuracy_table(summary))


LISTING: tuple[tuple[str, str, Callable[[Sequence[str]], int]], ...] = (
    ("fit --config FILE [--trainer.rounds=N ...]", "train, realign, evaluate, and write a run folder", fit),
    ("fit --config FILE --resume", "resume the run in its folder, or start it", fit),
    ("fit ... --quiet, --log_format json", "print errors only, or a JSON object per line", fit),
    ("resume RUN [--trainer.rounds=N ...]", "resume a run with its own configuration", resume),
    ("test RUN", "evaluate a finished run again", test),
    ("realign RUN [--ga_scale=X ...]", "realign a trained run again, with other options", realign),
    ("compare --config FILE", "methods x seeds under the same conditions, and their table", compare),
    ("study FILE [--scale=tiny|small|full ...]", "a table or figure of the paper beside the printed numbers", study),
    ("sweep FILE [--jobs=4 ...]", "the runs of a W&B sweep file on this machine; table and heat map", sweep),
    ("predict RUN [--client K] IMAGES...", "classes of images, by the generic or a client's model", predict),
    ("export RUN [--client K|all] --output DIR", "the models as safetensors, ONNX or TorchScript", export),
    ("new-client RUN DATA [--output DIR]", "a personal model for a client that did not take part", new_client),
    ("embed [--run RUN] --output FILE ...", "features of all images in a file, to train on them alone", embed),
    ("report RUN [RUN ...] [--format html]", "a page (html), text (md), table (csv) or picture (png) of runs", report),
    ("analyze RUN [RUN ...] [--output DIR]", "features and heads of runs: degeneration, pruning, angles", analyze),
    (
        "partition --config FILE [--output x.png]",
        "show the split of the data over clients; train nothing",
        partition,
    ),
    ("configs [copy NAME|--all DIR]", "list or copy the configurations of the package", configs),
    ("doctor", "versions, devices, and missing packages", doctor),
    ("collapse VERB ...", "the neural-collapse lab: `fedloge collapse --help`", collapse),
)
"""Usage, meaning and function of every verb."""

VERBS = {usage.split()[0]: function for usage, _, function in LISTING}

USAGE = (
    "usage: fedloge VERB ...\n\nverbs:\n"
    + "".join(f"  {usage:<44} {meaning}\n" for usage, meaning, _ in LISTING)
    + "\noptions:\n  --help, --version      `fedloge VERB --help` lists the options of a verb\n"
)
