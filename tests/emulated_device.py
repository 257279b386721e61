"""A device with streams, events and graphs that exists in Python only: its tensors hold values on the CPU.

Importing this registers it as torch's ``privateuse1`` backend, for good and before the first backward pass of the
process: run it in a process of its own. Work is done at once, but a copy to the host arrives only when the host has
waited for it, and the order of accesses from different streams is checked by torch's CUDA sanitizer.
"""

import contextlib
import traceback
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.cuda import _sanitizer
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from imitated_graphs import Graph

NAME = "emulated"
DEVICE = torch.device("cpu")  # until it is registered below
READS = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape
aten = torch.ops.aten


class OnDevice(torch.Tensor):
    """A tensor of the device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value):
        return torch.Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=DEVICE
        )

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f"OnDevice({self.value})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} outside of the emulation")


class Stream:
    def __init__(self, device=None):
        self.number = len(EMULATION.streams)
        EMULATION.streams.append(self)
        EMULATION.order.syncs.create_stream(self.number)

    def synchronize(self):
        EMULATION.refuse_in_capture("synchronizes a stream")
        EMULATION.order._handle_stream_synchronization(self.number)
        EMULATION.deliver(self)

    def wait_event(self, event):
        EMULATION.order._handle_event_wait(event.number, self.number)


class Event:
    def __init__(self):
        self.number, self.after = id(self), 0
        self.stream = None
        EMULATION.order._handle_event_creation(self.number)

    def record(self, stream=None):
        self.stream, self.after = stream or EMULATION.stream, len(EMULATION.copies)
        EMULATION.order._handle_event_record(self.number, self.stream.number)

    def synchronize(self):
        EMULATION.refuse_in_capture("waits for an event")
        if self.stream is not None:
            EMULATION.order._handle_event_synchronization(self.number)
            EMULATION.deliver(self.stream, self.after)


class Module(_DummyBackendModule):
    """What torch.cuda offers to an executor."""

    Stream, Event, CUDAGraph = Stream, Event, Graph

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]

    def get_rng_state(self, device=None):
        return EMULATION.random_state.clone()

    def set_rng_state(self, state, device=None):
        EMULATION.random_state = state.clone()

    def mem_get_info(self, device=None):
        return 2**34, 2**34

    def graph_pool_handle(self):
        return None

    def synchronize(self, device=None):
        EMULATION.refuse_in_capture("synchronizes the device")
        EMULATION.order._handle_device_synchronization()
        for stream in EMULATION.streams:
            EMULATION.deliver(stream)

    @contextlib.contextmanager
    def stream(self, stream):
        before, EMULATION.stream = EMULATION.stream, stream or EMULATION.stream
        try:
            yield
        finally:
            EMULATION.stream = before

    @contextlib.contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert EMULATION.graph is None
        EMULATION.graph = graph
        try:
            with self.stream(stream):
                yield
        finally:
            EMULATION.graph = None


class Emulation(TorchDispatchMode):
    """Does the work of the device, and notes what a step must not do.

    Attributes:
        faults: What steps have done wrong, and accesses that no event orders.
        waits: Operations for which the host had to wait.
        launched: Names of all operations.
        step: Whether a step is going on.
    """

    def __init__(self):
        super().__init__()
        self.random_state = torch.zeros(1, dtype=torch.uint8)
        self.reset()

    def reset(self):
        """Forget everything."""
        self.faults, self.waits, self.launched, self.step, self.graph = [], [], [], False, None
        self.copies, self.delivered, self.pinned, self.kept = [], set(), set(), {}
        self.order, self.streams = _sanitizer.EventHandler(), []
        self.stream = None

    def __enter__(self):
        self.reset()
        self.stream = Stream()
        return super().__enter__()

    def refuse_in_capture(self, what):
        if self.graph is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: it {what}")

    def fault(self, what):
        """Note something that a step must not do, and refuse it in a capture."""
        if self.step:
            self.faults.append(what)
        self.refuse_in_capture(what)

    def wait(self, function):
        self.waits.append(str(function))
        self.fault(f"reads values back ({function})")

    def deliver(self, stream, end=None):
        """Let the copies to the host arrive that a stream has done."""
        for number, (target, value, of) in enumerate(self.copies[:end]):
            if of is stream and number not in self.delivered:
                self.delivered.add(number)
                target.copy_(value)

    # Operations ----------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
        wanted = kwargs.get("device")
        there = bool(here) if wanted is None else torch.device(wanted).type == NAME
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        if not here and not there:
            return self._on_host(function, args, kwargs)
        values, options = pytree.tree_map(lambda x: x.value if isinstance(x, OnDevice) else x, (args, kwargs))
        if function is aten.copy_.default:
            return self._copied(args, values, options)
        self._check(function, args, kwargs, leaves, here, there)
        result = function(*values, **options)
        self._order(function, args, kwargs, result)
        if self.graph is not None:
            self.graph.calls.append((function, values, options, result))
        return self._wrapped(function, args, kwargs, result, there)

    def _on_host(self, function, args, kwargs):
        """An operation of the CPU alone; there is no page-locked memory, so that is ours to remember."""
        if function is aten.is_pinned.default:
            return self._is_pinned(args[0])
        if function is aten._pin_memory.default:
            return self._pin(args[0].clone())
        pinned = kwargs.pop("pin_memory", False)
        result = function(*args, **kwargs)
        return self._pin(result) if pinned else result

    def _pin(self, tensor):
        self.pinned.add(tensor.untyped_storage().data_ptr())
        return tensor

    def _is_pinned(self, tensor):
        return tensor.untyped_storage().data_ptr() in self.pinned

    def _copied(self, args, values, options):
        target, source = args[:2]
        asynchronous = options.get("non_blocking", args[2] if len(args) > 2 else False)
        if isinstance(target, OnDevice):
            if not isinstance(source, OnDevice):
                self._from_host(source, asynchronous)
            self._order(aten.copy_.default, args, {}, None)
            values[0].copy_(values[1])
            if self.graph is not None:
                self.graph.calls.append((aten.copy_.default, values[:2], {}, values[0]))
            return target
        self._order(aten.copy_.default, args, {}, None)
        if not asynchronous or not self._is_pinned(target):
            self.wait("copy_ to the host")
            return target.copy_(values[1])
        self.fault("copies between host and device")
        self.copies.append((target, values[1].clone(), self.stream))
        return target.fill_(float("nan") if target.is_floating_point() else 77)

    def _from_host(self, source, asynchronous):
        """A copy to the device, for which the host waits unless it is asynchronous, from page-locked memory."""
        self.fault("copies between host and device")
        if not asynchronous or not self._is_pinned(source):
            self.wait("a copy to the device")

    def _check(self, function, args, kwargs, leaves, here, there):
        """Note what a step must not do; raise what CUDA would."""
        if function is aten.index.Tensor:
            if any(index is not None and index.dtype == torch.bool for index in args[1]):
                self.wait("index by a mask")
        elif any(tag in function.tags for tag in READS):
            self.wait(function)
        elif function is aten._to_copy.default and here and not there:
            self.wait("_to_copy to the host")
        elif function is aten._to_copy.default and not here:
            self._from_host(args[0], kwargs.get("non_blocking", False))
        elif function is not aten._foreach_copy_.default and here:
            strangers = [leaf for leaf in leaves if not isinstance(leaf, OnDevice)]
            if any(leaf.dim() for leaf in strangers):
                raise RuntimeError(f"Expected all tensors to be on the same device ({function})")
            if strangers:
                self.fault(f"takes a scalar from the host ({function})")
        if torch.Tag.nondeterministic_seeded in function.tags:
            self.fault(f"draws random numbers ({function})")

    def _order(self, function, args, kwargs, result):
        """Have the sanitizer check that earlier accesses from other streams are done."""
        self.launched.append(function._schema.name)
        reads, writes = set(), set()
        for argument, value in self._arguments(function, args, kwargs):
            written = argument.alias_info is not None and argument.alias_info.is_write
            viewed = argument.alias_info is not None and not written
            keys = {self._key(t.value) for t in pytree.tree_leaves(value) if isinstance(t, OnDevice)}
            (writes if written else set() if viewed else reads).update(keys)
        outputs = {self._key(t) for t in pytree.tree_leaves(result) if isinstance(t, Tensor)} - reads
        names = {key: [str(key)] for key in reads | writes | outputs}
        errors = self.order._handle_kernel_launch(
            self.stream.number, reads - writes, writes, outputs, function._schema, names
        )
        for error in errors:
            self.faults.append(f"stream {self.stream.number} does not wait for another: {function} {error}")

    def _arguments(self, function, args, kwargs):
        schema = function._schema.arguments
        yield from zip(schema, args, strict=False)
        yield from ((argument, kwargs[argument.name]) for argument in schema if argument.name in kwargs)

    def _key(self, value):
        """Name of a memory, which is kept so that no other gets the same."""
        storage = value.untyped_storage()
        self.kept.setdefault(storage.data_ptr(), storage)
        return storage.data_ptr()

    def _wrapped(self, function, args, kwargs, result, there):
        returned = function._schema.returns
        if returned and returned[0].alias_info is not None and returned[0].alias_info.is_write:
            own = {str(a.alias_info.before_set): v for a, v in self._arguments(function, args, kwargs) if a.alias_info}
            found = [own[str(one.alias_info.before_set)] for one in returned]
            return found[0] if len(found) == 1 else tuple(found)
        return pytree.tree_map(lambda x: OnDevice(x) if isinstance(x, Tensor) else x, result) if there else result


LIBRARY = torch.library.Library("aten", "IMPL")
"""What torch.tensor calls behind the back of the mode."""


def empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=False):
    return OnDevice(torch.empty_strided(size, stride, dtype=dtype))


def copy_from(source, target, non_blocking=False):
    EMULATION.wait("a tensor of Python values")
    target.value.copy_(source)
    return target


LIBRARY.impl("empty_strided", empty_strided, "PrivateUse1")
LIBRARY.impl("_copy_from", copy_from, "PrivateUse1")
# The sanitizer keeps the stack of every operation, which takes longer than all the rest.
_sanitizer.traceback = SimpleNamespace(
    StackSummary=SimpleNamespace(extract=lambda *_, **__: traceback.StackSummary()), walk_stack=lambda _: ()
)
torch.__future__.set_swap_module_params_on_conversion(True)  # else their values would stay
EMULATION = Emulation()
_setup_privateuseone_for_python_backend(NAME, Module())
DEVICE = torch.device(NAME, 0)
