"""Pictures: a grid of data, reconstructions and samples each few epochs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvae.callbacks.logger import Logger
from pvae.errors import PvaeError
from pvae.predictive import generate, reconstruct
from pvae.runtime import atomic, whole
from pvae.training import Callback, Training

__all__ = ["Pictures"]

_LEAST = 32  # pixels across a cell


class Pictures(Callback):
    """Draws a grid after every n-th epoch: rows of data, their reconstructions, and samples.

    Samples come from the same random numbers each time, so that pictures can be compared. The data
    are the first of the validation part, or of the training part if there is none.

    Args:
        every: Number of epochs between two pictures.
        size: Number of pictures in a row.
        folder: Where `epoch-0010.png` is written; None is `pictures` in the run folder.
        logger: Also shows the grid in this logger, which comes before it among the callbacks.

    Raises:
        PvaeError: In `fit`, if the data are no images, or there is no folder and no logger.

    Example:
        >>> import tempfile, torch, pvae
        >>> model, guide = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
        >>> folder = tempfile.mkdtemp()
        >>> grid = Pictures(every=2, folder=folder)
        >>> x = torch.zeros(64, 1, 8, 8)
        >>> _ = pvae.fit(model, guide, x, epochs=4, callbacks=[grid], progress=False)
        >>> sorted(os.listdir(folder))
        ['epoch-0002.png', 'epoch-0004.png']
    """

    def __init__(
        self,
        every: int = 10,
        size: int = 8,
        folder: str | os.PathLike[str] | None = None,
        logger: Logger | None = None,
    ) -> None:
        self.every, self.size = whole("every", every), whole("size", size)
        self.folder, self.logger = folder, logger

    def start(self, training: Training) -> None:
        """Checks that there is something to draw, and a place for it."""
        x = self._batch(training)[0]
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise PvaeError(
                f"The data have shape {list(x.shape[1:])} and are no images: [C, H, W] with one or "
                "three channels C."
            )
        if self._place(training) is None and self.logger is None:
            raise PvaeError(
                "There is no folder to write to. Give Pictures(folder=…) or fit(..., out=…)."
            )

    def epoch(self, training: Training) -> None:
        """Draws the grid."""
        if training.epoch % self.every:
            return
        batch = self._batch(training)
        pair = training.model, training.guide
        rows = [batch[0], reconstruct(*pair, *batch), generate(training.model, self.size, *batch)]
        picture = grid(rows)
        if (folder := self._place(training)) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic(folder / f"epoch-{training.epoch:04d}.png") as temporary:
                Image.fromarray(picture).save(temporary, format="png")
        if self.logger is not None:
            self.logger.picture("pictures", picture, training.step)

    def _batch(self, training: Training) -> tuple[Tensor, ...]:
        part = training.train if training.validation is None else training.validation
        return next(iter(part.batches(min(self.size, len(part)), device=training.device)))

    def _place(self, training: Training) -> Path | None:
        if self.folder is not None:
            return Path(self.folder)
        return None if training.out is None else training.out / "pictures"


def grid(rows: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Returns rows of images [N, C, H, W] as one picture [height, width, 3].

    Black is 0 and white is 1, or the ends of the range of the first row if it leaves [0, 1].
    """
    values = [row.detach().float().cpu().numpy() for row in rows]
    low, high = float(values[0].min()), float(values[0].max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return np.concatenate([_row(each, low, high) for each in values])


def _row(images: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    level = np.nan_to_num((images - low) / (high - low or 1.0)).clip(0, 1)
    pixels = np.rint(255 * level).astype(np.uint8)
    pixels = np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))
    times = -(-_LEAST // pixels.shape[-1])  # small images as crisp squares
    pixels = pixels.repeat(times, axis=2).repeat(times, axis=3)
    pixels = np.pad(pixels, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=128)
    return np.concatenate(list(pixels.transpose(0, 2, 3, 1)), axis=1)
