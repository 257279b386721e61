"""Run folders as a run writes them, without training anything."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedloge.data.partition import Partition
from fedloge.etf import sse_c
from fedloge.evaluation.evaluator import ClientScore, Evaluation
from fedloge.evaluation.shots import shots
from fedloge.runs.folder import RunFolder
from fedloge.runs.summary import Result, summarize
from fedloge.runs.tables import class_rows, client_rows, confusion_rows


def make_partition(num_classes, num_clients, rng):
    """A long tail over the classes, dealt out to clients that hold about half of the classes each."""
    counts = np.zeros((num_clients, num_classes), dtype=np.int64)
    for c in range(num_classes):
        holders = rng.choice(num_clients, size=max(num_clients // 2, 1), replace=False)
        for holder in rng.choice(holders, size=max(int(40 * 0.97**c), 2)):
            counts[holder, c] += 1
    counts[:, 0] += 1
    ends = counts.sum(1).cumsum()
    train = tuple(np.arange(end - size, end) for end, size in zip(ends, counts.sum(1), strict=True))
    tests = np.minimum(counts, 3)
    test = tuple(np.arange(size) for size in tests.sum(1))
    return Partition("dirichlet", 3407, 0.5, 20.0, train, test, counts, tests)


def evaluate(partition, rng, views, quality):
    """Results that look like a long-tailed run's: accuracy falls along the tail."""
    K, C = partition.train_counts.shape

    def confusion(n_test):
        matrix = torch.zeros(C, C, dtype=torch.int64)
        for c in range(C):
            hits = rng.binomial(int(n_test[c]), quality * (1 - 0.8 * c / C))
            matrix[c, c] += hits
            matrix[c, 0] += int(n_test[c]) - hits
        return matrix

    groups = tuple(shots(partition.train_counts.sum(0).tolist()))
    scores, personal = [], None
    for k in range(K):
        matrix = confusion(partition.test_counts[k])
        personal = matrix if personal is None else personal + matrix
        accuracy = float(matrix.diagonal().sum() / matrix.sum())
        sizes = int(partition.train_counts[k].sum()), int(matrix.sum())
        part = {"many": accuracy, "medium": accuracy / 2, "few": math.nan}
        scores.append(ClientScore(k, *sizes, accuracy, accuracy, accuracy, part))
    return Evaluation(
        confusion(np.full(C, 20)) if "global" in views else None,
        personal if "personal" in views else None,
        tuple(scores) if "personal" in views else (),
        groups,
    )


def write_run(
    path,
    num_classes=10,
    num_clients=6,
    rounds=4,
    dim=32,
    views=("global", "personal"),
    realigned=True,
    seed=0,
    names=None,
    config="model:\n  class_path: fedloge.FedLoGe\n  init_args:\n    gamma: 1.0\ntrainer:\n  seed: {seed}\n",
    **summary,
):
    """A finished run in a folder."""
    rng = np.random.default_rng(seed)
    folder = RunFolder(path)
    folder.create(False, {"seed": seed, "device": "cpu"})
    folder.write_text("config.yaml", config.format(seed=seed))
    partition = make_partition(num_classes, num_clients, np.random.default_rng(0))
    partition.save(folder.path / "partition.json")
    names = names or [f"class {c}" for c in range(num_classes)]
    for number in range(1, rounds + 1):
        if number % max(rounds // 5, 1) == 0 or number in (1, rounds):
            before = evaluate(partition, rng, views, 0.6 * number / rounds)
            after = evaluate(partition, rng, views, 0.8 * number / rounds) if realigned else before
            result = Result(None, before, after)
            write_tables(folder, number, result, names, partition.train_counts.sum(0))
        costs = {"train/loss": 2 / number, "comm/bytes_up": 10**6, "comm/bytes_down": 2 * 10**6, "time/round_s": 0.5}
        folder.append("metrics.csv", [{"round": number, **result.scalars(), **costs}])
    for before, evaluation in result.evaluations().items():
        folder.append("confusion.csv", confusion_rows(evaluation, before))
    write_states(folder, num_classes, num_clients, dim, views, realigned)
    about = {"method": "FedLoGe" if realigned else "FedAvg", "dataset": "synthetic", "rounds": rounds, "seed": seed}
    protocol = {
        "shots": {"rule": "mass", "groups": list(after.groups)},
        "mask_absent": "off",
        "partition_sha256": partition.sha256,
        "seconds": 2.0,
    }
    content = {**about, **summarize(result, folder.rows("metrics.csv")), **protocol, **summary}
    folder.write_json("summary.json", content)
    return folder.path


def write_tables(folder, number, result, names, counts):
    for before, evaluation in result.evaluations().items():
        folder.append("per_class.csv", class_rows(number, evaluation, before, names, counts))
        folder.append("per_client.csv", client_rows(number, evaluation, before))


def write_states(folder, num_classes, num_clients, dim, views, realigned):
    generator = torch.Generator().manual_seed(0)
    shared = {"backbone.fc.weight": torch.ones(num_classes, 3)}
    fixed = []
    if realigned:
        frame = sse_c(num_classes, dim, beta=0.5, gamma=1.0, generator=generator)
        shared |= {"sse.weight": frame.weight.float(), "realigned": torch.tensor(False)}
        fixed = ["sse.weight", "realigned"]
    for name in ("last", "final"):
        target = folder.path / "checkpoints" / name
        target.mkdir(parents=True)
        psi = torch.randn(num_classes, dim, generator=generator) * torch.linspace(2, 1, num_classes).unsqueeze(1)
        if name == "final" and realigned:
            psi = 1.7 * torch.nn.functional.normalize(psi)
        heads = {"psi.weight": psi} if "global" in views else {}
        own = {f"{k}/phi.weight": torch.randn(num_classes, dim, generator=generator) for k in range(num_clients)}
        save_file(shared | heads, target / "shared.safetensors")
        save_file(own if "personal" in views else {}, target / "clients.safetensors")
        state = {"round": 1, "num_clients": num_clients, "fixed": fixed}
        (target / "state.json").write_text(json.dumps(state))


@pytest.fixture
def make_run(tmp_path):
    def make(name="run", **options):
        return write_run(tmp_path / name, **options)

    return make


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """One run that tests only read."""
    return write_run(tmp_path_factory.mktemp("report") / "first")
