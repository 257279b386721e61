"""The outer federated loop as a Lightning Trainer."""

from __future__ import annotations

import contextlib
import hashlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from torch import nn

from fedloge.callbacks import FederatedCallback
from fedloge.checks import check_choice, check_least, check_not_negative, check_share, check_threads
from fedloge.data.datamodule import FederatedDataModule
from fedloge.errors import ConfigError, RunError
from fedloge.evaluation.evaluator import Evaluator, MaskAbsent, PersonalShots
from fedloge.evaluation.shots import ShotRule
from fedloge.executors import ClientFailure, ClientTask, Executor, LocalSettings, Outcome, make_executor
from fedloge.executors.client import quiet_lightning
from fedloge.executors.processes import num_cores
from fedloge.federation.sampling import sample_cohort
from fedloge.federation.seeding import SERVER, Stream, generator
from fedloge.federation.state import ClientStore, ClientUpdate, FederatedState, num_bytes
from fedloge.methods.base import Client, Method, Phase, ServerData, within_any
from fedloge.preflight import Cost, preflight
from fedloge.runs.folder import LAST, MARKER, RunFolder, class_rows, client_rows, confusion_rows
from fedloge.runs.summary import Result, summarize
from fedloge.system.cpu import configure_cpu
from fedloge.system.interrupts import Interrupted, Interrupts
from fedloge.system.profiling import Profile
from fedloge.tracking import Tracking, split_names


