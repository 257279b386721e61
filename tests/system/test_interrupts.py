import multiprocessing
import os
import signal
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from fedloge.system import interrupts as module
from fedloge.system.interrupts import Interrupts, end_with_parent, forkserver_context

HANGUP = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", pytest.param("SIGHUP", marks=HANGUP)])
def test_a_signal_waits_where_it_must(name):
    done, interrupts = [], Interrupts()

    def work():
        with interrupts:
            with interrupts.held_back():
                os.kill(os.getpid(), getattr(signal, name))
                done.append("first half")
                done.append("second half")
            done.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["first half", "second half"]
    assert interrupts.signum == getattr(signal, name)


@HANGUP
def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_ignored_while_a_run_ends():
    interrupts = Interrupts()
    with interrupts, interrupts.ignored():
        os.kill(os.getpid(), signal.SIGTERM)
    with interrupts, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in module._ending()]
    with Interrupts():
        assert [signal.getsignal(number) for number in module._ending()] != before
    assert [signal.getsignal(number) for number in module._ending()] == before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_signals_do_not_reach_what_starts_processes():
    forkserver_context(["fedloge.config"])
    status = Path(f"/proc/{forkserver._forkserver._forkserver_pid}/status").read_text()
    blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
    assert all(blocked & 1 << number - 1 for number in module._ending())
    assert not set(module._ending()) & signal.pthread_sigmask(signal.SIG_BLOCK, [])


def sleep_with_parent(path):
    """Note the id of this process, and sleep until the parent ends."""
    end_with_parent()
    path.write_text(str(os.getpid()))
    time.sleep(60)


def start_and_sleep(path):
    """Start a child and sleep."""
    multiprocessing.get_context("spawn").Process(target=sleep_with_parent, args=(path,)).start()
    time.sleep(60)


@pytest.mark.slow
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path):
    parent = multiprocessing.get_context("spawn").Process(target=start_and_sleep, args=(tmp_path / "pid",))
    parent.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    child = int((tmp_path / "pid").read_text())
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
