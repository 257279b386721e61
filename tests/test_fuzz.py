"""Whatever is asked for: a valid partition or a clear error, and never a traceback from the configuration."""

import contextlib
import hashlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloge.config import build
from fedloge.data.longtail import long_tail
from fedloge.data.partition import make_partition
from fedloge.errors import FedlogeError

EXAMPLES = 300
"""Of each property, the same ones every time; other and more ones are tried by changing this number."""


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    num_classes=st.integers(1, 12),
    num_clients=st.integers(0, 40),
    per_class=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    factor=st.floats(0.005, 200) | st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1.0]),
    alpha=st.floats(1e-3, 100) | st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e-12, 1e12]),
    scheme=st.sampled_from(["dirichlet", "dirichlet_paper", "iid", "other"]),
    profile=st.sampled_from(["exponential", "step", "other"]),
    min_samples=st.integers(-1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_split_is_valid_or_refused(
    num_classes, num_clients, per_class, factor, alpha, scheme, profile, min_samples, seed
):
    counts = (per_class * num_classes)[:num_classes]
    labels = np.repeat(np.arange(num_classes), counts)
    test_labels = np.repeat(np.arange(num_classes), 5)

    def split():
        kept = long_tail(labels, num_classes, factor, profile, seed)
        return kept, make_partition(
            labels,
            kept,
            test_labels,
            num_classes,
            scheme=scheme,
            num_clients=num_clients,
            alpha=alpha,
            imbalance_factor=factor,
            min_samples=min_samples,
            seed=seed,
        )

    try:
        kept, partition = split()
    except FedlogeError:
        return
    held = np.concatenate(partition.train)
    assert len(held) == len(set(held.tolist())), "clients share an image"
    assert set(held.tolist()) <= set(np.asarray(kept).tolist())
    assert len(partition.train) == num_clients
    assert all(len(own) >= (min_samples if scheme == "dirichlet" else 1) for own in partition.train)
    assert partition.train_counts.sum(0).tolist() == np.bincount(labels[held], minlength=num_classes).tolist()
    assert split()[1].sha256 == partition.sha256
    assert len(partition.sha256) == len(hashlib.sha256().hexdigest())


OPTIONS = [
    "--trainer.rounds", "--trainer.participation", "--trainer.executor", "--trainer.threads", "--model.gamma",
    "--model.beta", "--model.lr", "--model.pm_rule", "--model.backbone", "--model", "--data.alpha",
    "--data.num_clients", "--data.source", "--data.imbalance_factor", "--data.batch_size",
    "--trainer.nonsense", "--modl.gamma", "--seed",
]  # fmt: skip
VALUES = st.one_of(
    st.integers(-5, 10**12).map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "null", "true", "[]", "{}", "{", "FedAvg", "os.system", "torch.nn.Linear", "no.such.Class", "'"]
    ),
    st.text(max_size=8),
)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(OPTIONS), VALUES), min_size=1, max_size=3))
def test_any_option_is_taken_or_refused_in_one_line(options):
    args = ["--config", "configs/quickstart.yaml", *(f"{name}={value}" for name, value in options)]
    with contextlib.suppress(FedlogeError):  # anything else is a traceback
        build(args)


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**8, 10**12])
def test_threads_that_would_end_the_process_are_refused(threads):
    before = torch.get_num_threads()
    with pytest.raises(FedlogeError, match=f"trainer.threads={threads} must lie between 1 and 1024"):
        build(["--config", "configs/quickstart.yaml", f"--trainer.threads={threads}"])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "torch.nn.Linear", "builtins.eval"])
@pytest.mark.parametrize("key", ["model", "model.backbone", "data.source", "trainer.executor", "trainer.callbacks"])
def test_only_subclasses_of_what_is_expected_are_made(key, name):
    with pytest.raises(FedlogeError):
        build(["--config", "configs/quickstart.yaml", f"--{key}={{class_path: {name}, init_args: {{}}}}"])
