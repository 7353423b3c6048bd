"""Interrupt: Ctrl-C waits until a training step is done."""

import signal
import threading
from typing import Any

__all__ = ["Interrupt"]


class Interrupt:
    """Notes the first Ctrl-C in `asked`; the second one raises at once."""

    asked = False

    def __enter__(self) -> "Interrupt":
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
