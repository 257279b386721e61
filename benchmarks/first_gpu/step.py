"""Stages 1 and 4: a local step of FedLoGe with ResNet-18, eager and as a CUDA graph, each try in a process of its own.

``--until forward``, ``backward`` or ``sgd`` captures the step up to there; ``kernels`` lists the kernels of a replay,
and ``compiled`` runs the losses through ``torch.compile``. A capture that fails leaves its process in disorder, so
nothing else is tried in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.first_gpu.record import Record, milliseconds, parser
from benchmarks.prepare import build_method
from benchmarks.workloads import Federation
from fedloge.methods.base import Client

STEPS = (1, 10, 100)
"""Numbers of steps after which replayed and eager weights are compared."""
TOLERANCE = 1e-5
"""How far apart they may be after the first step; training amplifies what is there then."""
FULL = Federation(backbone="ResNet", depth=18)
QUICK = Federation(backbone="SmallCNN", image_size=8)
Work = Callable[[], object]


class Step:
    """A local step of FedLoGe on one batch, from the same weights as often as is asked.

    Args:
        federation: Network and training.
        device: Device of the step.
    """

    def __init__(self, federation: Federation, device: torch.device) -> None:
        self.device = device
        self.method = build_method(federation)
        self.method.prepare(torch.Generator().manual_seed(0))
        state = self.method.initial_state(1, lambda _: torch.Generator().manual_seed(0))
        self.method.to(device, memory_format=torch.channels_last)
        counts = (federation.per_class,) * federation.num_classes
        self.method.begin(Client(0, counts, 1), state.shared, state.clients[0])
        self.method.on_fit_start()
        self.method.begin_phase(self.method.phases(1)[0])
        self.optimizer = self.method.configure_optimizers()
        size = federation.image_size
        images = torch.randn(federation.batch_size, 3, size, size, device=device)
        self.batch = images.contiguous(memory_format=torch.channels_last), torch.arange(len(images), device=device)
        self.losses = self.method.local_losses
        self._first = [tensor.clone() for tensor in self._state()]

    def _state(self) -> list[Tensor]:
        momentum = [own["momentum_buffer"] for own in self.optimizer.state.values()]
        return [*self.method.state_dict().values(), *momentum]

    @torch.no_grad()
    def restart(self) -> None:
        """Restore the first weights, statistics and momentum, in place."""
        for tensor, first in zip(self._state(), self._first, strict=True):
            tensor.copy_(first)

    def forward(self) -> Tensor:
        """The sum of the losses."""
        return torch.stack(tuple(self.losses(self.batch).values())).sum()

    def backward(self) -> None:
        """Losses and gradients."""
        loss = self.forward()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)

    def sgd(self) -> None:
        """The whole step."""
        self.backward()
        self.optimizer.step()

    def captured(self, work: Work, mode: str) -> Work:
        """The replay of a graph of the work; the work itself where there are no graphs."""
        if self.device.type != "cuda":
            return work
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
            self.optimizer.zero_grad()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode=mode):
            work()
        return graph.replay

    def weights_after(self, work: Work) -> list[Tensor]:
        """All weights in one, after each of :data:`STEPS` from the start."""
        self.restart()
        found, done = [], 0
        for until in STEPS:
            for _ in range(until - done):
                work()
            done = until
            found.append(torch.cat([p.detach().flatten().double() for p in self.method.parameters()]))
        return found


def compare(record: Record, step: Step, until: str, mode: str) -> bool:
    """Time a part of the step eagerly and captured; a whole step must also give the weights of the eager one."""
    work: Work = getattr(step, until)
    times = 3 if record.quick else 20
    record.add(f"eager {until}", ms=milliseconds(work, step.device, times))
    expected = step.weights_after(work) if until == "sgd" else []
    replay = step.captured(work, mode)
    how = "replayed" if step.device.type == "cuda" else "again eager, as graphs need a GPU:"
    record.add(f"{how} {until}", ms=milliseconds(replay, step.device, times), mode=mode)
    if not expected:
        return True
    gaps = [float((a - b).abs().max()) for a, b in zip(expected, step.weights_after(replay), strict=True)]
    equal = gaps[0] <= TOLERANCE
    record.add("replayed and eager weights", steps=list(STEPS), largest_difference=gaps, equal=equal)
    return equal


def kernels(record: Record, step: Step) -> bool:
    """The kernels of a replay, those with the most time first."""
    replay = step.captured(step.sgd, "thread_local")
    on_gpu = step.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as profiler:
        replay()
        if on_gpu:
            torch.cuda.synchronize()
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, spent))
    total = {"us": sum(getattr(event, spent) for event in events), "kernels": sum(event.count for event in events)}
    record.add("one replay" if on_gpu else "one eager step, on the CPU", **total)
    for event in events[:15]:
        record.add(event.key[:120], us=float(getattr(event, spent)), count=event.count)
    return True


def compiled(record: Record, step: Step) -> bool:
    """The step with compiled losses, eager and captured."""
    times = 3 if record.quick else 20
    record.add("eager step", ms=milliseconds(step.sgd, step.device, times))
    backend = "inductor" if step.device.type == "cuda" else "aot_eager"  # that compiles nothing, but takes it apart
    step.losses = torch.compile(step.method.local_losses, backend=backend)
    record.add("step with compiled losses", ms=milliseconds(step.sgd, step.device, times), backend=backend)
    if step.device.type == "cuda":
        replay = step.captured(step.sgd, "thread_local")
        record.add("the same, replayed", ms=milliseconds(replay, step.device, times))
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where the replayed weights are not the eager ones."""
    made = parser("step", __doc__)
    made.add_argument("--until", choices=["forward", "backward", "sgd", "kernels", "compiled"], default="sgd")
    made.add_argument("--mode", choices=["global", "thread_local", "relaxed"], default="thread_local")
    options = made.parse_args(arguments)
    record = Record.of(options)
    torch.backends.cudnn.deterministic = options.until == "sgd"  # replays are compared to the bit
    torch.backends.cudnn.allow_tf32 = options.until != "sgd"
    step = Step(QUICK if record.quick else FULL, record.device)
    special = {"kernels": kernels, "compiled": compiled}
    if options.until in special:
        return int(not special[options.until](record, step))
    return int(not compare(record, step, options.until, options.mode))


if __name__ == "__main__":
    sys.exit(main())
