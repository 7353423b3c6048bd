"""Windows of videos, in which one frame or several are x, and others are given."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pvae.data import storage
from pvae.data.observation import mean_of
from pvae.data.split import Split
from pvae.errors import PvaeError, nearest

__all__ = ["GIVEN_FRAMES", "Frames", "cut", "windows_of"]

Frames = Literal["between", "next"]

_GIVEN = {"between": ("before", "after"), "next": ("still",)}
GIVEN_FRAMES = frozenset(name for names in _GIVEN.values() for name in names)
"""The names of given frames: fields that `cut` makes."""


def windows_of(part: Split, frames: Frames, window: int | None, name: str) -> int:
    """Returns the length of the windows that `cut` can cut from a part.

    Raises:
        PvaeError: If the data are no videos, a window is too short or too long, or the data have a
            field of the name of a given one.
    """
    if frames not in get_args(Frames):
        raise PvaeError(f"There is no frames={frames!r}. {nearest(str(frames), get_args(Frames))}")
    shape = list(part.raw.shape[1:])
    if len(shape) != 4:
        raise PvaeError(
            f"frames={frames!r} is not valid: it needs videos [N, T, C, H, W], and x of {name} has "
            f"the shape [N, {', '.join(map(str, shape))}]. Give x a dimension for the frames."
        )
    if taken := [field for field in _GIVEN[frames] if field in part.fields]:
        raise PvaeError(
            f"frames={frames!r} is not valid: {name} has a field {taken[0]} already. Rename it, or "
            "leave frames out."
        )
    length, least = shape[0], 3 if frames == "between" else 2
    asked = (3 if frames == "between" else length) if window is None else window
    if length < least:
        raise PvaeError(
            f"frames={frames!r} is not valid: it needs videos of {least} frames or more, and those "
            f"of {name} have {length}."
        )
    if not least <= asked <= length or (frames == "between" and asked % 2 == 0):
        odd = "an odd number of frames, " if frames == "between" else ""
        raise PvaeError(
            f"window={asked} is not valid: give {odd}{least} to {length}, the length of the videos "
            f"of {name}."
        )
    return asked


def cut(part: Split, frames: Frames, window: int, step: int) -> Split:
    """Returns the windows of a part of videos: a datum for each place at which a window can be.

    The given frames are E[x] of their observation, floats. All frames are read on demand.

    Args:
        part: A part whose x are videos [N, T, C, H, W].
        frames: "between": x is the middle frame of a window, `before` the first and `after` the
            last. "next": `still` is the first frame, and x are the others [window − 1, C, H, W].
        window: Length of a window, from `windows_of`.
        step: Frames from one window to the next.
    """
    videos, num = part.raw, len(part)
    starts = torch.arange(0, videos.shape[1] - window + 1, step, device="cpu")
    middle, last = window // 2, window - 1
    at = (
        {"x": middle, "before": 0, "after": last}
        if frames == "between"
        else {"x": range(1, window), "still": 0}
    )

    def given(raw: Tensor) -> Tensor:
        return mean_of(raw, part.observation, part.levels)

    def column(field: str) -> storage.Column:
        return _column(videos, starts, at[field], None if field == "x" else given)

    of_video = torch.arange(num, device=part.device).repeat_interleave(len(starts))
    fields = {
        name: column("x") if name == "x" else values.index_select(0, of_video)
        for name, values in part.fields.items()
    }
    fields |= {name: column(name) for name in _GIVEN[frames]}
    others = [name for name in part.names if name != "x"]
    return replace(part, fields=fields, names=("x", *_GIVEN[frames], *others))


def _column(
    videos: storage.Column,
    starts: Tensor,
    at: int | range,
    change: Callable[[Tensor], Tensor] | None,
) -> storage.Streamed:
    source = _Window(videos, starts, at, change)
    first = source[np.arange(1)]
    return storage.Streamed(source, first.dtype, first.shape[1:])


class _Window:
    """Frames at some places of each window, read on demand; indexed by slices and arrays."""

    def __init__(self, videos: Any, starts: Tensor, at: Any, change: Any) -> None:
        self.videos, self.starts, self.change = videos, starts, change
        self.one = isinstance(at, int)
        self.at = torch.as_tensor([at] if self.one else list(at), device="cpu")

    def __len__(self) -> int:
        return len(self.videos) * len(self.starts)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(np.arange(len(self))[index])
        video = rows // len(self.starts)
        frame = self.starts[rows % len(self.starts), None] + self.at
        if isinstance(self.videos, Tensor):
            found = self.videos[video[:, None], frame]
        else:
            found = self.videos[video][torch.arange(len(rows))[:, None], frame]
        found = found[:, 0] if self.one else found
        return (found if self.change is None else self.change(found)).numpy()
