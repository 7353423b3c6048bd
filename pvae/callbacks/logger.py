"""Logger: writes the numbers of a run into a tracking tool."""

import importlib
from types import ModuleType
from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.runtime import whole
from pvae.training import Callback, Training

__all__ = ["Logger"]


class Logger(Callback):
    """Writes the settings of a run at its start, and the row of `history.csv` after each epoch.

    Every number is written at the number of steps so far. A resumed run continues the same record.
    A subclass says how its tool opens a record, takes numbers and pictures, and closes.

    Args:
        every: Also writes `step_elbo`, the bound of a minibatch in nats per datum, of each
            `every`-th step. The numbers are fetched from a GPU together, after the epoch.

    Raises:
        PvaeError: If the tool is not installed. The message says how to install it.
    """

    package: ClassVar[str]
    """The module that is imported."""
    name: ClassVar[str]
    """Its name as an extra of pvae, in the shell and in checkpoints."""

    def __init__(self, every: int | None = None) -> None:
        self.tool = self._import()
        self.every = None if every is None else whole("every", every)
        self._losses: list[tuple[int, float | Tensor]] = []
        if every is not None:
            self.step = self._note  # otherwise a step costs nothing

    def _import(self) -> ModuleType:
        try:
            return importlib.import_module(self.package)
        except ImportError as error:
            raise PvaeError(
                f"{type(self).__name__} needs {self.name}, which is not installed "
                f"({first_line(error)}). Install it with `pip install 'pvae[{self.name}]'`."
            ) from error

    def open(self, training: Training, kept: dict[str, Any]) -> None:
        """Opens a record, or that of a resumed run; `kept` is what was kept of it."""
        raise NotImplementedError

    def write(self, values: dict[str, float], step: int) -> None:
        """Writes numbers by name."""
        raise NotImplementedError

    def picture(self, name: str, pixels: NDArray[Any], step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        raise NotImplementedError

    def close(self, complete: bool) -> None:
        """Closes the record; `complete` is whether training reached its end."""
        raise NotImplementedError

    def start(self, training: Training) -> None:
        """Opens the record."""
        kept = training.kept.setdefault(self.name, {"rows": 0})
        self.open(training, kept)
        self._write_rows(training)

    def _note(self, training: Training) -> None:
        if training.step % self.every == 0:
            self._losses.append((training.step, training.loss))

    def epoch(self, training: Training) -> None:
        """Writes the epoch's row."""
        losses, self._losses = self._losses, []
        for step, loss in losses:
            self.write({"step_elbo": -float(loss)}, step)
        self._write_rows(training)

    def _write_rows(self, training: Training) -> None:
        kept = training.kept[self.name]
        for row in training.history[kept["rows"] :]:
            self.write(row, int(row["epoch"]) * training.steps)
        kept["rows"] = len(training.history)

    def end(self, training: Training) -> None:
        """Closes the record."""
        self.close(training.finished)
