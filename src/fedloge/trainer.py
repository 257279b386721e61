"""The outer federated loop as a Lightning Trainer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, Literal

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from fedloge.callbacks import FederatedCallback
from fedloge.data.datamodule import FederatedDataModule
from fedloge.evaluation.evaluator import MaskAbsent, PersonalShots
from fedloge.evaluation.shots import ShotRule
from fedloge.executors import ClientTask, Executor, LocalSettings
from fedloge.executors.client import quiet_lightning
from fedloge.federation import checks, results, settings
from fedloge.federation.assembly import assemble
from fedloge.federation.lasting import refuse_lasting
from fedloge.federation.parts import HasParts
from fedloge.federation.progress import Progress, resume
from fedloge.federation.round import Received, start_tasks
from fedloge.federation.sampling import sample_cohort
from fedloge.federation.seeding import SERVER, Stream, generator
from fedloge.federation.selection import Selection, check_metric, check_validation
from fedloge.federation.state import FederatedState
from fedloge.methods.base import Method
from fedloge.preflight import preflight
from fedloge.runs.checkpoint import LAST
from fedloge.runs.folder import RunFolder
from fedloge.runs.identity import check_data, write_record
from fedloge.system.cpu import configure_cpu
from fedloge.system.devices import let_streams_run_apart
from fedloge.system.interrupts import Interrupted, Interrupts
from fedloge.system.live import Line
from fedloge.system.one_process import check_one_device, one_process
from fedloge.system.profiling import Profile
from fedloge.tracking import Tracking, split_names

UNUSED = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")
"""Parts of Lightning's loop whose place the federated loop takes."""


