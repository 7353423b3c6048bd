"""Images as grey levels, and many of them as one picture with transparent gaps."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pictures", "canvas", "columns", "is_image"]

_WIDTH = 720


def is_image(event: tuple[int, ...]) -> bool:
    """Returns whether an event shape is a picture: [C, H, W] with one or three channels, or [H, W].

    Points [P, 2] and [P, 3] are not pictures.

    Example:
        >>> is_image((1, 28, 28)), is_image((28, 28)), is_image((784,)), is_image((100, 3))
        (True, True, False, False)
    """
    if len(event) == 2:
        return event[1] > 3
    return len(event) == 3 and event[0] in (1, 3)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How values become grey levels: the same way for data, reconstructions and samples.

    Attributes:
        low: The value that is black.
        high: The value that is white.
    """

    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, x: NDArray[Any]) -> "Pictures":
        """Returns [0, 1], or the range of the data if they leave it."""
        known = x[np.isfinite(x)]
        if not known.size or (known.min() >= 0 and known.max() <= 1):
            return cls()
        low, high = float(known.min()), float(known.max())
        return cls(low, high if high > low else low + 1)

    @property
    def note(self) -> str:
        """A sentence on the grey levels; empty if they are the values themselves."""
        if (self.low, self.high) == (0, 1):
            return ""
        return f" Black is {self.low:.3g} and white {self.high:.3g}, the range of the data."

    def pixels(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        """Returns [N, H, W, 3] of values [N, H, W] or [N, C, H, W]; NaN is black."""
        x = np.asarray(x, dtype=np.float64)
        x = x[:, None] if x.ndim == 3 else x
        level = np.nan_to_num((x - self.low) / (self.high - self.low), nan=0.0)
        rgb = np.broadcast_to(
            np.rint(level.clip(0, 1) * 255).astype(np.uint8), (len(x), 3, *x.shape[2:])
        )
        return np.moveaxis(rgb, 1, -1)


def columns(across: int) -> int:
    """Returns the number of images of this width that fills a row best.

    Example:
        >>> columns(28), columns(8), columns(64)
        (12, 9, 10)
    """
    space = _space(across)

    def filled(n: int) -> int:
        row = n * (across + space) - space
        return row * max(1, _WIDTH // row) if row <= _WIDTH else 0

    return max(range(12, 7, -1), key=filled) if filled(8) else max(1, _WIDTH // across)


def _space(across: int) -> int:
    return max(1, round(across / 14))


def canvas(pixels: NDArray[np.uint8], columns: int, gap: bool = True) -> NDArray[np.uint8]:
    """Returns images in rows as one picture, [height, width, 4], transparent between the cells.

    Args:
        pixels: Images [N, H, W, 3], filled row by row.
        columns: Images in a row.
        gap: Whether a transparent line separates the cells.
    """
    n, height, across, _ = pixels.shape
    rows, space = math.ceil(n / columns), _space(across) if gap else 0
    size = rows * (height + space) - space, columns * (across + space) - space
    drawn = np.zeros((*size, 4), np.uint8)
    for i in range(n):
        y, x = (i // columns) * (height + space), (i % columns) * (across + space)
        drawn[y : y + height, x : x + across, :3] = pixels[i]
        drawn[y : y + height, x : x + across, 3] = 255
    return drawn
