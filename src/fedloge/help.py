"""The short help of ``fedloge fit``, and the full one without the markup of docstrings."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedloge.errors import FedlogeError

COMMON: tuple[tuple[str, object, str], ...] = (
    ("trainer.rounds", 500, "rounds T"),
    ("trainer.local_epochs", 5, "epochs E that a client trains in a round"),
    ("trainer.participation", 1.0, "fraction of the clients in a round"),
    ("trainer.executor", "auto", "serial, processes, cuda or ray"),
    ("trainer.seed", 3407, "seed of the training (data.seed: the split)"),
    ("trainer.run_dir", None, "folder of the run (runs/<method>)"),
    ("trainer.logger", None, "wandb, tensorboard or csv"),
    ("model", None, "a method, such as FedLoGe or FedAvg"),
    ("model.backbone", None, "a backbone, such as SmallCNN or ResNet"),
    ("model.lr", 0.03, "learning rate of local SGD"),
    ("data.source", None, "images, such as CIFAR10 or ImageFolder"),
    ("data.num_clients", 40, "clients K"),
    ("data.alpha", 0.5, "concentration α of the Dirichlet split"),
    ("data.imbalance_factor", 100.0, "images of the largest class / smallest"),
    ("data.batch_size", 8, "batch size of local training"),
)
"""Options that most runs set: name, default, and meaning."""

TOPICS = ("all", "trainer", "model", "data")

FIT = """usage: fedloge fit --config FILE [--SECTION.OPTION=VALUE ...]

Train a method on a long-tailed dataset that is split over clients, realign and
evaluate it, and write the run folder. Options come after --config and override
the file. A value follows = or a space.

"""

MORE = """
  --config FILE            a configuration, such as configs/quickstart.yaml
  --print_config           print the resulting configuration and stop
  --resume                 resume the run in its folder, or start it
  --quiet                  print errors only
  --log_format json        print a JSON object per line
  --report=false           write no report page

All options: fedloge fit --help all, or --help trainer, model or data.
Options of a class: fedloge fit --model.help FedLoGe, --data.source.help CIFAR10
"""


def fit_help() -> str:
    """The short help, which fits on a screen of 80 columns."""
    lines = []
    for name, default, meaning in COMMON:
        value = "" if default is None else f" ({default:g})" if isinstance(default, float) else f" ({default})"
        lines.append(f"  --{name:<22} {meaning}{value}")
    return FIT + "\n".join(lines) + "\n" + MORE


def asked_topic(args: Sequence[str]) -> str | None:
    """Topic of the help that is asked for: ``short``, one of :data:`TOPICS`, or None without ``--help``.

    Raises:
        FedlogeError: If the topic is unknown.
    """
    for position, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in ("-h", "--help"):
            following = "".join(args[position + 1 : position + 2])
            topic = value if equals else "" if following.startswith("-") else following
            if topic and topic not in TOPICS:
                raise FedlogeError(f"--help={topic!r} is unknown. Choose one of {', '.join(TOPICS)}, or name no topic.")
            return topic or "short"
    return None


def full_help(text: str, topic: str) -> str:
    """A help text of jsonargparse without roles and double backquotes, reduced to the options of a section.

    Args:
        text: Help text with all sections, separated by empty lines.
        topic: ``all``, or the name of a section.
    """
    plain = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")
    if topic == "all":
        return plain
    blocks = re.split(r"\n(?=\S)", plain)
    return "\n".join(block for block in blocks if re.search(rf"\n  --{topic}[. ]", block) and "usage:" not in block)
