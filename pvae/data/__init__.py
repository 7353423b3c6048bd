"""Data by name, file, array or Dataset: named fields, of which x is observed, and their parts.

Imports `drawing`, `runtime` and `errors`.

Example:
    >>> import pvae
    >>> data = pvae.data.load("digits")
    >>> data.event_shape, len(data.train), len(data.test)
    ((1, 8, 8), 1500, 297)
    >>> (x,) = next(data.train.batches(100, shuffle=True))
    >>> x.shape, x.unique()
    (torch.Size([100, 1, 8, 8]), tensor([0., 1.]))
"""

from pvae.data import glyphs, moving
from pvae.data.dataset import Data
from pvae.data.drop_fields import drop_fields
from pvae.data.frames import GIVEN_FRAMES, Frames
from pvae.data.loading import as_data, drawn_once, load
from pvae.data.masks import Mask, draw_masks
from pvae.data.observation import BINARY
from pvae.data.sources import canonical, names
from pvae.data.split import Split
from pvae.data.vision import SETS
from pvae.data.vocabulary import Vocabulary

__all__ = [
    "BINARY",
    "GIVEN_FRAMES",
    "SETS",
    "Data",
    "Frames",
    "Mask",
    "Split",
    "Vocabulary",
    "as_data",
    "canonical",
    "draw_masks",
    "drawn_once",
    "drop_fields",
    "glyphs",
    "load",
    "moving",
    "names",
]
