"""Videos of digits that move in a field and bounce off its walls."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pvae.data import vision
from pvae.errors import PvaeError

__all__ = ["VIDEOS", "bounce", "read_videos"]

_STEP = 0.1  # of the way from wall to wall, in each frame
_SLAB = 500


class _Videos(NamedTuple):
    side: int
    num_frames: int
    num_train: int
    num_test: int


VIDEOS = {
    "moving_digits": _Videos(16, 10, 1000, 200),
    "moving_mnist": _Videos(64, 20, 10_000, 1000),
    "moving_mnist_32": _Videos(32, 20, 10_000, 1000),
}
"""Side, frames, and number of videos of each set: of scikit-learn's digits, and of MNIST."""


def bounce(
    images: Tensor,
    num_videos: int,
    num_frames: int = 20,
    side: int = 64,
    num_digits: int = 2,
    seed: int = 0,
) -> Tensor:
    r"""Makes videos in which images move in a square field and bounce off its walls.

    .. math:: p_{t+1} = p_t + 0.1 \, v, \qquad v = (\sin \theta, \cos \theta), \qquad
        \theta \sim U[0, 2 \pi), \quad p_0 \sim U[0, 1]^2

    p is the place of an image's corner between the two walls, rounded down to pixels. At a wall p
    stays there for one frame, and the component of v turns round. Where images overlap, the
    larger value is seen. The same seed gives the same videos on every machine.

    Args:
        images: What moves, uint8 [M, 1, h, w]; each video has images drawn at random.
        num_videos: N.
        num_frames: T.
        side: S, the height and width of the field.
        num_digits: Number of images in a video.
        seed: Of images, places and directions.

    Returns:
        Videos, uint8 [N, T, 1, S, S].

    Raises:
        PvaeError: If a size is below one, or the field is smaller than the images.

    Source: Srivastava, Mansimov & Salakhutdinov 2015, *Unsupervised Learning of Video
    Representations using LSTMs* (arXiv:1502.04681), and their code.

    Example:
        >>> square = torch.full((1, 1, 3, 3), 255, dtype=torch.uint8)
        >>> bounce(square, num_videos=5, num_frames=4, side=8, num_digits=1).shape
        torch.Size([5, 4, 1, 8, 8])
    """
    height, width = images.shape[-2:]
    sizes = {"num_videos": num_videos, "num_frames": num_frames, "num_digits": num_digits}
    if min(sizes.values()) < 1 or side < max(height, width):
        listed = ", ".join(f"{name}={value}" for name, value in sizes.items())
        raise PvaeError(
            f"{listed}, side={side} is not valid: give positive numbers, and a field at least as "
            f"large as the images, {height} × {width}."
        )
    # NumPy freezes RandomState's stream for good, so the videos are the same in every version.
    draw = np.random.RandomState(seed)
    shape = num_videos, num_digits
    which = draw.randint(len(images), size=shape)
    corner = _path(draw.uniform(size=(*shape, 2)), draw.uniform(0, 2 * np.pi, shape), num_frames)
    corner = (corner * (np.array([side - height, side - width]))).astype(np.int64)
    digits = np.ascontiguousarray(images.numpy()[:, 0])
    videos = np.zeros((num_videos, num_frames, 1, side, side), np.uint8)
    for start in range(0, num_videos, _SLAB):
        part = slice(start, start + _SLAB)
        # Every place at which an image can be, as a view of the videos.
        windows = np.lib.stride_tricks.sliding_window_view(
            videos[part, :, 0], (height, width), (2, 3), writeable=True
        )
        video, frame = np.ogrid[: len(windows), :num_frames]
        for i in range(num_digits):
            y, x = np.moveaxis(corner[:, part, i], (2, 1), (0, 1))
            seen = windows[video, frame, y, x]
            windows[video, frame, y, x] = np.maximum(seen, digits[which[part, i]][:, None])
    return torch.from_numpy(videos)


def _path(p: np.ndarray, theta: np.ndarray, num_frames: int) -> np.ndarray:
    """Returns places [T, N, D, 2] in [0, 1], after each of T steps from p [N, D, 2]."""
    # Rounded, because the last digit of a sine differs between machines.
    v = _STEP * np.stack([np.sin(theta), np.cos(theta)], -1).round(9)
    path = []
    for _ in range(num_frames):
        p = p + v
        v = np.where((p <= 0) | (p >= 1), -v, v)
        p = p.clip(0, 1)
        path.append(p)
    return np.stack(path)


def read_videos(name: str, root: Path, digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the training videos, and the test videos, which are of other digits.

    Args:
        name: One of `VIDEOS`.
        root: The folder of data.
        digits: The training and the test images of the small set.

    Raises:
        PvaeError: If MNIST's files are damaged, or missing and cannot be downloaded.
    """
    how = VIDEOS[name]
    if name != "moving_digits":
        digits = vision.read("mnist", root)[:2]
    if name == "moving_mnist_32":
        digits = _halved(digits[0]), _halved(digits[1])
    made = zip(digits, (how.num_train, how.num_test), strict=True)
    train, test = (
        bounce(images, num, how.num_frames, how.side, seed=part)
        for part, (images, num) in enumerate(made)
    )
    return train, test


def _halved(images: Tensor) -> Tensor:
    """Returns images of half the height and width: means of four pixels, rounded."""
    four = images.to(torch.int32).unflatten(-2, (-1, 2)).unflatten(-1, (-1, 2))
    return four.sum((-3, -1)).add(2).div(4, rounding_mode="floor").to(torch.uint8)
