"""Signals of commands and of the processes that they fork."""

import os
import signal

from instant3d.utils.signals import ended_by_signals


def test_ended_by_signals_leaves_forked_children_to_their_default():
    with ended_by_signals():
        child = os.fork()
        if not child:
            os._exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
