"""fedloge through its public classes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.clock import Clock
from benchmarks.contenders import UnavailableError
from benchmarks.contenders.exchanging import drift
from benchmarks.prepare import build_method, data_module
from benchmarks.problem import DIM, Arrays, Problem, to_arrays
from fedloge.callbacks import FederatedCallback
from fedloge.errors import ConfigError
from fedloge.etf import sse_c
from fedloge.evaluation.evaluator import Evaluation
from fedloge.executors import ClientResult, ClientTask, LocalSettings
from fedloge.executors.client import LocalTraining, train_client
from fedloge.federation.aggregation import weighted_mean
from fedloge.federation.seeding import SERVER, Stream, generator
from fedloge.federation.state import ClientUpdate, FederatedState, SharedState, Tensors
from fedloge.methods import FedAvg
from fedloge.methods.base import Client, Method, Phase
from fedloge.system.cpu import configure_cpu
from fedloge.trainer import FederatedTrainer


class Ticker(FederatedCallback):
    """Ticks the clock after every round; of a profiled run, the details are the seconds of the parts of a round."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_round_end(self, trainer: FederatedTrainer, round: int, metrics: Mapping[str, float]) -> None:
        """A round with its evaluation is done."""
        if trainer.local_settings.profile:
            with self.clock.paused():
                self.clock.details = parts_of_a_round(trainer.folder.rows("profile.csv"))
        self.clock.tick()


def parts_of_a_round(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Median seconds of the parts of a round, after the first; not every round has every part, a checkpoint least."""
    named = {name for row in rows[1:] or rows for name, value in row.items() if value and name != "round"}
    return {name: median(float(row[name]) for row in rows[1:] or rows if row[name]) for name in sorted(named)}


def run(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """Do the problem's work with the executor of the options."""
    match problem.kind:
        case "round":
            return rounds(problem, options, repetitions, clock)
        case "step":
            return local_steps(
                problem, train_by_steps if options["executor"] == "steps" else train_client, repetitions, clock
            )
        case "eval":
            return evaluations(problem, repetitions, clock)
        case "exchange":
            parallel = options["executor"] != "serial"
            return (exchanges_of_executor if parallel else exchanges)(problem, options["executor"], repetitions, clock)
        case "ssec":
            return solve(problem, "alternating", repetitions, clock)


def rounds(problem: Problem, options: Mapping[str, str], repetitions: int, clock: Clock) -> Arrays:
    """A run of ``fedloge fit``, evaluated after every round."""
    method, data = build(problem)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            problem, folder, executor=options["executor"], rounds=repetitions, local_epochs=problem.federation.epochs,
            profile="profile" in options, callbacks=[Ticker(clock)],
        )  # fmt: skip
        trainer.fit(method, datamodule=data)
        state = trainer.folder.checkpoints.load("last")
    arrays = to_arrays({**state.shared.tensors})
    for client, own in enumerate(state.clients):
        arrays |= to_arrays({f"personal/{client}/{name}": tensor for name, tensor in own.items()})
    return arrays


def local_steps(problem: Problem, train: Any, repetitions: int, clock: Clock) -> Arrays:
    """The local training of every client from the initial state, by :func:`train_client` or the like."""
    method, data = build(problem)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(problem, folder)
        state = started(problem, trainer, method, data)
    tasks = [ClientTask(client, 1, method.phases(problem.federation.epochs)) for client in range(data.num_clients)]
    for _ in range(repetitions):
        results = [
            train(method, data, trainer.local_settings, task, state.shared, state.clients[task.client])
            for task in tasks
        ]  # fmt: skip
        clock.tick()
    arrays: Arrays = {}
    for client, result in enumerate(results):
        entries = {**result.update.tensors, **result.personal}
        arrays |= to_arrays({f"{client}/{name}": tensor for name, tensor in entries.items()})
    return arrays


def train_by_steps(
    method: Method, data: Any, settings: LocalSettings, task: ClientTask, shared: SharedState, personal: Tensors
) -> ClientResult:
    """The local steps of :func:`train_client` without a Lightning fit around them."""
    training = LocalTraining(method, data, settings.seed, task, settings.device)
    training.begin(shared, personal)
    for number, phase in training.phases.items():
        method.begin_phase(phase)
        method.on_fit_start()
        optimizer, loader = method.configure_optimizers(), training.loader(phase=number)
        for _ in range(phase.epochs):
            for batch in loader:
                method.local_step(batch, optimizer)
    return training.finish({}, 0).result()


