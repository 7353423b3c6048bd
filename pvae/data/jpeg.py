"""CIFAR-10 from JPEG files: 30,000 training and 5,000 test images."""

import functools
import io
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pvae.data import files
from pvae.errors import PvaeError, first_line

__all__ = ["read"]

_SHAPE = (3, 32, 32)


@functools.lru_cache(1)
def read(root: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the training and the test part, `x` uint8 [N, 3, 32, 32] and `y` int64 [N].

    JPEG of quality 75 has fewer details than CIFAR-10 itself. Bits per dimension are smaller, and
    compare only with those of the same file.

    Raises:
        PvaeError: If the file is missing or damaged.
    """
    path = root / "cifar10_jpeg_subset.npz"
    holds = {}
    for part in ("train", "test"):
        holds |= {
            f"jpeg_{part}": "JPEG files end to end, uint8",
            f"offset_{part}": "where each of them starts and the last one ends",
            f"y_{part}": "labels",
        }
    found = files.arrays(path, "cifar10_jpeg", holds)
    train, test = (
        {
            "x": _decoded(path, found[f"jpeg_{part}"], found[f"offset_{part}"]),
            "y": torch.from_numpy(found[f"y_{part}"]).long(),
        }
        for part in ("train", "test")
    )
    return train, test


def _decoded(path: Path, jpeg: np.ndarray, offset: np.ndarray) -> Tensor:
    from PIL import Image

    x = np.empty((len(offset) - 1, *_SHAPE), np.uint8)
    for i, (start, end) in enumerate(itertools.pairwise(offset)):
        try:
            image = Image.open(io.BytesIO(jpeg[start:end].tobytes())).convert("RGB")
            x[i] = np.asarray(image).transpose(2, 0, 1)
        except (OSError, ValueError) as error:
            raise PvaeError(
                f"Image {i} in {path} is not a JPEG image of 32×32 pixels ({first_line(error)}). "
                "Delete the file and save it again."
            ) from error
    return torch.from_numpy(x)
