"""A compiler that does not finish is stopped, and the pair runs eagerly."""

import contextlib
import signal
import threading
import time

import pytest
import torch
from pyro.infer import Trace_ELBO
from small import small_pair

import pvae
from pvae.compile import limit
from pvae.compile.limit import TooSlow, limited

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no alarm signal")


def never(*_, **__):
    """Swallows errors, as parts of the compiler do, and ends only so that a test can fail."""
    for _ in range(4):
        with contextlib.suppress(Exception):
            time.sleep(2)
    raise AssertionError("nothing stopped the compiler")


def test_a_compiler_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(limit, "SECONDS", 0.2)
    monkeypatch.setattr(torch._inductor, "compile", never)
    svi = pvae.SVI(*small_pair(), None, Trace_ELBO(), mode="compiled")
    with pytest.warns(UserWarning, match="eagerly.*the compiler had not finished after 0 s"):
        svi.step(torch.rand(8, 1, 8, 8).round())
    assert not svi.compiled
    assert svi.step(torch.rand(8, 1, 8, 8).round()) > 0
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_programs_own_alarm_and_other_threads_are_left_alone():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with limited(0.05):
            time.sleep(0.4)
        assert rung == [1]
    finally:
        signal.signal(signal.SIGALRM, before)
    done = []

    def run():
        with limited(0.05):
            time.sleep(0.2)
        done.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done
    with pytest.raises(TooSlow, match="after 0 s"), limited(0.05):
        time.sleep(1)
