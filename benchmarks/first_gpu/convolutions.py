"""Stage 4: the convolutions of ResNet-18 on CIFAR for one client, and for 8 and 16 clients as groups of one.

Groups tell whether clients trained in one kernel would be faster than clients on parallel streams.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.first_gpu.record import Record, milliseconds, parser

SHAPES = (
    (3, 64, 3, 1, 32),
    (64, 64, 3, 1, 32),
    (64, 128, 3, 2, 32),
    (64, 128, 1, 2, 32),
    (128, 128, 3, 1, 16),
    (128, 256, 3, 2, 16),
    (256, 256, 3, 1, 8),
    (256, 512, 3, 2, 8),
    (256, 512, 1, 2, 8),
    (512, 512, 3, 1, 4),
)
"""Input and output channels, kernel, stride, height and width of the input."""
BATCH = 8
DTYPES = {"TF32": torch.float32, "bf16": torch.bfloat16}


def passes(
    shape: tuple[int, int, int, int, int], groups: int, dtype: torch.dtype, device: torch.device, times: int
) -> Iterator[tuple[str, float]]:
    """Milliseconds of the forward pass, the gradient of the data and that of the weights."""
    inputs, outputs, kernel, stride, size = shape
    shapes = (BATCH, groups * inputs, size, size), (groups * outputs, inputs, kernel, kernel)
    images, weight = (torch.randn(s, device=device, dtype=dtype).to(memory_format=torch.channels_last) for s in shapes)
    window = [stride, stride], [kernel // 2] * 2, [1, 1], False, [0, 0], groups

    def forward() -> Tensor:
        result: Tensor = torch.ops.aten.convolution(images, weight, None, *window)
        return result

    yield "forward", milliseconds(forward, device, times)
    gradient = torch.randn_like(forward())
    for name, wanted in (("dgrad", [True, False, False]), ("wgrad", [False, True, False])):
        backward = partial(torch.ops.aten.convolution_backward, gradient, images, weight, None, *window, wanted)
        yield name, milliseconds(backward, device, times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every shape, the groups of a shape side by side."""
    record = Record.of(parser("convolutions", __doc__).parse_args(arguments))
    torch.backends.cudnn.allow_tf32 = True
    shapes = SHAPES[:1] if record.quick else SHAPES
    for name, dtype in DTYPES.items() if record.device.type == "cuda" else [("float32", torch.float32)]:
        for shape in shapes:
            for groups in (1, 8) if record.quick else (1, 8, 16):
                if record.time_is_up:
                    return 0
                measured = passes(shape, groups, dtype, record.device, 1 if record.quick else 10)
                words = "{}→{} {}x{} stride {} on {}".format(*shape[:2], shape[2], *shape[2:])
                record.add(f"{name} {words}", groups=groups, **{f"{key}_ms": value for key, value in measured})
    return 0


if __name__ == "__main__":
    sys.exit(main())
