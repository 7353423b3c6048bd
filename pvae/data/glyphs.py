"""Letters with known factors and captions, drawn from the fonts that matplotlib ships."""

import functools
import itertools
import string
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pvae.data.vocabulary import Vocabulary

__all__ = ["FACTORS", "VOCABULARY", "draw"]

_SIDE = 32
_FONTS = {"sans": "DejaVuSans", "serif": "DejaVuSerif", "mono": "DejaVuSansMono"}
_SIZES = {"small": 14, "medium": 18, "large": 22}  # points
_SHIFTS = (-5, -2, 2, 5)  # pixels from the centre
_ROOM = 5  # pixels around the image, for shifts

FACTORS: dict[str, tuple[str, ...]] = {
    "letter": tuple(string.ascii_lowercase),
    "family": tuple(_FONTS),
    "weight": ("regular", "bold"),
    "slant": ("upright", "slanted"),
    "size": tuple(_SIZES),
    "x": tuple(map(str, _SHIFTS)),
    "y": tuple(map(str, _SHIFTS)),
}
"""The values of each factor; the field `factors` holds their positions, in this order."""

VOCABULARY = Vocabulary(
    ("", *_SIZES, "bold", "slanted", *_FONTS, "letter", *string.ascii_lowercase), length=6
)
"""The words of the captions.

Example:
    >>> VOCABULARY.text(torch.tensor([2, 4, 6, 9, 10, 0]))
    'medium bold sans letter a'
"""


@functools.lru_cache(1)
def draw() -> dict[str, Tensor]:
    """Draws every combination of the factors once, N = 14,976.

    Returns:
        `x`, ink, uint8 [N, 1, 32, 32]; `y`, the letter, int64 [N]; `factors`, int64 [N, 7]; and
        `caption`, int64 [N, 6], which names all factors except x and y.
    """
    sizes = [len(values) for values in FACTORS.values()]
    factors = torch.cartesian_prod(*map(torch.arange, sizes))
    x = np.zeros((*sizes, _SIDE, _SIDE), np.uint8)
    captions = torch.zeros((*sizes[:-2], 1, 1, 6), dtype=torch.int64)
    for index in itertools.product(*map(range, sizes[:-2])):
        letter, family, weight, slant, size = (
            values[i] for i, values in zip(index, FACTORS.values(), strict=False)
        )
        image = _letter(letter.upper(), family, weight, slant, _SIZES[size])
        for (i, right), (j, down) in itertools.product(enumerate(_SHIFTS), repeat=2):
            top, left = _ROOM - down, _ROOM - right
            x[*index, i, j] = image[top : top + _SIDE, left : left + _SIDE]
        said = [size, weight, slant, family, "letter", letter]
        said = " ".join(word for word in said if word in VOCABULARY.words)
        captions[*index, 0, 0] = VOCABULARY.tokens(said)
    return {
        "x": torch.from_numpy(x).view(-1, 1, _SIDE, _SIDE),
        "y": factors[:, 0].contiguous(),
        "factors": factors,
        "caption": captions.expand(*sizes, 6).reshape(-1, 6),
    }


def _letter(letter: str, family: str, weight: str, slant: str, size: int) -> np.ndarray:
    """Draws a letter in the centre of an image with `_ROOM` pixels more on each side."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    style = "Bold" * (weight == "bold")
    if slant == "slanted":
        style += "Italic" if family == "serif" else "Oblique"
    name = _FONTS[family] + (f"-{style}" if style else "")
    path = Path(matplotlib.get_data_path()) / "fonts/ttf" / f"{name}.ttf"
    font = ImageFont.truetype(str(path), size)
    side = _SIDE + 2 * _ROOM
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((side / 2, side / 2), letter, fill=255, font=font, anchor="mm")
    return np.asarray(image)
