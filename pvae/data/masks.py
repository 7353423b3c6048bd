"""Masks: which values of an image are known, drawn for each minibatch or once."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pvae.errors import PvaeError, nearest

__all__ = ["Mask", "draw_masks"]

Mask = Literal["center", "block", "region", "quadrants", "pixels", "any"]
_KINDS = get_args(Mask)[:-1]


def draw_masks(
    kind: Mask, shape: Sequence[int], size: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draws masks of images: True where a value is known, the same for all channels.

    - "center": the square in the middle, half as high and wide as the image, is missing;
    - "block": four blocks at random places, which may overlap, are missing, each a quarter as high
      and wide as the image;
    - "region": a quarter of the image is missing, a random region of any form: where smooth noise
      is lowest;
    - "quadrants": one to three quadrants at random are missing;
    - "pixels": each pixel is missing with a probability that is uniform for each image;
    - "any": one of these for each image, at random.

    The first three are the masks of the context encoder.

    Args:
        kind: One of these. Vectors [D] take "pixels" only.
        shape: Shape of one datum, (C, H, W) or (D,).
        size: N, the number of masks.
        generator: Draws them; None is torch's global generator of the CPU.

    Returns:
        Booleans [N, *shape].

    Raises:
        PvaeError: If the kind or the shape is not valid.

    Source: Pathak et al. 2016, *Context Encoders: Feature Learning by Inpainting*
    (arXiv:1604.07379), section 3.3; Ivanov, Figurnov & Vetrov 2019 (arXiv:1806.02382), for several
    kinds together.

    Example:
        >>> known = draw_masks("center", (1, 8, 8), 3)
        >>> known.shape, int(known[0].sum())
        (torch.Size([3, 1, 8, 8]), 48)
    """
    if kind not in get_args(Mask):
        raise PvaeError(f"There is no mask {kind!r}. {nearest(str(kind), get_args(Mask))}")
    shape = tuple(shape)
    image = len(shape) == 3 and min(shape[1:]) >= 4
    if not image and (kind != "pixels" or not shape):
        raise PvaeError(
            f"mask={kind!r} is not valid for data of shape {shape}: it needs images (channels, "
            "height, width) of at least 4×4. For other data use 'pixels', or give a field mask."
        )
    if kind == "any":
        which = torch.randint(len(_KINDS), (size,), generator=generator, device="cpu")
        known = torch.empty(size, *shape, dtype=torch.bool, device="cpu")
        for i, each in enumerate(_KINDS):
            rows = (which == i).nonzero()[:, 0]
            known[rows] = draw_masks(each, shape, len(rows), generator)
        return known
    plane = shape[1:] if image else shape
    with torch.device("cpu"):
        missing = _MISSING[kind](plane, size, generator)
    return ~missing[:, None].expand(size, *shape) if image else ~missing


def _center(plane: tuple[int, ...], size: int, generator: torch.Generator | None) -> Tensor:
    h, w = plane
    missing = torch.zeros(size, h, w, dtype=torch.bool)
    missing[:, h // 4 : h // 4 + h // 2, w // 4 : w // 4 + w // 2] = True
    return missing


def _block(plane: tuple[int, ...], size: int, generator: torch.Generator | None) -> Tensor:
    inside = []
    for length in plane:
        side = length // 4
        first = torch.randint(length - side + 1, (size, 4, 1), generator=generator)
        at = torch.arange(length)
        inside.append((at >= first) & (at < first + side))
    rows, columns = inside
    return (rows[..., None] & columns[..., None, :]).any(1)


def _region(plane: tuple[int, ...], size: int, generator: torch.Generator | None) -> Tensor:
    coarse = tuple(max(3, length // 6) for length in plane)
    noise = torch.randn(size, 1, *coarse, generator=generator)
    smooth = interpolate(noise, plane, mode="bilinear", align_corners=True).flatten(1)
    if not size:
        return smooth.bool().view(0, *plane)
    quarter = smooth.kthvalue(smooth.shape[1] // 4, dim=1, keepdim=True).values
    return (smooth <= quarter).view(size, *plane)


def _quadrants(plane: tuple[int, ...], size: int, generator: torch.Generator | None) -> Tensor:
    order = torch.rand(size, 4, generator=generator).argsort(1)
    missing = (order < torch.randint(1, 4, (size, 1), generator=generator)).view(size, 2, 2)
    lower, right = ((torch.arange(length) >= length // 2).long() for length in plane)
    return missing[:, lower[:, None], right]


def _pixels(plane: tuple[int, ...], size: int, generator: torch.Generator | None) -> Tensor:
    share = torch.rand(size, *[1] * len(plane), generator=generator)
    return torch.rand(size, *plane, generator=generator) < share


_MISSING = {
    "center": _center,
    "block": _block,
    "region": _region,
    "quadrants": _quadrants,
    "pixels": _pixels,
}