class FederatedTrainer(Trainer):
    """Trains a :class:`Method` on a :class:`FederatedDataModule`, round by round, and writes the run folder.

    Args:
        rounds: T.
        local_epochs: E, epochs of a client in a round.
        participation: Fraction of the clients that take part in a round, drawn anew each time.
        evaluate_every: Evaluate after every so many rounds, and after the last.
        checkpoint_every: Save after every so many rounds, and after the last.
        executor: How a round's clients are trained: ``serial``, one at a time; ``processes``, one per core of this
            machine; ``ray``, on a cluster; ``cuda``, a cohort in one fit, with CUDA graphs on parallel streams.
            ``auto`` takes cuda on a GPU, and processes where that pays. The result is the same.
        seed: Where all randomness of the training comes from (the split of the data has its own, ``data.seed``).
        run_dir: The run folder; None takes ``runs/<method>``.
        overwrite: Replace an older run in that folder.
        on_client_failure: What a client that raises, diverges (NaN, infinite) or loses its worker leads to: ``retry``
            tries once more and then skips it, ``skip`` leaves it out of the round, ``abort`` ends the run.
        min_clients: Fraction of a round's clients that must survive; with fewer the run ends, saved.
        mask_absent: ``train`` removes from each personal model the classes that its client has no training image of,
            ``test`` those that it has no test image of (the released code): privileged knowledge, off by default.
        shot_rule: Many/medium/few by cumulative ``mass`` of the training samples (the paper's), or by ``count``.
        personal_shots: What the rule counts for the personal models: the ``global`` training set, or each client's
            ``own`` test images (the released code).
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: Lightning's ``devices``; one device is used.
        precision: Lightning's ``precision``.
        threads: Threads of torch that train a client on the CPU. More than one changes results in the last bit.
        profile: Write where each round's time went into ``profile.csv``.
        logger: ``wandb``, ``tensorboard`` or ``csv``, whose files go into the run folder, or Lightning loggers; they
            get the metrics with the round as the step.
        callbacks: Lightning callbacks; those of type :class:`FederatedCallback` are called round by round.

    Raises:
        ConfigError: If an argument is out of range.
    """

    cost: Cost
    executor: Executor
    _row: dict[str, float]
    _tables: dict[str, Any]

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
        logger: Logger | list[Logger | str] | bool | str | None = None,
        callbacks: Callback | list[Callback] | None = None,
    ) -> None:
        check_least("trainer.rounds", rounds, 1)
        check_least("trainer.local_epochs", local_epochs, 1)
        check_least("trainer.evaluate_every", evaluate_every, 1)
        check_least("trainer.checkpoint_every", checkpoint_every, 1)
        check_threads("trainer.threads", threads)
        check_not_negative("trainer.seed", seed, "Choose 0 or more.")
        check_choice("trainer.on_client_failure", on_client_failure, ("retry", "skip", "abort"))
        check_share("trainer.min_clients", min_clients)
        if not 0 < participation <= 1:
            raise ConfigError(
                "trainer.participation",
                participation,
                "must lie in (0, 1]",
                "1.0 trains every client in every round.",
            )
        names, loggers = split_names(logger)
        tracking = [Tracking(names)] if names or loggers else []
        with quiet_lightning(), _clear_accelerator_error(accelerator):
            super().__init__(
                accelerator=accelerator,
                devices=devices,
                precision=precision,
                logger=loggers,
                callbacks=[*([callbacks] if isinstance(callbacks, Callback) else callbacks or []), *tracking],
                max_epochs=rounds,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        self.rounds, self.local_epochs, self.participation = rounds, local_epochs, participation
        self.evaluate_every, self.checkpoint_every = evaluate_every, checkpoint_every
        self.asked_executor, self.seed = executor, seed
        self.run_dir, self.overwrite = run_dir, overwrite
        self.on_client_failure, self.min_clients = on_client_failure, min_clients
        self.mask_absent: MaskAbsent = mask_absent or "off"  # YAML reads a bare off as False
        self.shot_rule: ShotRule = shot_rule
        self.personal_shots: PersonalShots = personal_shots
        attempts = 2 if on_client_failure == "retry" else 1
        device = self.strategy.root_device
        self.local_settings = LocalSettings(seed, accelerator, devices, precision, device, threads, attempts, profile)
        configure_cpu(threads)  # for what uses a finished run; a run that begins asks for them again

    # The loop ----------------------------------------------------------------------------------------------

    def fit(  # type: ignore[override]
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Train for ``rounds`` rounds, realign, evaluate, and leave everything in the run folder.

        Args:
            model: A :class:`Method`.
            train_dataloaders: May be the data module, as with Lightning; data loaders have no clients.
            val_dataloaders: Not used.
            datamodule: A :class:`FederatedDataModule`.
            ckpt_path: ``last`` goes on with the run in ``run_dir`` where its newest checkpoint is, and starts it where
                there is none; ``previous`` goes back to the checkpoint before.

        Raises:
            Interrupted: After SIGINT or SIGTERM, when what was done is saved.
            RunError: If the folder is in use, holds another run, or a checkpoint is damaged.
        """
        method, data = _checked(model, datamodule or train_dataloaders)
        self.folder = RunFolder(self.run_dir or f"runs/{type(method).__name__.lower()}")
        with self.folder.locked():
            resumed = self._checkpoint(ckpt_path)
            if resumed is None and ckpt_path is None:
                self.folder.check_free(self.overwrite)
            state = self.start(method, data)
            if resumed is None:
                about = {**self.about(), "initial_backbone_sha256": sha256(method.backbone)}
                self.folder.create(overwrite=True, about=about)
                data.partition.save(self.folder.path / "partition.json")
            else:
                state = self._resume(resumed, state)
                self._tell("on_resume")  # may still refuse: nothing is changed before
                if state.round == self.rounds and self.folder.finished(self.rounds):
                    self._tell("on_run_end", self.folder.read_json("summary.json"))
                    return
            self._train(state, resumed is not None)

    def _train(self, state: FederatedState, resumed: bool) -> None:
        """From a state to the end, or to the signal or error that stops it."""
        self.first_round = state.round
        self._began = time.perf_counter()
        self._state, self._whole = state, True
        try:
            with Interrupts() as self._interrupts:
                self.cost = preflight(self, state)
                if resumed:
                    self.folder.cut_tables(self._tables)
                self._tell("on_run_start")
                if resumed:
                    self._measure(state)  # a checkpoint is written before its round is evaluated
                while self._state.round < self.rounds:
                    self._round(self._state)
                self.finish(self._state, self._seconds())
        except KeyboardInterrupt as error:
            self._keep()
            saved = f"stopped after round {self._state.round} of {self.rounds}, which is saved{self._standing()}"
            raise Interrupted(self._interrupts.signum, saved) from error
        except Exception:
            with contextlib.suppress(Exception):  # a full disk, say, which may be what ended the run
                self._keep()
            raise
        finally:
            self.executor.close()

    def _standing(self) -> str:
        """How good the last whole round is, for a run that stops early; no table gets a row that was not due."""
        if self._state.round == 0:
            return ""
        scalars = self.evaluate(self._state, train=False).scalars()
        known = {"GM": scalars.get("global/acc"), "PM": scalars.get("personal/acc_mean")}
        return (
            " (" + ", ".join(f"{name} {100 * value:.1f} %" for name, value in known.items() if value is not None) + ")"
        )

    def _checkpoint(self, ckpt_path: str | None) -> str | None:
        """The checkpoint to go on from, or None to begin."""
        if ckpt_path is None or not (self.folder.path / MARKER).is_file():
            return None
        newest = self.folder.newest()
        return newest if ckpt_path == LAST else ckpt_path

    def _resume(self, name: str, start: FederatedState) -> FederatedState:
        """Load a checkpoint, and check that it belongs to this run."""
        about = self.folder.about(name)
        expected = {"method": type(self.method).__name__, "seed": self.seed, "partition": self.data.partition.sha256}
        for key, value in expected.items():
            if about[key] != value:
                raise RunError(
                    f"{str(self.folder.path)!r} cannot go on: its {key} is {about[key]!r}, this run's is {value!r}. "
                    "Choose another --trainer.run_dir, or the options that the run has in its config.yaml."
                )
        state = self.folder.load(name)
        for part in ("tensors", "fixed"):
            old, new = getattr(state.shared, part), getattr(start.shared, part)
            if {key: tensor.shape for key, tensor in old.items()} != {key: tensor.shape for key, tensor in new.items()}:
                raise RunError(f"{str(self.folder.path)!r} cannot go on: its model has other layers than this one.")
        if state.round > self.rounds:
            problem = f"but the run has done {state.round}"
            raise ConfigError("trainer.rounds", self.rounds, problem, "Ask for at least as many.")
        self._tables = about["tables"]
        self.exchanged, self._row, self._seconds_before = about["exchanged"], about["row"], about["seconds"]
        self._saved_round = state.round
        entries = {**start.shared.tensors, **start.shared.fixed}  # another precision may go on with the run
        own = {**state.shared.tensors, **state.shared.fixed}
        return state.with_shared({name: tensor.to(entries[name].dtype) for name, tensor in own.items()})

    def _seconds(self) -> float:
        seconds: float = self._seconds_before + time.perf_counter() - self._began
        return seconds

    def start(self, method: Method, data: FederatedDataModule) -> FederatedState:
        """Load and split the data, let the server prepare the method, and return the state before the first round."""
        data.prepare_data()
        data.setup("fit")
        check_fit(method, data)
        self.attach(method, data)
        method.prepare(generator(self.seed, 0, SERVER, Stream.PREPARE))
        return method.initial_state(data.num_clients, lambda k: generator(self.seed, 0, k, Stream.PERSONAL))

    def about(self) -> dict[str, Any]:
        """What ``environment.json`` says of the trainer."""
        return {"seed": self.seed, "device": str(self.strategy.root_device)}

    def attach(self, method: Method, data: FederatedDataModule) -> None:
        """Make the executor and the evaluator for a method and its data."""
        configure_cpu(self.local_settings.threads)  # another trainer may have changed it since this one was made
        self.method, self.data = method, data
        self._final: Result | None = None
        self._row, self._tables = {}, {}
        self._saved_round = -1
        self._began, self._seconds_before = time.perf_counter(), 0.0
        self.exchanged = {"bytes_up": 0, "bytes_down": 0}
        self.strategy.precision_plugin.convert_module(method)  # as every local fit would: states have one type for good
        method.server_data = server_data(method, data)
        self.population = [Client(k, tuple(map(int, data.client_counts(k)))) for k in range(data.num_clients)]
        self.executor = make_executor(self.asked_executor, self._work(), method, self.local_settings, data)
        self.executor.start(method, data, self.local_settings)
        idle = min(self.executor.workers, num_cores())  # cores whose workers wait during evaluation
        threads, device = max(idle, self.local_settings.threads), self.strategy.root_device
        self.evaluator = Evaluator(
            method,
            data,
            self.population,
            self.mask_absent,
            self.shot_rule,
            device,
            threads,
            self.personal_shots,
        )

    def _work(self) -> float:
        """How much there is to train: passes of an image through the network, times its parameters."""
        images = sum(client.num_examples for client in self.population) * self.participation
        parameters = sum(parameter.numel() for parameter in self.method.parameters())
        return images * self.local_epochs * self.rounds * parameters

    def _round(self, state: FederatedState) -> None:
        began, number = time.perf_counter(), state.round + 1
        cohort = sample_cohort(self.seed, number, self.data.num_clients, self.participation)
        self._tell("on_round_start", number, cohort)
        phases = self.method.phases(self.local_epochs)
        tasks = [ClientTask(client, number, phases) for client in cohort]
        traffic, clients, profile = self._traffic(state), state.clients.fork(), Profile()
        outcomes = profile.waiting(self.executor.run(state.shared, state.clients, tasks), "wall/clients")
        updates = self._survivors(self._receive(outcomes, number, clients, traffic), len(tasks), number)
        server = generator(self.seed, number, SERVER, Stream.SERVER_ROUND)
        with profile.part("wall/aggregate"):
            changed = self.method.aggregate(updates, state, server)
        with self._interrupts.held_back():
            tables = self.folder.table_sizes()
            self._whole = False  # until all of the state is that of the new round
            state.clients.adopt(clients)
            self._state = FederatedState(number, state.shared, state.clients).with_shared(changed)
            self.exchanged["bytes_up"] += traffic.bytes_up
            self.exchanged["bytes_down"] += traffic.bytes_down
            self._row = {**traffic.scalars(), "time/round_s": time.perf_counter() - began}
            self._tables, self._whole = tables, True
            if self._due(self.checkpoint_every, number):
                with profile.part("wall/checkpoint"):
                    self._save(LAST, self._state)
        with profile.part("wall/evaluate"):
            row = self._measure(self._state, began)
        if self.local_settings.profile:
            profile.add(traffic.client_seconds)
            self.folder.append("profile.csv", [{"round": number, **profile.row()}])
        self._tell("on_round_end", number, row)

    def _traffic(self, state: FederatedState) -> Traffic:
        """Counts a round that starts from ``state``: what is fixed for good goes to all clients before the first."""
        fixed, method = state.shared.fixed, self.method
        renewed = {name: tensor for name, tensor in fixed.items() if within_any(name, method.renewed)}
        once = {name: t for name, t in fixed.items() if not within_any(name, (*method.renewed, *method.server))}
        broadcast = num_bytes(once) * self.data.num_clients if state.round == 0 else 0
        return Traffic(num_bytes(state.shared.tensors) + num_bytes(renewed), broadcast)

    def _due(self, every: int, number: int) -> bool:
        return number % every == 0 or number == self.rounds

    def _keep(self) -> None:
        """Save the last whole round before the run ends early."""
        if self._whole and self._state.round > 0 and self._saved_round != self._state.round:
            self._save(LAST, self._state)

    def _save(self, name: str, state: FederatedState) -> None:
        about = {
            "method": type(self.method).__name__,
            "seed": self.seed,
            "partition": self.data.partition.sha256,
            "tables": self._tables,  # as they were before this round was evaluated
            "exchanged": self.exchanged,
            "row": self._row,
            "seconds": self._seconds(),
        }
        self.folder.save(name, state, about)
        self._saved_round = state.round

    def _receive(
        self, outcomes: Iterator[Outcome], round: int, clients: ClientStore, traffic: Traffic
    ) -> Iterator[ClientUpdate]:
        """Pass the updates on to the server, leave the personal states with the clients, and note who failed."""
        for outcome in outcomes:
            if isinstance(outcome, ClientFailure):
                self._note(outcome, round)
                continue
            clients[outcome.update.client] = outcome.personal
            traffic.count(outcome.update)
            self._tell("on_client_end", round, outcome.update.client)
            yield outcome.update

    def _survivors(self, updates: Iterator[ClientUpdate], expected: int, round: int) -> Iterator[ClientUpdate]:
        """The updates, and an end of the run where too few clients survived."""
        count = 0
        for update in updates:
            count += 1
            yield update
        if count == 0 or count < self.min_clients * expected:
            last = self.folder.rows("faults.csv")[-1]
            raise RunError(
                f"round {round}: {count} of {expected} clients survived, trainer.min_clients={self.min_clients} asks "
                f"for more. Client {last['client']}: {last['reason']}. See {self.folder.path / 'faults.log'}."
            )

    def _note(self, failure: ClientFailure, round: int) -> None:
        """A row of ``faults.csv``, the traceback in ``faults.log``, and a warning or the end of the run."""
        row = {
            "round": round,
            "client": failure.client,
            "reason": failure.reason,
            "attempts": self.local_settings.attempts,
        }
        self.folder.append("faults.csv", [row])
        with (self.folder.path / "faults.log").open("a", encoding="utf-8") as file:
            file.write(f"round {round}, client {failure.client}: {failure.reason}\n{failure.details}\n")
        if self.on_client_failure == "abort":
            raise RunError(
                f"round {round}: client {failure.client} failed: {failure.reason}. "
                "--trainer.on_client_failure=retry or skip would go on without it."
            )
        warnings.warn(f"round {round} goes on without client {failure.client}: {failure.reason}", stacklevel=2)

    # Stages 2 and 3, evaluation ----------------------------------------------------------------------------

    def evaluate(self, state: FederatedState, train: bool) -> Result:
        """Realign (with its training part only if ``train``) and test before and after; ``state`` is left as it is."""
        final = self.method.finalize(state, self.population, self._train_all if train else None)
        before = self.evaluator.evaluate(state)
        return Result(final, before, before if final is state else self.evaluator.evaluate(final))

    def finish(self, state: FederatedState, seconds: float) -> dict[str, Any]:
        """Realign after the last round, save the final models, and write and return the summary."""
        result = self._final or self.evaluate(state, train=True)
        self._write_tables(state.round, result)
        self._write_confusion(result)
        self._save("final", result.final)
        summary = self.summarize(result, seconds)
        self.folder.write_json("summary.json", summary)
        self._tell("on_run_end", summary)
        return summary

    def summarize(self, result: Result, seconds: float) -> dict[str, Any]:
        """The content of ``summary.json``."""
        about = {
            "method": type(self.method).__name__,
            "dataset": self.data.source.name,
            "rounds": result.final.round,
            "seed": self.seed,
        }
        protocol = {
            "shots": {
                "rule": self.shot_rule,
                "groups": list(self.evaluator.groups),
                "personal": self.personal_shots,
            },
            "mask_absent": self.mask_absent,
            "privileged": list(self.method.privileged),
            "finalized": self.method.finalized,
            **self.exchanged,
            "partition_sha256": self.data.partition.sha256,
            "personal_masked": self.evaluator.evaluate(result.final, "train").personal() or None,
            "seconds": round(seconds, 3),
        }
        return {**about, **summarize(result, self.folder.rows("metrics.csv")), **protocol}

    def _train_all(self, state: FederatedState, phases: Sequence[Phase]) -> ClientStore:
        tasks = [ClientTask(client, state.round + 1, phases) for client in range(self.data.num_clients)]
        trained = state.clients.fork()
        for outcome in self.executor.run(state.shared, state.clients, tasks):
            if isinstance(outcome, ClientFailure):
                self._note(outcome, state.round)
            else:
                trained[outcome.update.client] = outcome.personal
        return trained

    def _measure(self, state: FederatedState, began: float | None = None) -> Mapping[str, float]:
        """Evaluate a round if it is due, and write its row of ``metrics.csv``."""
        if state.round == 0 or not self._due(self.evaluate_every, state.round):
            return {}
        last = state.round == self.rounds
        result = self.evaluate(state, train=last)
        seconds = self._row["time/round_s"] if began is None else time.perf_counter() - began
        row = {**result.scalars(), **self._row, "time/round_s": seconds}
        with self._interrupts.held_back():
            self.folder.append("metrics.csv", [{"round": state.round, **row}])
            if last:
                self._final = result
            else:
                self._write_tables(state.round, result)
        for logger in self.loggers:
            logger.log_metrics(row, step=state.round)
        return row

    def _write_confusion(self, result: Result) -> None:
        for suffix, evaluation in result.evaluations().items():
            self.folder.append("confusion.csv", confusion_rows("global" + suffix, evaluation.global_confusion))
            self.folder.append("confusion.csv", confusion_rows("personal" + suffix, evaluation.personal_confusion))

    def _write_tables(self, round: int, result: Result) -> None:
        names, counts = self.data.class_names, self.data.class_counts
        per_class, per_client = [], []
        for suffix, evaluation in result.evaluations().items():
            for view, matrix in (
                ("global", evaluation.global_confusion),
                ("personal", evaluation.personal_confusion),
            ):
                per_class += class_rows(round, view + suffix, matrix, names, counts)
            per_client += client_rows(round, "personal" + suffix, evaluation)
        self.folder.append("per_class.csv", per_class)
        self.folder.append("per_client.csv", per_client)

    def _tell(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, FederatedCallback):
                getattr(callback, hook)(self, *arguments)


class Traffic:
    """Counts what a round sends, and averages its training losses.

    Args:
        bytes_down: What every client of the round receives.
        broadcast: Bytes that go down besides (what is fixed, to all clients, in the first round).
    """

    def __init__(self, bytes_down: int, broadcast: int) -> None:
        self._per_client, self.bytes_down = bytes_down, broadcast
        self.bytes_up = self.examples = 0
        self.loss = 0.0
        self.client_seconds: dict[str, float] = {}

    def count(self, update: ClientUpdate) -> None:
        """Take a client's update into account."""
        self.bytes_down += self._per_client
        self.bytes_up += num_bytes(update.tensors) + num_bytes(update.report)
        self.examples += update.num_examples
        self.loss += update.metrics["loss"] * update.num_examples
        for part, seconds in update.seconds.items():
            name = f"client/{part}"
            self.client_seconds[name] = self.client_seconds.get(name, 0.0) + seconds

    def scalars(self) -> dict[str, float]:
        """Columns of ``metrics.csv``."""
        loss = self.loss / self.examples if self.examples else float("nan")
        return {"train/loss": loss, "comm/bytes_up": self.bytes_up, "comm/bytes_down": self.bytes_down}


def _checked(model: Any, data: Any) -> tuple[Method, FederatedDataModule]:
    if not isinstance(model, Method):
        raise ConfigError("model", type(model).__name__, "is not a fedloge Method", "Subclass fedloge.Method.")
    if not isinstance(data, FederatedDataModule):
        raise ConfigError(
            "datamodule",
            type(data).__name__,
            "is not a FederatedDataModule",
            "Pass fit(method, datamodule=...).",
        )
    return model, data


def server_data(method: Method, data: FederatedDataModule) -> ServerData:
    """What the server may know: nothing but what the method declares in ``privileged``."""
    counts = tuple(map(int, data.class_counts)) if "class_counts" in method.privileged else None
    if "auxiliary" not in method.privileged:
        return ServerData(counts)
    images, labels = data.auxiliary_set()
    return ServerData(counts, (images.to(next(method.parameters()).dtype), labels))


def check_fit(method: Method, data: FederatedDataModule) -> None:
    """Refuse a model that does not fit itself or the data, naming the option to change."""
    method.check()
    if method.num_classes != data.num_classes:
        raise ConfigError(
            "model.num_classes",
            method.num_classes,
            f"but the data have {data.num_classes} classes",
            "Make them equal.",
        )
    if method.backbone.in_channels != data.channels:
        raise ConfigError(
            "model.backbone.in_channels",
            method.backbone.in_channels,
            f"but the images have {data.channels} channel(s)",
            f"Set --model.backbone.in_channels={data.channels}.",
        )


def sha256(module: nn.Module) -> str:
    """Hash of a module's state, entry names included."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _clear_accelerator_error(accelerator: str) -> Iterator[None]:
    try:
        yield
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            "trainer.accelerator", accelerator, f"cannot be used: {error}", "auto takes what there is."
        ) from error
