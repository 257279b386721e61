"""Stage 2: a fit on two lanes without graphs, under torch's CUDA sanitizer.

The sanitizer watches for tensors that two streams use without an event between them. It is switched on after the
imports, since its environment variable makes torchvision's import fail where there is no device.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence

from benchmarks.first_gpu.ceilings import FIT
from benchmarks.first_gpu.record import Record, parser
from fedloge import cli

LANES = ("--trainer.executor=cuda", "--trainer.executor.graphs=false", "--trainer.executor.lanes=2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit; returns its exit status, which is that of an aborted run where a client met a race."""
    record = Record.of(parser("sanitized", __doc__).parse_args(arguments))
    watched = record.device.type == "cuda"
    if watched:
        from torch.cuda._sanitizer import enable_cuda_sanitizer

        enable_cuda_sanitizer()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        quiet = ("--quiet", "--report=false", f"--trainer.run_dir={folder}/run")
        code = cli.main(["fit", *FIT, *LANES, "--trainer.on_client_failure=abort", *quiet])
    record.add("two lanes without graphs", watched=watched, exit_status=code)
    return code


if __name__ == "__main__":
    sys.exit(main())
