"""Interrupt: Ctrl-C waits until a training step is done; how a run continues after that."""

import signal
import threading
from pathlib import Path
from typing import Any

__all__ = ["Interrupt", "how_to_resume"]


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


def how_to_resume(checkpoint: Path | None) -> str:
    """Returns how a run continues that has been saved in a checkpoint, if there is one."""
    if checkpoint is None:
        return "The pair keeps its parameters. With out=FOLDER a run can be resumed."
    folder = checkpoint.parent
    return (
        f"The run is saved in {folder}. Resume it with `pvae run --resume {folder}`, or in Python "
        f"with fit(..., out={str(folder)!r}, resume=True)."
    )
