"""``analysis.md``: the tables of the diagnostics, and what each does and does not show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedloge.analysis.figures import head_symbol
from fedloge.markup import markdown_text
from fedloge.tables import from_rows

Analysis = Mapping[str, Any]

STAGES = {"last": "as trained", "final": "after realignment or fine-tuning"}

FIRST = {"ascending": "smallest", "descending": "largest"}
"""Which class means are pruned first, by order."""

BEYOND = 0.05
"""Least difference by which a correlation counts as stronger than that from division by m² alone."""

COST = 0.01
"""Loss of accuracy that still counts as free pruning."""

COLLAPSE = ("nc1", "cdnv", "equinorm", "etf_error", "etf_floor", "nc3_cosine", "nc4", "classes", "singleton_classes")
"""Columns of the table of collapse; ``collapse.csv`` has all."""


def headline(name: str, result: Analysis) -> dict[str, Any]:
    """Headline numbers of an analysis by column; None for what was left out."""
    degeneration, pruning, collapse = result["degeneration"], result["pruning"], result["collapse"]
    trained = next((norms for key, norms in result["norms"].items() if not key.endswith("_k")), None)
    half = pruning["ratios"].index(0.5) if pruning else 0
    return {
        "run": name,
        "ρ(m, v)": degeneration["spearman_variance"],
        "ρ(m, v/m²)": degeneration["spearman_relative"],
        "ρ shuffled": degeneration["spearman_shuffled"],
        "Σv/Σm²": degeneration["spread"],
        "accuracy": pruning["ascending"][0] if pruning else None,
        "½ smallest pruned": pruning["ascending"][half] if pruning else None,
        "½ largest pruned": pruning["descending"][half] if pruning else None,
        "NC1 train": collapse["train"]["nc1"],
        "NC1 test": collapse["test"]["nc1"],
        "CDNV test": collapse["test"]["cdnv"],
        "norm exponent": trained["exponent"] if trained else None,
    }


def markdown(result: Analysis, figures: Sequence[str]) -> str:
    """The analysis of a run as Markdown."""
    run = result["run"]
    classifier = head_symbol(run["classifier"], result) if run["classifier"] else "none that is linear"
    facts = (
        f"{run['method']} on {markdown_text(run['dataset'])}, round {run['round']}, {STAGES[run['state']]}. "
        f"Classifier of the generic model: {classifier}; d = {run['dimension']}, {run['classes']} classes. Test: "
        f"{run['test_images']} images of the global test set; training: {run['train_images']} images of "
        f"{run['clients']} clients, without augmentation. Test images are used for measurement only."
    )
    blocks = [f"# Analysis of {markdown_text(run['name'])}", facts]
    for name, topic in TOPICS.items():
        blocks += topic(result)
        blocks += [f"![{name}]({name}.png)"] if f"{name}.png" in figures else []
    blocks += (
        ["## Left out\n\n" + "\n".join(f"- {markdown_text(why)}" for why in result["left_out"])]
        if result["left_out"]
        else []
    )
    return "\n\n".join(blocks) + "\n"


def comparison_markdown(results: Mapping[str, Analysis], figures: Sequence[str]) -> str:
    """Several analyses side by side as Markdown."""
    rows = [headline(name, result) for name, result in results.items()]
    note = (
        "Each run's own `analysis/analysis.md` says how to read these numbers. One run of each kind shows what can be "
        "measured, not what a method does: that needs several seeds. Σv/Σm², ρ, CDNV and NC1 do not depend on "
        "the scale of the features; m and v alone do."
    )
    pictures = [f"![{name.removesuffix('.png')}]({name})" for name in figures]
    title = f"# Analysis of {markdown_text(', '.join(results))}"
    return "\n\n".join([title, from_rows("", rows).markdown(), note, *pictures]) + "\n"


def degeneration_topic(result: Analysis) -> list[str]:
    """Section on feature degeneration (Fig. 1)."""
    found = result["degeneration"]
    columns = [name for name in found if name not in ("groups", "classes", "curves")]
    rows = [{"classes": "all", **{name: found[name] for name in columns}}]
    rows += [{"classes": group, **values} for group, values in found["groups"].items()]
    return [from_rows("Feature degeneration (Fig. 1)", rows).markdown(), " ".join(_degeneration_reading(result))]


def _degeneration_reading(result: Analysis) -> list[str]:
    found = result["degeneration"]
    classes = [row for row in found["classes"] if row["spearman_relative"] is not None]
    relative, plain = found["spearman_relative"], found["spearman_variance"]
    falling = sum(row["spearman_relative"] < 0 for row in classes)
    words = [
        f"On test images the relative variance v/m² falls as the mean m of a coordinate grows in {falling} of "
        f"{len(classes)} classes (mean Spearman {relative:+.2f}); the plain variance v "
        f"{'falls' if plain < 0 else 'grows'} with it ({plain:+.2f}). Division by m² builds part of this in: with v "
        f"shuffled over the coordinates it alone gives {found['spearman_shuffled']:+.2f}, so that the observed "
        f"correlation is {_against(relative, found['spearman_shuffled'])}."
    ]
    if "mean_masked" in found:
        words.append(
            f"Where the frozen head is zero, m is {found['mean_masked']:.3g} and v {found['variance_masked']:.3g}, "
            f"elsewhere {found['mean_kept']:.3g} and {found['variance_kept']:.3g}: "
            f"{_lower(found['mean_masked'], found['mean_kept'])} means and "
            f"{_lower(found['variance_masked'], found['variance_kept'])} variances on masked coordinates."
        )
    words.append(
        "Σv/Σm², the spread of a class over the size of its mean, has no such bias and can be compared with a run on a "
        "dense head (`--model.beta=0`); a single run does not say what sparsity does."
    )
    return words


def _against(relative: float, shuffled: float) -> str:
    if relative < shuffled - BEYOND:
        return "stronger than that"
    return "weaker than that" if relative > shuffled + BEYOND else "about what the division gives"


def _lower(masked: float, kept: float) -> str:
    return "lower" if masked < kept else "no lower"


def pruning_topic(result: Analysis) -> list[str]:
    """Section on pruning (Fig. 3)."""
    pruning = result["pruning"]
    if pruning is None:
        return []
    places = {f"{ratio:.0%}": pruning["ratios"].index(ratio) for ratio in (0.0, 0.25, 0.5, 0.75, 1.0)}
    rows = [
        {"head": head_symbol(head, result), "first": FIRST[order], "classes": group}
        | {label: f"{100 * values[place]:.1f}" for label, place in places.items()}
        for head, orders in pruning["heads"].items()
        for order, curves in orders.items()
        for group, values in curves.items()
    ]
    curve = pruning["ascending"]
    free = max(r for r, accuracy in zip(pruning["ratios"], curve, strict=True) if accuracy >= curve[0] - COST)
    reading = (
        "Accuracy (%, mean of the classes) with a share of the coordinates set to zero in every class's row, ranked by "
        f"that class's {pruning['ranked_by']}; 0 % is the unpruned head, 100 % its bias alone. Of "
        f"{head_symbol(pruning['head'], result)} up to {free:.0%} of the coordinates, smallest first, can go at a cost "
        f"of at most {100 * COST:.0f} point. This shows on which coordinates a class's row relies, not that the others "
        "hold nothing: the ranking is by the same test images, and all rows lose theirs at once, which also "
        "shifts the balance between frequent and rare classes."
    )
    return [from_rows("Pruning (Fig. 3)", rows).markdown(), reading]


def tsne_topic(result: Analysis) -> list[str]:
    """Section on class means (Fig. 6)."""
    found = result["tsne"]
    names = ("nn_min", "nn_median", "nn_min_features", "nn_median_features", "perplexity")
    reading = (
        "Distance of a class mean to its nearest neighbour, on the map and before it (standardised means, divided by "
        "√d). The map has no scale and one seed: do not compare its distances between runs, compare those before it."
    )
    return [from_rows("Class means (Fig. 6)", [{name: found[name] for name in names}]).markdown(), reading]


def frames_topic(result: Analysis) -> list[str]:
    """Section on angles and norms (Fig. 7, Table 6)."""
    ideal = result["equiangular"]
    rows = [{"head": head_symbol(name, result), **row} for name, row in result["frames"].items()]
    if not rows:
        return []
    reading = (
        f"Norms and pairwise angles of the rows (degrees; variances of a population). A simplex ETF of "
        f"{result['run']['classes']} classes has {ideal['angle']:.3f}° and cosine {ideal['cos']:.4f} everywhere, "
        "variances of zero. Heads of clients: statistics of each, averaged; their rows of absent classes are included."
    )
    return [from_rows("Angles and norms (Fig. 7, Table 6)", rows).markdown(), reading]


def norms_topic(result: Analysis) -> list[str]:
    """Section on norms against class sizes."""
    rows = []
    for name, norms in result["norms"].items():
        own = "_mean" if name.endswith("_k") else ""
        row = {"exponent": norms[f"exponent{own}"], "spearman": norms[f"spearman{own}"]}
        deviations = {f"± {key}": norms.get(f"{key}_std") for key in row}
        rows.append({"head": head_symbol(name, result), **row, **deviations, "theory": norms["theory"]})
    if not rows:
        return []
    reading = (
        "Exponent e of ‖row‖ ∝ n^e by least squares, and Spearman's ρ; for heads of clients mean and deviation over "
        "the clients, each over the classes that it has. The closed form M/(2(M+1)), ¼ for one layer, is for free "
        "features, squared error and weight decay: none of these holds here, so it is a yardstick and not a test."
    )
    return [from_rows("Norms against class sizes", rows).markdown(), reading]


def collapse_topic(result: Analysis) -> list[str]:
    """Section on neural collapse (NC1 to NC4)."""
    found = result["collapse"]
    rows = [
        {"features": part, **{name: found[part][name] for name in COLLAPSE if name in found[part]}}
        for part in ("train", "test")
    ]
    reading = (
        "NC1 and CDNV are 0 when classes have collapsed, `etf_error` is `etf_floor`, `nc3_cosine` and `nc4` are 1. NC3 "
        "and NC4 are of the classifier of the generic model. Training features are long-tailed: classes of few images "
        "(one above all) look more collapsed than they are. "
        "docs/neural_collapse.md defines every column."
    )
    return [from_rows("Neural collapse", rows).markdown(), reading]


TOPICS: Mapping[str, Callable[[Analysis], list[str]]] = {
    "degeneration": degeneration_topic,
    "pruning": pruning_topic,
    "tsne": tsne_topic,
    "cosines": frames_topic,
    "norms": norms_topic,
    "collapse": collapse_topic,
}
"""Function of each section by the name of its figure."""
