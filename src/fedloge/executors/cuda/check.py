"""Check of a GPU: a small network is trained by eager steps and by captured ones, and the results are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from fedloge.data.datamodule import FederatedDataModule
from fedloge.data.sources.arrays import Arrays
from fedloge.errors import FedlogeError
from fedloge.executors.base import ClientResult, ClientTask, LocalSettings
from fedloge.executors.cuda.capture import TOLERANCES, Trial, deviation
from fedloge.executors.cuda.executor import Cohort
from fedloge.federation.aggregation import weighted_mean
from fedloge.federation.state import FederatedState, Tensors
from fedloge.methods.fedloge import FedLoGe
from fedloge.models.resnet import CifarResNet
from fedloge.system.doctor import Check

CLASSES, CLIENTS, IMAGES = 4, 4, 96
ROUND_TOLERANCE = 0.1
"""Largest deviation of a round, whose few steps amplify differences in rounding."""


def check_gpu() -> list[Check]:
    """Check the first CUDA device: takes some seconds, and at most a minute."""
    if not torch.cuda.is_available():
        return [Check("gpu", "no CUDA device", "there is nothing to check")]
    return list(check_steps(LocalSettings(0, accelerator="cuda", device=torch.device("cuda", 0))))


def check_steps(settings: LocalSettings, make: Callable[..., Cohort] = Cohort) -> Iterator[Check]:
    """Train a round of FedLoGe by eager steps, one client at a time, then by captured steps, two at a time.

    Args:
        settings: Settings with the device.
        make: Makes an executor from its options.
    """
    try:
        start, eager, _ = _round(make(lanes=1, graphs=False, tf32=False), settings)
        yield Check("eager steps", f"{len(eager)} tensors averaged over {CLIENTS} clients")
        _, captured, trial = _round(make(lanes=2, tf32=False), settings)
    except (FedlogeError, RuntimeError) as error:
        yield Check("training", f"failed on {settings.device}", str(error).splitlines()[0])
        return
    yield _captured_step(trial, TOLERANCES[settings.precision])
    distance = deviation(start, eager, captured)
    found = f"a round deviates by {distance:.2g} from eager steps in one lane, {ROUND_TOLERANCE:g} is allowed"
    yield Check("two lanes", found, "" if distance <= ROUND_TOLERANCE else "take --trainer.executor.lanes=1")


def _captured_step(trial: Trial, allowed: float) -> Check:
    seconds = trial.replay_seconds or float("nan")
    found = f"{1000 * seconds:.2f} ms, an eager one {1000 * trial.eager_seconds:.2f} ms"
    if trial.deviation is not None:
        found += f"; it deviates by {trial.deviation:.2g} from that, {allowed:g} is allowed"
    return Check("captured step", found, f"it {trial.obstacle}; training is eager" if trial.obstacle else "")


def _round(cohort: Cohort, settings: LocalSettings) -> tuple[Tensors, Tensors, Trial]:
    """Shared entries before and after a round, and the trial of the step if there was one."""
    data, state, method = _federation()
    cohort.start(method, data, settings)
    try:
        tasks = [ClientTask(client, 1, method.phases(1)) for client in range(CLIENTS)]
        outcomes = list(cohort.run(state.shared, state.clients, tasks))
        failed = [outcome.reason for outcome in outcomes if not isinstance(outcome, ClientResult)]
        if failed:
            raise FedlogeError(f"a client could not be trained: {failed[0]}")
        mean = weighted_mean(outcome.update for outcome in outcomes if isinstance(outcome, ClientResult))
        none = Trial("was not tried", 1.0, None, float("nan"), None)
        return state.shared.tensors, dict(mean), next(iter(cohort.trials.values()), none)
    finally:
        cohort.close()


def _federation() -> tuple[FederatedDataModule, FederatedState, FedLoGe]:
    """Random images of four clients, the state before the first round, and FedLoGe on a ResNet-8."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        labels = torch.arange(CLASSES).repeat_interleave(IMAGES // CLASSES)
        images = torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8)
        method = FedLoGe(CifarResNet(8), CLASSES, gamma=1.0, beta=0.4)
        method.prepare(torch.Generator().manual_seed(0))
    data = FederatedDataModule(Arrays(images, labels, images, labels), CLIENTS, 10.0, 1)
    data.setup()
    return data, method.initial_state(CLIENTS, lambda client: torch.Generator().manual_seed(client)), method
