import os
import subprocess
import sys

from benchmarks.processes import finish, started

LATER = "import time; time.sleep(30); print('alive')"


def test_what_a_process_started_ends_with_the_block():
    """Its child holds the pipe, which would say more if it lived on."""
    code = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {LATER!r}])"
    with started([sys.executable, "-c", code], os.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "begun\n"
    assert process.stdout.read() == ""
    assert process.returncode != 0


def test_a_process_is_stopped_when_its_time_is_over():
    assert finish([sys.executable, "-c", LATER], os.environ, 0.2) == (None, "", "")


def test_a_process_that_ends_in_time_is_left_alone():
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)"
    assert finish([sys.executable, "-c", code], os.environ, 60) == (4, "out\n", "err\n")
