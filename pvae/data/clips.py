"""Patches of three short grey videos."""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pvae.data import files

__all__ = ["read"]

_LENGTH, _SIDE = 8, 24
_CLIPS = "carphone_pristine", "bikes", "bigbuckbunny"


@functools.lru_cache(1)
def read(root: Path) -> tuple[Tensor, Tensor]:
    """Returns the training and the test videos, uint8 [N, 8, 1, 24, 24].

    Each clip is cut in time: the last fifth is the test part, and the 8 frames before it are left
    out, so that no test frame is a neighbour of a training frame. Both parts show the same scenes
    at other times. They are cut into videos of 8 frames, and these into squares of 24 pixels, of
    which no two overlap.

    Raises:
        PvaeError: If the file is missing or damaged.
    """
    path = root / "clips_grey.npz"
    holds = dict.fromkeys(_CLIPS, "a grey video, uint8 [T, H, W]")
    found = files.arrays(path, "clips", holds)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for name in _CLIPS:
        clip = found[name]
        first = len(clip) - len(clip) // 5
        for part, frames in zip(parts, (clip[: first - _LENGTH], clip[first:]), strict=True):
            part.append(_videos(frames))
    train, test = (torch.from_numpy(np.concatenate(part)) for part in parts)
    return train, test


def _videos(frames: np.ndarray) -> np.ndarray:
    """Returns the videos [N, 8, 1, 24, 24] of frames [T, H, W]; what remains is left out."""
    t, h, w = frames.shape[0] // _LENGTH, frames.shape[1] // _SIDE, frames.shape[2] // _SIDE
    whole = frames[: t * _LENGTH, : h * _SIDE, : w * _SIDE]
    cells = whole.reshape(t, _LENGTH, h, _SIDE, w, _SIDE).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(cells.reshape(-1, _LENGTH, 1, _SIDE, _SIDE))
