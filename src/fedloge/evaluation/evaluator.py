"""Test the generic model on the global test set and every personal model on its client's test images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fedloge.evaluation import metrics
from fedloge.evaluation.details import Details
from fedloge.evaluation.shots import SHOTS, ShotRule, shots
from fedloge.federation.state import FederatedState, SharedState, Tensors
from fedloge.methods.base import Client, Method, View, num_images, within_any
from fedloge.system.live import track

MaskAbsent = Literal["off", "train", "test"]
PersonalShots = Literal["global", "own"]


class TestData(Protocol):
    """The test data that evaluation needs."""

    @property
    def class_counts(self) -> Sequence[int]:
        """N_c of the training set, length C."""
        ...

    @property
    def test_labels(self) -> Tensor:
        """Labels int64 [n_test] of the global test set."""
        ...

    def test_batches(
        self, indices: Tensor | None = None, device: torch.device | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the global test set in order, or of some of its images."""
        ...

    def client_test_indices(self, client: int) -> Tensor:
        """Indices of a client's test images, int64."""
        ...


@dataclass(frozen=True)
class ClientScore:
    """Scores of a personal model on its client's test images; ``details`` where they were asked for."""

    client: int
    n_train: int
    n_test: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
    groups: Mapping[str, float]
    balanced_acc: float = math.nan
    details: Mapping[str, float] = field(default_factory=dict)

    def basic(self) -> dict[str, float]:
        """Accuracy, balanced accuracy and macro F1."""
        return {"acc": self.accuracy, "balanced_acc": self.balanced_acc, "macro_f1": self.macro_f1}


@dataclass(frozen=True)
class Evaluation:
    """Test results of the 1 + K models of a state.

    Args:
        global_confusion: Confusion matrix [C, C] of the generic model on the global test set; None without one.
        personal_confusion: Sum [C, C] of the personal models' confusion matrices on their clients' test images; None
            without personal models.
        clients: Scores of each client that has test images.
        groups: many, medium or few for every class, by the global training counts.
        clients_confusion: Confusion matrix [C, C] of the generic model on the test images of all clients together, if
            the global test set consists of others; None if it does not.
        details: Scores of class probabilities, intervals and spreads, where they were asked for.
    """

    global_confusion: Tensor | None
    personal_confusion: Tensor | None
    clients: tuple[ClientScore, ...]
    groups: tuple[str, ...] = field(repr=False)
    clients_confusion: Tensor | None = None
    details: Mapping[View, Mapping[str, float]] = field(default_factory=dict)

    def generic(self) -> dict[str, float]:
        """Accuracy of the generic model, overall and by group; empty if there is none."""
        if self.global_confusion is None:
            return {}
        groups = metrics.group_accuracies(self.global_confusion, self.groups, SHOTS)
        result = {"acc": metrics.accuracy(self.global_confusion)} | {f"acc_{s}": groups[s] for s in SHOTS}
        result["balanced_acc"] = metrics.balanced_accuracy(self.global_confusion)
        result["macro_f1"] = metrics.f1(self.global_confusion, "macro")
        others = self.clients_confusion
        return result | ({} if others is None else {"acc_clients": metrics.accuracy(others)})

    def personal(self) -> dict[str, float]:
        """Means over clients of accuracy, F1 and group accuracies, with deviation and worst tenth; empty without any.

        A group's accuracy is the mean over the clients that have test images of it.
        """
        if not self.clients:
            return {}
        accuracies = sorted(score.accuracy for score in self.clients)
        mean = _mean(accuracies)
        result = {
            "acc_mean": mean,
            "acc_std": math.sqrt(_mean([(accuracy - mean) ** 2 for accuracy in accuracies])),
            "acc_worst_decile": _mean(accuracies[: math.ceil(len(accuracies) / 10)]),
            "macro_f1": _mean([score.macro_f1 for score in self.clients]),
            "weighted_f1": _mean([score.weighted_f1 for score in self.clients]),
        }
        result |= {f"acc_{s}": _mean([score.groups[s] for score in self.clients]) for s in SHOTS}
        return result | {"balanced_acc": _mean([score.balanced_acc for score in self.clients])}

    def confusions(self) -> dict[View, Tensor]:
        """Confusion matrices [C, C] of the models that the method has."""
        matrices: dict[View, Tensor | None] = {"global": self.global_confusion, "personal": self.personal_confusion}
        return {model: matrix for model, matrix in matrices.items() if matrix is not None}

    def scalars(self, prefix: str = "") -> dict[str, float]:
        """Columns of ``metrics.csv``."""
        views = {"global": self.generic(), "personal": self.personal()}
        return {f"{prefix}{view}/{name}": value for view, part in views.items() for name, value in part.items()}


