"""Images as one PNG grid of crisp cells."""

import base64
import io

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from pvae.drawing import Pictures, canvas, columns, is_image

__all__ = ["Pictures", "columns", "grid", "is_image"]

_WIDTH = 720


def grid(
    pixels: NDArray[np.uint8], columns: int, alt: str, width: int = _WIDTH, gap: bool = True
) -> Markup:
    """Returns images in rows as one element, at the largest integer scale that fits.

    Args:
        pixels: Images [N, H, W, 3], filled row by row.
        columns: Images in a row.
        alt: What the picture shows, for screen readers.
        width: The available width in CSS pixels.
        gap: Whether a transparent line separates the cells.
    """
    drawn = canvas(pixels, columns, gap)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    height, across = drawn.shape[:2]
    scale = max(1, width // across)
    return Markup(
        f'<img class="pixels" src="data:image/png;base64,{data}" alt="{escape(alt)}" '
        f'width="{across * scale}" height="{height * scale}">'
    )
