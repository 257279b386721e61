import os
import signal

import pytest

from fedloge.system.interrupts import Interrupts


def test_a_signal_waits_where_it_must():
    done, interrupts = [], Interrupts()

    def work():
        with interrupts:
            with interrupts.held_back():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("first half")
                done.append("second half")
            done.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["first half", "second half"]
    assert interrupts.signum == signal.SIGTERM
