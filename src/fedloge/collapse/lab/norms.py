"""Norms against class sizes: what the closed form says, and the auxiliary head ψ of a FedLoGe run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from fedloge.checks import check_choice, check_positive, check_unused
from fedloge.collapse.lab import theory
from fedloge.collapse.lab.output import Output
from fedloge.errors import ConfigError
from fedloge.tables import print_table


@dataclass(frozen=True)
class Norms:
    """How the norms of a linear head follow the sizes of its classes.

    Args:
        counts: n_k of the closed form.
        layers: Depths M of the closed form.
        lambdas: Ridges λ_W = λ_H of the closed form.
        run: Folder of a ``fedloge fit`` run whose head is compared; null shows theory alone.
        head: Linear layer of its method, trained on all classes.
        state: ``last``, as trained, or ``final``, after realignment.
        output: Folder for frame.csv, frame.png, summary.json, and psi.csv and psi.png of a run.
        overwrite: Replace older files in that folder.
        figure: Draw frame.png, and psi.png of a run.

    Raises:
        ConfigError: For what has no closed form.
    """

    counts: list[int] = field(default_factory=lambda: [1000, 599, 359, 215, 129, 77, 46, 28, 17, 10])
    layers: list[int] = field(default_factory=lambda: [1, 2, 3, 6])
    lambdas: list[float] = field(default_factory=lambda: [1e-5, 1e-3])
    run: str | None = None
    head: str = "psi"
    state: str = "last"
    output: str = "runs/collapse/norms"
    overwrite: bool = False
    figure: bool = True

    def __post_init__(self) -> None:
        check_choice("state", self.state, ("last", "final"))
        if self.run is None:
            check_unused("head", self.head, "psi", "run=null")
            check_unused("state", self.state, "last", "run=null")
        for name in ("layers", "lambdas"):
            if not getattr(self, name):
                raise ConfigError(name, [], "is empty", "Give at least one.")
        for lam in self.lambdas:
            check_positive("lambdas", lam, "1e-5 is a weak ridge, 1e-3 a strong one.")
        for layers in self.layers:
            theory.orthogonal_frame(self.counts, layers)


def slope(sizes: Tensor, norms: Tensor) -> float:
    """Exponent e of the least-squares fit norm ∝ n^e over the classes whose norm is not zero."""
    alive = (norms > 0) & (sizes > 0)
    x, y = sizes[alive].double().log(), norms[alive].double().log()
    x = x - x.mean()
    return float((x @ y) / (x @ x))


def frame_rows(settings: Norms) -> list[dict[str, Any]]:
    """‖w_k‖ and ‖μ_k‖ of the closed form, a row per λ, depth and class."""
    rows = []
    for lam in settings.lambdas:
        for layers in settings.layers:
            frame = theory.orthogonal_frame(settings.counts, layers, lam, lam)
            for k, n in enumerate(settings.counts):
                lengths = {"w": float(frame.weight_norms[k]), "h": float(frame.feature_norms[k])}
                rows.append({"lambda": lam, "layers": layers, "class": k, "n": n, **lengths})
    return rows


def run_rows(settings: Norms) -> list[dict[str, Any]]:
    """n_c over all clients and the norm of the head's row, for every class of a run.

    Raises:
        ConfigError: If its method has no such head.
    """
    from fedloge.data.partition import Partition
    from fedloge.runs.run import load_run

    run = load_run(str(settings.run))
    tensors = run.state(settings.state).shared.tensors
    matrices = [name.removesuffix(".weight") for name, entry in tensors.items() if entry.ndim == 2]
    if settings.head not in matrices:
        problem = "is no shared linear layer of the run"
        raise ConfigError("head", settings.head, problem, f"It has {', '.join(matrices)}.")
    sizes = Partition.load(run.folder.path / "partition.json").train_counts.sum(0)
    norms = tensors[f"{settings.head}.weight"].double().norm(dim=1).tolist()
    names = run.data.source.class_names
    return [{"class": names[c], "n": int(sizes[c]), "norm": norm} for c, norm in enumerate(norms)]


def compare(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Exponent of a run's norms against n_c, their rank correlation, and the closed form's exponent for one layer."""
    sizes, norms = (torch.tensor([row[name] for row in rows]).double() for name in ("n", "norm"))
    return {
        "exponent": slope(sizes, norms),
        "spearman": float(spearman_corrcoef(norms, sizes)),
        "theory": theory.norm_exponent(1),
    }


def run(settings: Norms) -> dict[str, Any]:
    """Write tables and figures of the closed form, and of a run where one is given; print the exponents.

    Returns:
        The content of ``summary.json``.
    """
    rows = run_rows(settings) if settings.run else []
    output = Output(settings.output, overwrite=settings.overwrite)
    frame = frame_rows(settings)
    sizes = torch.tensor(settings.counts)
    exponents = []
    for lam in settings.lambdas:
        for layers in settings.layers:
            part = [row for row in frame if (row["lambda"], row["layers"]) == (lam, layers)]
            w, h = (torch.tensor([row[name] for row in part]) for name in ("w", "h"))
            limit = theory.norm_exponent(layers)
            zeros = int((w == 0).sum())
            key = {"λ": f"{lam:g}", "M": layers}
            exponents.append({**key, "‖w‖": slope(sizes, w), "‖μ‖": slope(sizes, h), "limit": limit, "zero": zeros})
    output.csv("frame.csv", frame)
    print_table("exponent of n_k in the closed form", exponents, caption="limit: M/(2(M+1)); zero: collapsed classes")
    summary: dict[str, Any] = {"settings": asdict(settings), "closed_form": exponents}
    if rows:
        output.csv("psi.csv", rows)
        summary["run"] = compare(rows)
        print_table(f"norms of {settings.head}, {settings.run}", [summary["run"]])
    output.json("summary.json", summary)
    if settings.figure:
        from fedloge.collapse.lab.figures import frame_figure, psi_figure

        output.figure("frame.png", frame_figure(frame))
        if rows:
            output.figure("psi.png", psi_figure(rows, summary["run"], settings.head))
    print(f"everything is in {settings.output}")
    return summary
