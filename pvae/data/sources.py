"""The datasets known by name: those from installed packages, of files, and torchvision's."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pvae.data import clips, emoji, jpeg, vision
from pvae.data.arrays import Source
from pvae.data.glyphs import VOCABULARY, draw
from pvae.data.moving import VIDEOS, read_videos
from pvae.data.values import Range

__all__ = ["canonical", "from_name", "names", "root_folder"]

_DIGITS_TRAIN = 1500
_GLYPHS_TEST = 2000


def names() -> list[str]:
    """Returns the names that `load` knows.

    Example:
        >>> names()  # doctest: +ELLIPSIS
        ['cifar10', 'cifar10_jpeg', 'clips', 'digits', 'emnist', 'emoji', 'fashion_mnist', ...]
    """
    return sorted(["cifar10_jpeg", "clips", "digits", "emoji", "glyphs", *VIDEOS, *vision.SETS])


def canonical(name: str) -> str:
    """Returns a name in lower case with underscores.

    Example:
        >>> canonical("Fashion-MNIST")
        'fashion_mnist'
    """
    return name.strip().lower().replace("-", "_")


def root_folder(root: str | os.PathLike | None) -> Path:
    """Returns the folder of data: the argument, else PVAE_DATA, else the user's cache."""
    root = root or os.environ.get("PVAE_DATA")
    if root:
        return Path(root).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("pvae")) / "data"


def from_name(name: str, root: Path) -> Source:
    """Returns the dataset of a name out of `names()`.

    Raises:
        PvaeError: Its files are damaged, or missing and cannot be downloaded.
    """
    if name == "glyphs":
        fields = draw()
        # NumPy freezes RandomState's stream for good, so the split is the same in every version.
        order = np.random.RandomState(0).permutation(len(fields["x"]))
        train, test = order[:-_GLYPHS_TEST], order[-_GLYPHS_TEST:]
        parts = ({key: field[rows] for key, field in fields.items()} for rows in (train, test))
        return Source(*parts, Range(True, 0, 255, False), 256, "dynamic", VOCABULARY)
    if name == "emoji":
        train, test, vocabulary = emoji.read(root)
        return Source(train, test, Range(True, 0, 255, False), 256, "dequantize", vocabulary)
    if name == "cifar10_jpeg":
        return Source(*jpeg.read(root), Range(True, 0, 255, False), 256, "dequantize")
    if name == "clips":
        train, test = clips.read(root)
        return Source({"x": train}, {"x": test}, Range(True, 0, 255, False), 256, "grey")
    if name in VIDEOS:
        x = _digits()[0]
        train, test = read_videos(name, root, (x[:_DIGITS_TRAIN], x[_DIGITS_TRAIN:]))
        levels = 17 if name == "moving_digits" else 256
        values = Range(True, 0, levels - 1, False)
        return Source({"x": train}, {"x": test}, values, levels, "dynamic")
    if name == "digits":
        (x, y), levels = _digits(), 17
        parts = x[:_DIGITS_TRAIN], x[_DIGITS_TRAIN:], y[:_DIGITS_TRAIN], y[_DIGITS_TRAIN:]
        observation = "dynamic"
    else:
        parts, levels = vision.read(name, root), 256
        observation = vision.SETS[name].observation
    x_train, x_test, y_train, y_test = parts
    train, test = {"x": x_train, "y": y_train}, {"x": x_test, "y": y_test}
    return Source(train, test, Range(True, 0, levels - 1, False), levels, observation)


def _digits() -> tuple[Tensor, Tensor]:
    """Reads the file of `sklearn.datasets.load_digits`, whose import takes two seconds."""
    path = Path(find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    table = torch.from_numpy(table[np.random.RandomState(0).permutation(len(table))])
    return table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].long()