class FederatedTrainer(Trainer, HasParts):
    """Trains a :class:`Method` on a :class:`FederatedDataModule`, round by round, and writes the run folder.

    Callbacks find the method, the data, the run folder and the progress in the properties of :class:`HasParts`.

    Args:
        rounds: Number of rounds T.
        local_epochs: Number of epochs E that a client trains in a round.
        participation: Fraction of the clients that take part in a round, drawn anew each time.
        evaluate_every: Evaluate after every so many rounds, and after the last.
        checkpoint_every: Save after every so many rounds, and after the last.
        executor: How a round's clients are trained: ``serial``, one at a time; ``processes``, one per core of this
            machine; ``ray``, on a cluster; ``cuda``, a cohort in one fit, with CUDA graphs on parallel streams.
            ``auto`` chooses cuda on a GPU, and processes where that pays. The result is the same.
        seed: Seed of all randomness of the training (``data.seed`` is that of the split).
        run_dir: Run folder; ``runs/<method>`` by default.
        overwrite: Replace an earlier run in that folder.
        on_client_failure: What happens when a client raises, diverges (NaN, infinite) or loses its worker: ``retry``
            tries once more and then leaves it out of the round, but ends the run if the client cannot be trained in the
            next round either and never was; ``skip`` leaves it out of the round, ``abort`` ends the run.
        min_clients: Fraction of a round's clients that must survive; with fewer the run ends, saved.
        mask_absent: ``train`` removes from each personal model the classes that its client has no training image of,
            ``test`` those that it has no test image of (the released code): privileged knowledge, off by default.
        shot_rule: Many/medium/few by cumulative ``mass`` of the training samples (the paper's), or by ``count``.
        personal_shots: What the rule counts for the personal models: the ``global`` training set, or each client's
            ``own`` test images (the released code).
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: Lightning's ``devices``: 1, or the number of one GPU in a list.
        precision: Lightning's ``precision``.
        threads: Number of torch threads that train a client on the CPU. More than one changes results in the last bit.
        profile: Write the time of each round by part to ``profile.csv``.
        keep_best: Validation result by which a round is chosen, ``val/global/acc`` for example. Its checkpoint is kept
            beside the last, and its test results are reported beside the last round's, which stay the headline.
        logger: ``wandb``, ``tensorboard`` or ``csv``, whose files go into the run folder, or Lightning loggers; they
            get the metrics with the round as the step.
        callbacks: Callbacks of type :class:`FederatedCallback`, which are called round by round.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        rounds: int = 500,
        local_epochs: int = 5,
        participation: float = 1.0,
        evaluate_every: int = 1,
        checkpoint_every: int = 10,
        executor: Executor | Literal["auto", "serial", "processes", "ray", "cuda"] = "auto",
        seed: int = 3407,
        run_dir: str | None = None,
        overwrite: bool = False,
        on_client_failure: Literal["retry", "skip", "abort"] = "retry",
        min_clients: float = 0.5,
        mask_absent: Literal["off", "train", "test", False] = "off",
        shot_rule: ShotRule = "mass",
        personal_shots: PersonalShots = "global",
        accelerator: str = "auto",
        devices: int | list[int] = 1,
        precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"] = "32-true",
        threads: int = 1,
        profile: bool = False,
        keep_best: str | None = None,
        logger: Logger | list[Logger | str] | bool | str | None = None,
        callbacks: Callback | list[Callback] | None = None,
    ) -> None:
        checks.check_lengths(rounds, local_epochs, participation, evaluate_every, checkpoint_every)
        checks.check_limits(seed, threads, on_client_failure, min_clients)
        check_metric(keep_best)
        settings.check_words(executor, mask_absent, shot_rule, personal_shots)
        names, loggers = split_names(logger)
        tracking = [Tracking(names)] if names or loggers else []
        let_streams_run_apart()
        self.asked_callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        check_one_device(devices)
        given: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "precision": precision}
        given |= {"logger": loggers, "callbacks": [*self.asked_callbacks, *tracking], **dict.fromkeys(UNUSED, False)}
        with quiet_lightning(), checks.clear_lightning_errors(**given), one_process() as alone:
            super().__init__(**given, **alone, max_epochs=rounds)
        self.rounds, self.local_epochs, self.participation = rounds, local_epochs, participation
        self.evaluate_every, self.checkpoint_every = evaluate_every, checkpoint_every
        self.asked_executor, self.seed, self.asked_precision = executor, seed, precision
        self.run_dir, self.overwrite = run_dir, overwrite
        self.on_client_failure, self.min_clients = on_client_failure, min_clients
        self.keep_best = keep_best
        self.mask_absent: MaskAbsent = mask_absent or "off"  # YAML reads a bare off as False
        self.shot_rule: ShotRule = shot_rule
        self.personal_shots: PersonalShots = personal_shots
        attempts, device = 2 if on_client_failure == "retry" else 1, self.strategy.root_device
        used = self.precision
        self.local_settings = LocalSettings(seed, accelerator, devices, used, device, threads, attempts, profile)
        self._interrupts = Interrupts()
        configure_cpu(threads)  # for what uses a finished run; attach() sets it again

    def fit(  # type: ignore[override]
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Train for ``rounds`` rounds, realign, evaluate, and write everything to the run folder.

        Args:
            model: A :class:`Method`.
            train_dataloaders: May be the data module, as with Lightning; data loaders have no clients.
            val_dataloaders: Refused: no model is selected on data.
            datamodule: A :class:`FederatedDataModule`.
            ckpt_path: ``last`` resumes the run in ``run_dir`` from its newest checkpoint, or starts it if there is
                none; ``previous`` resumes from the checkpoint before.

        Raises:
            Interrupted: After SIGINT, SIGTERM or SIGHUP, when the completed rounds are saved.
            RunError: If the folder is in use, holds another run, a checkpoint is damaged, or clients fail.
            ConfigError: If method, data and options do not fit each other.
        """
        method, data = checks.check_types(model, datamodule or train_dataloaders, val_dataloaders)
        settings.check_precision(self.asked_precision, self.precision)
        checks.check_callbacks(self.asked_callbacks)
        folder = self._run_folder(method)
        with folder.locked():
            checkpoint = folder.find_checkpoint(ckpt_path)
            if ckpt_path is None:
                folder.check_free(self.overwrite)
            if checkpoint is None:
                settings.refuse_idle(self, method, data)
            else:
                data.prepare_data()
                check_data(folder, data)
            start = self.start(method, data)
            if checkpoint is None:
                self._progress = Progress(start)
                folder.create(True, {**self.parts.info(), "initial_backbone_sha256": checks.sha256(method.backbone)})
                data.partition.save(folder.path / "partition.json")
                write_record(folder, data)
            else:
                self._progress = resume(folder, checkpoint, start, self.parts.identity(), self.rounds)
                self._call("on_resume")  # may refuse: nothing has changed yet
                if self.progress.state.round == self.rounds and folder.finished(self.rounds):
                    self._call("on_run_end", folder.read_json("summary.json"))
                    return
            self._train(self.progress, resumed=checkpoint is not None)

    def _train(self, progress: Progress, resumed: bool) -> None:
        """Train the remaining rounds and finish; an interruption or error saves the last completed round."""
        progress.started = time.perf_counter()
        with self._interrupts:
            try:
                with Line("estimating the cost"):
                    self._cost = preflight(self, progress.state)
                if resumed:
                    self.folder.cut_tables(progress.tables)
                self._call("on_run_start")
                if resumed:
                    self._evaluate_and_log(progress)  # a checkpoint is written before its round is evaluated
                while progress.state.round < self.rounds:
                    self._round(progress)
                self.finish(progress)
            except KeyboardInterrupt as error:
                with self._interrupts.ignored():
                    self._save_completed(progress)
                raise Interrupted(
                    self._interrupts.signum, results.stopped(self.parts, progress.state, self.rounds)
                ) from error
            except BaseException:
                with self._interrupts.ignored(), contextlib.suppress(Exception):  # a full disk may prevent saving
                    self._save_completed(progress)
                raise
            finally:
                with self._interrupts.ignored():
                    self.executor.close()

    def _round(self, progress: Progress) -> None:
        """Train the round's clients and aggregate their updates, save, evaluate, and call the callbacks."""
        started, state, number = time.perf_counter(), progress.state, progress.state.round + 1
        cohort = sample_cohort(self.seed, number, self.data.num_clients, self.participation)
        self._call("on_round_start", number, cohort)
        received, profile = Received(self.method, state, number, self.parts.faults), Profile()
        phases = self.method.phases(self.local_epochs)
        random = generator(self.seed, number, SERVER, Stream.SERVER_ROUND)
        answer, asked = received.first_exchange(self.executor, state, cohort, random)
        state = state.with_shared(answer) if answer else state
        tasks = [ClientTask(client, number, phases) for client in asked]
        outcomes = profile.waiting(start_tasks(self.executor, state, tasks), "wall/clients")
        with profile.part("wall/aggregate"):  # clients are trained while their updates are aggregated one by one
            updates = received.updates(outcomes, len(tasks), lambda client: self._call("on_client_end", number, client))
            entries = {**answer, **self.method.aggregate(updates, state, random)}
        with self._interrupts.held_back():
            progress.complete_round(received.clients, entries, received.traffic, self.folder.table_sizes(), started)
            if self._due(self.checkpoint_every, number):
                with profile.part("wall/checkpoint"):
                    self._save(LAST, progress.state, progress)
        if received.failures and self.on_client_failure == "retry" and number < self.rounds:
            refuse_lasting(self.parts, progress.state, received.failures, phases)
        with profile.part("wall/evaluate"):
            row = self._evaluate_and_log(progress, started)
        if self.local_settings.profile:
            profile.add(received.traffic.client_seconds)
            self.folder.append("profile.csv", [{"round": number, **profile.seconds}])
        self._call("on_round_end", number, row)

    def _evaluate_and_log(self, progress: Progress, started: float | None = None) -> Mapping[str, float]:
        """Evaluate the last completed round if that is due, write its rows and log its metrics."""
        round = progress.state.round
        if round == 0 or not self._due(self.evaluate_every, round):
            return {}
        result = results.finalize_and_test(self.parts, progress.state, train=round == self.rounds)
        seconds = progress.row["time/round_s"] if started is None else time.perf_counter() - started
        row = {**result.scalars(), **progress.row, "time/round_s": seconds}
        with self._interrupts.held_back():
            results.write_round(self.parts, progress, row, result, last=round == self.rounds)
            if self.keep_best:
                Selection(self.keep_best, self.parts).keep(progress)
        for logger in self.loggers:
            logger.log_metrics(row, step=round)
        return row

    def finish(self, progress: Progress) -> dict[str, Any]:
        """Realign after the last round, save the final models, and write and return the summary."""
        result = progress.final or results.finalize_and_test(self.parts, progress.state, train=True)
        results.write_tables(self.parts, progress.state.round, result)
        results.write_confusion(self.parts, result)
        self._save("final", result.final, progress)
        exchanged = {name: count + result.exchanged.get(name, 0) for name, count in progress.exchanged.items()}
        summary = results.run_summary(self.parts, result, exchanged, progress.seconds)
        if self.keep_best and progress.row:
            summary |= Selection(self.keep_best, self.parts).summary()
        self.folder.write_json("summary.json", summary)
        self._call("on_run_end", summary)
        return summary

    def _due(self, every: int, round: int) -> bool:
        return round % every == 0 or round == self.rounds

    def _save(self, name: str, state: FederatedState, progress: Progress) -> None:
        self.folder.checkpoints.save(name, state, {**self.parts.identity(), **progress.info()})
        progress.saved_round = state.round

    def _save_completed(self, progress: Progress) -> None:
        """Save the last completed round before the run ends early."""
        if progress.whole and 0 < progress.state.round != progress.saved_round:
            self._save(LAST, progress.state, progress)

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, FederatedCallback):
                getattr(callback, hook)(self, *arguments)

    def start(self, method: Method, data: FederatedDataModule) -> FederatedState:
        """Load and split the data, let the server prepare the method, and return the state before the first round."""
        with Line("reading the data"):
            data.prepare_data()
            data.setup("fit")
        checks.check_fit(method, data, self.local_epochs)
        check_validation(self.keep_best, data)
        method.restart()
        with Line("preparing the method"):
            self.attach(method, data.embedded(method.backbone, self.strategy.root_device, method.needs_images))
            method.prepare(generator(self.seed, 0, SERVER, Stream.PREPARE))
        return method.initial_state(data.num_clients, lambda k: generator(self.seed, 0, k, Stream.PERSONAL))

    def attach(self, method: Method, data: FederatedDataModule, folder: RunFolder | None = None) -> None:
        """Make the executor and the evaluator for a method and its data.

        Args:
            method: Method to train or test.
            data: Data module after ``setup``.
            folder: Run folder; that of ``run_dir`` by default.
        """
        configure_cpu(self.local_settings.threads)  # another trainer may have changed it since this one was made
        self.strategy.precision_plugin.convert_module(method)  # as every local fit does: entries keep one type
        self._parts = assemble(self, method, data, folder or self._run_folder(method))

    def _run_folder(self, method: Method) -> RunFolder:
        return RunFolder(self.run_dir or f"runs/{type(method).__name__.lower()}")
