"""TensorBoard: curves, settings and pictures in an event file."""

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pvae.callbacks.logger import Logger
from pvae.errors import PvaeError
from pvae.training import Training

__all__ = ["TensorBoard"]


class TensorBoard(Logger):
    """Writes an event file for TensorBoard; `tensorboard --logdir runs` shows those of all runs.

    In the shell this is `--logger tensorboard`.

    Args:
        folder: Where the file is written; None is `tensorboard` in the run folder.
        every: As for `Logger`.

    Raises:
        PvaeError: If TensorBoard is not installed; in `fit`, if there is no folder.

    Example:
        >>> import pvae
        >>> pvae.fit(model, guide, "digits", callbacks=[TensorBoard("logs")])  # doctest: +SKIP
    """

    package, name = "torch.utils.tensorboard", "tensorboard"

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, every: int | None = None
    ) -> None:
        super().__init__(every)
        self.folder = folder
        self._writer: Any = None

    def open(self, training: Training, kept: dict[str, Any]) -> None:
        """Opens an event file; what an interrupted run wrote after its checkpoint is hidden."""
        folder = self.folder
        if folder is None:
            if training.out is None:
                raise PvaeError(
                    "There is no folder to write to. Give TensorBoard(folder), or fit(..., out=…)."
                )
            folder = training.out / "tensorboard"
        after = {"purge_step": training.step + 1} if training.step else {}
        self._writer = self.tool.SummaryWriter(str(Path(folder)), **after)
        if not training.step:
            lines = [f"| {name} | {value} |" for name, value in training.settings.items()]
            table = "\n".join(["| setting | value |", "| --- | --- |", *lines])
            self._writer.add_text("settings", table, 0)

    def write(self, values: dict[str, float], step: int) -> None:
        """Writes numbers by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels: NDArray[Any], step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self, complete: bool) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
