"""Makes the parts of a run from the options of its trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedloge.data.datamodule import FederatedDataModule
from fedloge.evaluation.evaluator import Evaluator
from fedloge.executors import make_executor
from fedloge.federation import checks, settings
from fedloge.federation.parts import Parts, training_work
from fedloge.federation.round import Faults
from fedloge.methods.base import Client, Method
from fedloge.runs.folder import RunFolder

if TYPE_CHECKING:
    from fedloge.trainer import FederatedTrainer


def assemble(trainer: FederatedTrainer, method: Method, data: FederatedDataModule, folder: RunFolder) -> Parts:
    """Make and start the executor, and make the evaluator of the test images and that of the validation images.

    Args:
        trainer: Trainer with the options of the run.
        method: Method to train or test; it gets the privileged knowledge that it declares.
        data: Data module after ``setup``.
        folder: Run folder.
    """
    local = trainer.local_settings
    method.server_data = checks.server_data(method, data)
    population = [Client(k, tuple(map(int, data.client_counts(k)))) for k in range(data.num_clients)]
    notes = [*checks.settle_last_batch(method, data, population), *settings.notes(trainer, method, data)]
    work = training_work(method, population, trainer.rounds * trainer.participation * trainer.local_epochs)
    executor = make_executor(trainer.asked_executor, work, method, local, data)
    executor.start(method, data, local)
    threads = max(executor.idle_cores, local.threads)
    options = (trainer.mask_absent, trainer.shot_rule, local.device, threads, trainer.personal_shots)
    tested = (data.public_test_indices(), data.dataset.test_groups)
    validation = data.validation()
    return Parts(
        method=method,
        data=data,
        population=population,
        executor=executor,
        evaluator=Evaluator(method, data, population, *options, *tested),
        validator=None if validation is None else Evaluator(method, validation, population, *options),
        folder=folder,
        faults=Faults(folder, trainer.on_client_failure, local.attempts, trainer.min_clients),
        seed=trainer.seed,
        participation=trainer.participation,
        notes=notes,
    )
