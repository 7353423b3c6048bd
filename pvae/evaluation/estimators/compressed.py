"""The complexity of data: how many nats a general compressor needs for each datum."""

import io
import math
import zlib

import numpy as np
from PIL import Image
from torch import Tensor

__all__ = ["code_lengths", "discrete"]


def discrete(x: Tensor, observation: str | None, levels: int | None) -> np.ndarray | None:
    """Returns the values of x as bytes [B, *event]; None if they are not discrete.

    Args:
        x: Data [B, *event].
        observation: How x was observed, if that is known: see `pvae.data.load`.
        levels: The number of levels of the source, if that is known.
    """
    if ((x == 0) | (x == 1)).all():
        return x.cpu().numpy().astype(np.uint8)
    if x.is_floating_point():
        if levels is None or observation not in ("grey", "dequantize"):
            return None
        x = (x * (levels - 1)).round() if observation == "grey" else (x * levels).floor()
    if x.min() < 0 or x.max() > 255:
        return None
    return x.cpu().numpy().astype(np.uint8)


def code_lengths(values: np.ndarray) -> np.ndarray:
    r"""The length of each datum after compression, in nats.

    .. math:: L(x) = 8 \ln 2 \cdot \min(\text{bytes of zlib}, \text{bytes of PNG})

    PNG is for images of one or three channels; zlib sees the bytes, and packed bits if all values
    are 0 or 1. Each length has the format's constant overhead, about 10 bytes of zlib.

    Args:
        values: Bytes [B, *event], uint8.

    Returns:
        Array [B].

    Source: Serrà et al. 2020, *Input Complexity and Out-of-distribution Detection with
    Likelihood-based Generative Models* (arXiv:1909.11480), with other compressors.

    Example:
        >>> flat, noise = np.zeros((1, 784), np.uint8), np.random.default_rng(0).integers(0, 2, 784)
        >>> lengths = code_lengths(np.concatenate([flat, noise[None].astype(np.uint8)]))
        >>> bool(lengths[0] < 100 < 500 < lengths[1])
        True
    """
    bits = values.size > 0 and values.max() <= 1
    least = (_bytes(each, bits) for each in values)
    return 8 * math.log(2) * np.fromiter(least, np.float64, len(values))


def _bytes(x: np.ndarray, bits: bool) -> int:
    found = [len(zlib.compress(x.tobytes(), 9))]
    if bits:
        found.append(len(zlib.compress(np.packbits(x).tobytes(), 9)))
    if x.ndim == 3 and len(x) in (1, 3):
        pixels = x[0] if len(x) == 1 else np.ascontiguousarray(np.moveaxis(x, 0, -1))
        file = io.BytesIO()
        Image.fromarray(pixels.astype(bool) if bits and len(x) == 1 else pixels).save(
            file, "PNG", optimize=True
        )
        found.append(len(file.getvalue()))
    return min(found)
