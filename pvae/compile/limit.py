"""A time limit for the compiler."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["SECONDS", "TooSlow", "limited"]

SECONDS = 300.0
"""The longest time that compiling one graph may take; most take ten seconds to a minute."""


class TooSlow(Exception):
    """The compiler was stopped because it took too long."""


class _Alarm(BaseException):
    """Passes through the compiler's own `except Exception`."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `TooSlow` when the context has taken this long.

    It needs the alarm signal, and so has no effect outside of the main thread, on Windows, or if
    the program uses that signal itself.
    """
    if not _alarm_is_free():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Alarm:
        raise TooSlow(f"the compiler had not finished after {seconds:.0f} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _alarm_is_free() -> bool:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        return False
    used = signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL
    return not used and signal.getitimer(signal.ITIMER_REAL)[0] == 0
