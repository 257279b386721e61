"""Preview of a partition before training: table, statistics and hash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fedloge.data.datamodule import FederatedDataModule
from fedloge.data.partition import Partition
from fedloge.data.splits import Ints
from fedloge.data.statistics import Floats, distance_to_global, effective_classes, present_classes
from fedloge.errors import ConfigError
from fedloge.evaluation.shots import ShotRule, shots
from fedloge.markup import rich_text
from fedloge.system.live import Line
from fedloge.system.storage import write_whole


def preview_partition(data: FederatedDataModule, shot_rule: ShotRule, output: str | None, console: Console) -> None:
    """Make the split that a run would make, print its statistics, and draw it; nothing is trained.

    Args:
        data: Configured data.
        shot_rule: Rule that groups classes into many, medium and few.
        output: PNG file of the heat map; None draws none.
        console: Console to print to.

    Raises:
        ConfigError: If the file is not a PNG or cannot be written.
    """
    if output and Path(output).suffix.lower() != ".png":
        raise ConfigError("output", output, "is not a .png file", "The heat map is drawn as PNG.")
    with Line("reading and splitting the data"):
        data.prepare_data()
        data.setup("fit")
    partition = data.partition
    console.print(client_table(partition, data.class_names))
    for line in lines(partition, shot_rule):
        console.print(rich_text(line), soft_wrap=True)
    if output:
        _draw(partition, data.class_names, Path(output))
        console.print(rich_text(f"heat map: {output}"), soft_wrap=True)


def client_table(partition: Partition, class_names: Sequence[str]) -> Table:
    """A row per client: numbers of images and classes, distance to the global distribution, largest class."""
    counts = partition.train_counts
    table = Table(title=f"{len(counts)} clients, {counts.sum():,} training images, {counts.shape[1]} classes")
    for column in ("client", "train", "test", "classes", "effective", "distance"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("largest class")
    columns = (effective_classes(counts), distance_to_global(counts), present_classes(counts))
    for k, (effective, distance, present) in enumerate(zip(*columns, strict=True)):
        largest = int(counts[k].argmax())
        share = counts[k, largest] / max(counts[k].sum(), 1)
        table.add_row(
            partition.label(k),
            str(counts[k].sum()),
            str(partition.test_counts[k].sum()),
            str(present),
            f"{effective:.1f}",
            f"{distance:.2f}",
            rich_text(f"{class_names[largest]} ({share:.0%})"),
        )
    table.caption = (
        "effective: exp(entropy) of the client's class shares; distance: total variation between these and the shares "
        "of all clients together, 0 to 1; test: the client's own test images"
    )
    return table


def lines(partition: Partition, shot_rule: ShotRule) -> list[str]:
    """Lines about the split: scheme, groups of classes, ranges over the clients, hash."""
    counts = partition.train_counts
    whole = counts.sum(0)
    groups = shots(whole.tolist(), shot_rule)
    alpha = f", alpha {partition.alpha:g}" if partition.has_alpha else ""
    grouped = ", ".join(f"{groups.count(group)} {group}" for group in ("many", "medium", "few"))
    return [
        f"scheme: {partition.scheme}{alpha}, seed {partition.seed}, {partition.imbalance}",
        f"classes: {whole.max():,} to {whole.min():,} images; {grouped} (by {shot_rule})",
        f"training images of a client: {_range(counts.sum(1), 'g')}",
        f"test images of a client: {_range(partition.test_counts.sum(1), 'g')}",
        f"effective classes: {_range(effective_classes(counts), '.1f')}",
        f"distance to global: {_range(distance_to_global(counts), '.2f')}",
        f"sha256: {partition.sha256}",
    ]


def _range(values: Ints | Floats, form: str) -> str:
    return f"{values.min():{form}} to {values.max():{form}} (median {np.median(values):{form}})"


def _draw(partition: Partition, class_names: Sequence[str], output: Path) -> None:
    from fedloge.report.pictures import partition_picture

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, partition_picture(partition, class_names))
    except OSError as error:
        raise ConfigError(
            "output", str(output), f"cannot be written: {error.strerror}", "Choose another file."
        ) from error
