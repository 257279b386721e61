"""The diagnostics of the FedLoGe paper, topic by topic, as plain values; nothing is written here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedloge.analysis import degeneration as fig1
from fedloge.analysis import frames
from fedloge.analysis.features import Features, Subject
from fedloge.analysis.pruning import RATIOS, pruning_curves
from fedloge.analysis.tsne import tsne_of_means
from fedloge.collapse.measurement import measure_batches
from fedloge.plotting import thin

Analysis = dict[str, Any]
"""The content of ``analysis.json``."""

AGREEMENT = 0.99
"""Least share of equal predictions at which a head counts as the generic model's own; the rest are near ties."""

SHOWN_CLASSES = 100
"""Largest number of classes in a cosine matrix of the result: more cannot be distinguished in a figure."""

SHOWN_POINTS = 5000
"""Largest number of rows of clients' heads in the result; ``norms.csv`` has all."""


def diagnose(subject: Subject, shown: Sequence[int]) -> Analysis:
    """All topics of an analysis.

    A topic that the method or the data do not allow is None, and ``left_out`` says why.
    """
    left_out: list[str] = []
    if subject.agreement < AGREEMENT:
        left_out.append(
            f"the generic model does more than {subject.classifier} (norms, adjusted logits): pruning and collapse "
            f"describe that layer alone, which predicts the same on {100 * subject.agreement:.1f} % of the images"
        )
    means, variances = fig1.class_moments(subject.test, len(subject.class_names))
    result: Analysis = {"degeneration": degeneration(subject, means, variances, shown, left_out)}
    tested = means.isfinite().all(1)
    result["pruning"] = pruning(subject, bool(tested.all()), left_out)
    result["tsne"] = tsne(subject, means, tested)
    result |= head_topics(subject, left_out)
    result["collapse"] = collapse(subject)
    return {**result, "left_out": left_out}


def describe(subject: Subject) -> dict[str, Any]:
    """Facts about the run and the features."""
    frozen = subject.frozen
    return {
        "method": subject.method,
        "dataset": subject.dataset,
        "round": subject.round,
        "state": subject.stage,
        "classes": len(subject.class_names),
        "dimension": subject.test.values.shape[1],
        "test_images": len(subject.test.labels),
        "train_images": len(subject.train.labels),
        "clients": len(subject.client_counts),
        "classifier": subject.classifier,
        "zeros_of_frozen_head": None if frozen is None else float((frozen.weight == 0).double().mean()),
    }


# Topics ------------------------------------------------------------------------------------------------------


def degeneration(
    subject: Subject, means: Tensor, variances: Tensor, shown: Sequence[int], left_out: list[str]
) -> dict[str, Any]:
    """Fig. 1: averages over classes, a row per class, and the curves of some."""
    frozen = subject.frozen
    masked = None if frozen is None else frozen.weight == 0
    if masked is None or not masked.any():
        masked = None
        left_out.append("no frozen head with zeros: no coordinates are masked")
    rows = fig1.degeneration(means, variances, masked)
    about = [class_facts(subject, c) for c in range(len(rows))]
    return {
        **fig1.averages(rows, subject.groups),
        "classes": [{**facts, **row} for facts, row in zip(about, rows, strict=True)],
        "curves": [{**about[c], **rows[c], **fig1.curve(c, means, variances, masked)} for c in shown],
    }


def pruning(subject: Subject, all_tested: bool, left_out: list[str]) -> dict[str, Any] | None:
    """Fig. 3: the curves of every head; those of the head in use over all classes are repeated by order."""
    if not subject.heads or not all_tested:
        why = "a class without test images" if subject.heads else "no linear head"
        left_out.append(f"{why}: no pruning curves")
        return None
    absolute = bool((subject.test.values < 0).any())
    heads = pruning_curves(subject.test, subject.heads, subject.groups, absolute=absolute)
    own = heads[str(subject.classifier)]
    return {
        "head": subject.classifier,
        "ranked_by": "|mean|" if absolute else "mean",
        "ratios": list(RATIOS),
        **{order: curves["all"] for order, curves in own.items()},
        "heads": heads,
    }


def tsne(subject: Subject, means: Tensor, tested: Tensor) -> dict[str, Any]:
    """Fig. 6: a point per class that has test images."""
    kept = tested.nonzero().flatten().tolist()
    result = tsne_of_means(means[tested])
    return {**result, "classes": [class_facts(subject, c) for c in kept]}


def head_topics(subject: Subject, left_out: list[str]) -> dict[str, Any]:
    """Fig. 7, Table 6, and norms against class sizes, for the heads of the generic model and of the clients."""
    by_count = np.argsort(-subject.class_counts.numpy(), kind="stable")
    chosen = torch.from_numpy(thin(by_count, SHOWN_CLASSES))
    tables: dict[str, Any] = {name: frames.frame(head.weight) for name, head in subject.heads.items()}
    matrices = {name: frames.cosines(head.weight) for name, head in subject.heads.items()}
    norms: dict[str, Any] = {}
    for name, head in subject.heads.items():
        if not head.frozen:
            rows = frames.norm_rows(subject.class_counts, head.weight)
            norms[name] = {**frames.cardinality(rows), "points": rows}
    for name in subject.client_heads:
        key = client_key(name)
        tables[key], matrices[key] = frames.client_frames(weight for _, weight in subject.client_weights(name))
        clients = [rows for _, rows in client_rows(subject, name)]
        everybody = len(subject.client_counts)
        if len(clients) < everybody:
            left_out.append(f"{len(clients)} of {everybody} clients, those that took part, have {key} of their own")
        points = [row for rows in clients for row in rows][:SHOWN_POINTS]
        norms[key] = {**frames.client_cardinality(clients), "points": points}
    if not subject.client_heads:
        left_out.append("clients have no head of their own: no results for φ_k")
    return {
        "equiangular": frames.equiangular(len(subject.class_names)),
        "frames": tables,
        "cosines": {
            "classes": [class_facts(subject, int(c)) for c in chosen],
            "heads": {name: matrix[chosen][:, chosen].tolist() for name, matrix in matrices.items()},
        },
        "norms": norms,
    }


def collapse(subject: Subject) -> dict[str, Any]:
    """NC1 to NC4 with the classifier of the generic model, on training and on test features."""
    head = subject.heads.get(str(subject.classifier))
    classifier = None if head is None else (head.weight, head.bias)

    def of(features: Features) -> dict[str, float]:
        return measure_batches(features.batches, classifier, num_classes=len(subject.class_names))

    return {"head": subject.classifier, "train": of(subject.train), "test": of(subject.test)}


def client_rows(subject: Subject, head: str) -> list[tuple[int, list[dict[str, Any]]]]:
    """Number of each client that has a head of its own, and the norms of this head over the client's classes."""
    weights = subject.client_weights(head)
    return [(client, frames.norm_rows(subject.client_counts[client], weight)) for client, weight in weights]


def class_facts(subject: Subject, c: int) -> dict[str, Any]:
    """A class: number, name, group, training images."""
    facts = {"class": c, "name": subject.class_names[c], "group": subject.groups[c]}
    return {**facts, "n": int(subject.class_counts[c])}


def client_key(head: str) -> str:
    """Key of the clients' own version of a head."""
    return f"{head}_k"