class Evaluator:
    """Evaluates states of a method.

    If all clients share one backbone, the features of the test set are computed once and every head is applied to
    them; they are kept while the backbone stays the same.

    Args:
        method: Module that states are loaded into.
        data: Test data.
        population: All K clients.
        mask_absent: ``train`` removes, for each personal model, the classes that its client has no training image of,
            ``test`` those that it has no test image of, as the released code does. Either is privileged knowledge that
            baselines usually do not use, so it is off by default.
        shot_rule: Rule that groups classes into many, medium and few.
        device: Device of the computation; the CPU by default.
        threads: Number of torch threads on the CPU. Another number may change features in the last bit (it does for odd
            batch sizes of wide networks), and so a prediction where two classes tie.
        personal_shots: Counts that group a client's classes: N_c of the ``global`` training set, or those of its
            ``own`` test images, as in the released code.
        public: Indices of the test images that the generic model is tested on, int64; None takes all. It is then also
            tested on the others, which belong to clients.
        units: Group of each test image, int64 [n_test], of which intervals are made; None makes them of images.
    """

    def __init__(
        self,
        method: Method,
        data: TestData,
        population: Sequence[Client],
        mask_absent: MaskAbsent = "off",
        shot_rule: ShotRule = "mass",
        device: torch.device | None = None,
        threads: int = 1,
        personal_shots: PersonalShots = "global",
        public: Tensor | None = None,
        units: Tensor | None = None,
    ) -> None:
        self.public, self.units = public, units
        self.threads, self.shot_rule, self.personal_shots = threads, shot_rule, personal_shots
        self.method, self.data, self.population = method, data, population
        self.mask_absent, self.device = mask_absent, device or torch.device("cpu")
        self.groups = tuple(shots(data.class_counts, shot_rule))
        self._features: tuple[list[Tensor], Tensor] | None = None
        self._loaded: set[str] | None = None

    def protocol(self) -> dict[str, Any]:
        """How the models are tested, for ``summary.json``."""
        shots = {"rule": self.shot_rule, "groups": list(self.groups), "personal": self.personal_shots}
        return {"shots": shots, "mask_absent": self.mask_absent}

    @torch.no_grad()
    def evaluate(
        self, state: FederatedState, mask_absent: MaskAbsent | None = None, detailed: bool = False
    ) -> Evaluation:
        """Test the 1 + K models of a state.

        Args:
            state: State to test; it is not changed.
            mask_absent: Mask instead of the evaluator's own.
            detailed: Compute the scores of class probabilities and the intervals too, which takes longer.
        """
        mask = mask_absent or self.mask_absent
        self._ready()
        generic, others, personal, scores = None, None, None, []
        details = Details(self.method.num_classes) if detailed else None
        logits = self._generic_logits(state)
        if logits is not None:
            generic, others = self._generic_confusions(logits)
            if details:
                chosen = torch.arange(len(logits)) if self.public is None else self.public
                details.add_generic(logits[chosen.to(logits.device)], *self._about(chosen))
        if "personal" in self.method.views:
            for client, indices, logits in self.client_logits(state, mask):
                matrix = self._confusion(logits, indices)
                personal = matrix if personal is None else personal + matrix
                if details:
                    details.add_client(client.id, logits, *self._about(indices))
                scores.append(self._score(client, matrix, details.clients[client.id] if details else {}))
        added = details.result([score.basic() for score in scores]) if details else {}
        return Evaluation(generic, personal, tuple(scores), self.groups, others, added)

    @torch.no_grad()
    def generic_logits(self, state: FederatedState) -> Tensor | None:
        """Logits [n_test, C] of the generic model on all test images; None if the method has none."""
        self._ready()
        return self._generic_logits(state)

    def _ready(self) -> None:
        self.method.to(self.device).eval()
        self._loaded = None

    def _generic_logits(self, state: FederatedState) -> Tensor | None:
        if "global" not in self.method.views:
            return None
        averaged = self.method.generic_personal(state.clients, self.population)
        return self.method.logits(self._features_of(state, averaged, "global"), "global")

    def _about(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Labels and groups of test images."""
        chosen = indices.cpu()
        return self.data.test_labels.cpu()[chosen], None if self.units is None else self.units[chosen]

    def _generic_confusions(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """On the global test set and, if that is public images alone, on those of the clients, if there are any."""
        if self.public is None:
            return self._confusion(logits, slice(None)), None
        public = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        public[self.public.to(logits.device)] = True
        others = None if bool(public.all()) else self._confusion(logits[~public], ~public)
        return self._confusion(logits[public], public), others

    @torch.no_grad()
    def client_logits(self, state: FederatedState, mask: MaskAbsent = "off") -> Iterator[tuple[Client, Tensor, Tensor]]:
        """Each client with test images, their indices int64 [n], and its personal model's logits [n, C] on them."""
        for client in track(self.population, "personal models"):
            indices = self.data.client_test_indices(client.id).to(self.device)
            if len(indices) == 0:
                continue
            features = self._features_of(state, state.clients[client.id], "personal", indices)
            logits = self.method.logits(features, "personal")
            if mask != "off":
                counts = torch.tensor(client.class_counts) if mask == "train" else self._test_counts(indices)
                logits = logits.masked_fill(counts.to(self.device) == 0, float("-inf"))
            yield client, indices, logits

    def _features_of(
        self, state: FederatedState, personal: Tensors, view: View, indices: Tensor | None = None
    ) -> Tensor:
        """Features of test images through the client's own body if it has one, else through the shared one.

        Leaves the state loaded. Shared features are kept while the tensors of the body are the same objects.
        """
        if self.method.has_own_body(personal):
            self._load(state.shared, personal)
            return self._compute_features(view, indices)
        entries = {**state.shared.tensors, **state.shared.fixed}
        body = [tensor for name, tensor in entries.items() if within_any(name, self.method.bodies)]
        if self._features is None or not _same(self._features[0], body):
            self._load(state.shared, {})
            self._features = (body, self._compute_features("global"))
        self._load(state.shared, personal)
        return self._features[1] if indices is None else self._features[1][indices]

    def _load(self, shared: SharedState, personal: Tensors) -> None:
        """Load a client's state into the module, copying only entries that differ from the previous client's."""
        entries = {**shared.tensors, **shared.fixed}
        if self._loaded is None:
            self.method.load_entries(entries)
        else:
            self.method.load_entries(
                {name: entries[name] for name in self._loaded - personal.keys() if name in entries}
            )
        self.method.load_entries(personal)
        self._loaded = set(personal)

    def _compute_features(self, view: View, indices: Tensor | None = None) -> Tensor:
        number = len(self.data.test_labels if indices is None else indices)
        batches = track(self.data.test_batches(indices, self.device), "test images", number, num_images)
        kind = next(self.method.parameters()).dtype  # float64 or bfloat16 with a "true" precision
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return torch.cat([self.method.features(images.to(kind), view) for images, _ in batches])
        finally:
            torch.set_num_threads(before)

    def _confusion(self, logits: Tensor, indices: Any) -> Tensor:
        labels = self.data.test_labels.to(self.device)[indices]
        return metrics.confusion(logits.argmax(1), labels, self.method.num_classes).cpu()

    def _test_counts(self, indices: Tensor) -> Tensor:
        return self.data.test_labels.to(indices.device)[indices].bincount(minlength=self.method.num_classes)

    def _score(self, client: Client, matrix: Tensor, details: Mapping[str, float]) -> ClientScore:
        own = self.personal_shots == "own"
        groups = shots(matrix.sum(1).tolist(), self.shot_rule) if own else self.groups
        return ClientScore(
            client=client.id,
            n_train=client.num_examples,
            n_test=int(matrix.sum()),
            accuracy=metrics.accuracy(matrix),
            macro_f1=metrics.f1(matrix, "macro"),
            weighted_f1=metrics.f1(matrix, "weighted"),
            groups=metrics.group_accuracies(matrix, groups, SHOTS),
            balanced_acc=metrics.balanced_accuracy(matrix),
            details=details,
        )


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def _mean(values: Sequence[float]) -> float:
    """Mean of the values that are not nan; nan without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")