def evaluations(problem: Problem, repetitions: int, clock: Clock) -> Arrays:
    """The evaluator on new copies of one state, so that no features of an earlier evaluation can be used."""
    method, data = build(problem)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(problem, folder)
        state = started(problem, trainer, method, data)
        for _ in range(repetitions):
            with clock.paused():
                fresh = copied(state)
            evaluation = trainer.evaluator.evaluate(fresh)
            clock.tick()
    return counts(evaluation)


def counts(evaluation: Evaluation) -> Arrays:
    """Confusion of the generic model and the correct answers of every personal one."""
    assert evaluation.global_confusion is not None
    correct = [score.accuracy * score.n_test for score in evaluation.clients]
    return {"confusion": evaluation.global_confusion.numpy().astype(float), "correct": np.array(correct).round()}


class Drifting(FedAvg):
    """FedAvg whose clients only move what they receive a little."""

    def begin(self, client: Client, shared: SharedState, personal: Tensors) -> None:
        """Load and move; no phase of training follows."""
        super().begin(client, shared, personal)
        drift(self, client.id)


def exchanges_of_executor(problem: Problem, executor: str, repetitions: int, clock: Clock) -> Arrays:
    """The exchange through an executor and its workers, with a stand-in for the training."""
    method, data = build(problem, Drifting)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(problem, folder, executor=executor)
        state = trainer.start(method, data)
        tasks = [ClientTask(client, 1, (Phase("none", 0),)) for client in range(data.num_clients)]
        for _ in range(repetitions):
            results = trainer.executor.run(state.shared, state.clients, tasks)
            mean = weighted_mean(result.update for result in results if isinstance(result, ClientResult))
            clock.tick()
        getattr(trainer.executor, "close", lambda: None)()
    return to_arrays({**mean})


def exchanges(problem: Problem, executor: str, repetitions: int, clock: Clock) -> Arrays:
    """Load a client, take its update, and average while the updates arrive, in this process."""
    method, _ = build(problem)
    server, client_side = method.shared_state(), method
    configure_cpu(torch.get_num_threads())  # as a trainer does

    def updates() -> Iterator[ClientUpdate]:
        for client, size in enumerate(problem.sizes):
            client_side.load(server, {})
            with clock.paused():
                drift(client_side, client)
            yield ClientUpdate(client, client_side.shared_state().tensors, size, ())

    for _ in range(repetitions):
        mean = weighted_mean(updates())
        clock.tick()
    return to_arrays({**mean})


def solve(problem: Problem, solver: Any, repetitions: int, clock: Clock) -> Arrays:
    """Solve SSE-C, and report its geometry."""
    federation = problem.federation
    for _ in range(repetitions):
        draw = generator(federation.seed, 0, SERVER, Stream.PREPARE)
        frame = sse_c(federation.num_classes, DIM, gamma=federation.gamma, solver=solver, generator=draw)
        clock.tick()
    details = {f"details/{name}": np.array(value) for name, value in vars(frame.geometry).items()}
    return {"zeros": np.array((frame.weight == 0).sum().item()), **details}


def build(problem: Problem, kind: type[Method] | None = None) -> tuple[Method, Any]:
    """The method (or another kind of it) with the initial weights, and the data."""
    method = build_method(problem.federation, kind)
    entries = {name: t for name, t in problem.initial.items() if not name.startswith("personal/")}
    method.load(SharedState(entries), {})
    return method, data_module(problem.federation, problem.data)


def started(problem: Problem, trainer: FederatedTrainer, method: Method, data: Any) -> FederatedState:
    """The problem's initial state."""
    state = trainer.start(method, data).with_shared(problem.initial)
    for client in range(data.num_clients):
        state.clients[client] = problem.personal(client)
    return state


def make_trainer(problem: Problem, folder: str, executor: str = "serial", **options: Any) -> FederatedTrainer:
    """A trainer on as many threads as torch was given.

    Raises:
        UnavailableError: If this version of fedloge, or what is installed, does not have the executor.
    """
    accelerator = "cuda" if problem.device.type == "cuda" else "cpu"
    try:
        return FederatedTrainer(
            executor=executor,  # type: ignore[arg-type]
            accelerator=accelerator,
            seed=problem.federation.seed,
            run_dir=f"{folder}/run",
            threads=torch.get_num_threads(),
            precision="64-true" if problem.federation.double else "32-true",
            **options,
        )
    except ConfigError as error:
        raise UnavailableError(str(error)) from error


def copied(state: FederatedState) -> FederatedState:
    """A copy of the state in new tensors."""
    shared = {name: tensor.clone() for name, tensor in state.shared.tensors.items()}
    return replace(state, shared=SharedState(shared, state.shared.fixed))
