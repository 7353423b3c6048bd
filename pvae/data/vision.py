"""Datasets in torchvision's folder layout; torchvision downloads those that are missing."""

import functools
import io
import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["SETS", "VisionSet", "read"]

Parts = tuple[Tensor, Tensor, Tensor, Tensor]


class VisionSet(NamedTuple):
    """Torchvision's class of a dataset, the arguments for its parts, and how pvae observes it."""

    kind: str
    train: dict[str, object]
    test: dict[str, object]
    observation: str


_PARTS = {"train": True}, {"train": False}
_SPLITS = {"split": "train"}, {"split": "test"}
_BALANCED = {"split": "balanced", "train": True}, {"split": "balanced", "train": False}
_ALPHABETS = {"background": True}, {"background": False}

SETS = {
    "mnist": VisionSet("MNIST", *_PARTS, "dynamic"),
    "fashion_mnist": VisionSet("FashionMNIST", *_PARTS, "dynamic"),
    "kmnist": VisionSet("KMNIST", *_PARTS, "dynamic"),
    "emnist": VisionSet("EMNIST", *_BALANCED, "dynamic"),
    "omniglot": VisionSet("Omniglot", *_ALPHABETS, "dynamic"),
    "cifar10": VisionSet("CIFAR10", *_PARTS, "dequantize"),
    "svhn": VisionSet("SVHN", *_SPLITS, "dequantize"),
}


def read(name: str, root: Path) -> Parts:
    """Returns (x_train, x_test, y_train, y_test), x uint8 [N, C, H, W] and y int64 [N].

    Files that are in `root` are read without the network and without writing anything.

    Raises:
        PvaeError: The files are damaged, or missing and cannot be downloaded.
    """
    (x_train, y_train), (x_test, y_test) = (
        _part(name, root, arguments) for arguments in (SETS[name].train, SETS[name].test)
    )
    if name == "omniglot":
        # The evaluation set has other characters, so their numbers continue.
        y_test = y_test + 1 + y_train.max()
    for x, y, part in ((x_train, y_train, "train"), (x_test, y_test, "test")):
        if len(x) != len(y):
            raise PvaeError(
                f"The {part} part of {name} in {root} has {len(x)} images and {len(y)} labels. "
                f"Delete {', '.join(_files(_kind(name)))} there and run again to download them."
            )
    return x_train, x_test, y_train, y_test


def _part(name: str, root: Path, arguments: dict[str, object]) -> tuple[Tensor, Tensor]:
    found = _open(name, root, arguments)
    if name == "omniglot":
        return _omniglot(root / f"omniglot-py/{found._get_target_folder()}.zip")
    x = torch.as_tensor(np.ascontiguousarray(found.data))
    if name == "cifar10":
        x = x.permute(0, 3, 1, 2).contiguous()
    elif name == "emnist":
        x = x.transpose(1, 2).contiguous()
    y = torch.as_tensor(np.asarray(found.labels if name == "svhn" else found.targets))
    return x if x.ndim == 4 else x.unsqueeze(1), y.long()


def _kind(name: str) -> type:
    import torchvision.datasets

    return getattr(torchvision.datasets, SETS[name].kind)


def _open(name: str, root: Path, arguments: dict[str, object]) -> object:
    kind = _kind(name)
    files = _files(kind)
    # torchvision passes on any exception of its parsers and servers, so all are caught.
    try:
        return kind(str(root), **arguments, download=False)
    except Exception as error:
        _raise_damaged(root, files, error)
        if all((root / file).exists() for file in files):
            raise PvaeError(
                f"{name} in {root} cannot be read ({_line(error)}). Delete "
                f"{', '.join(files)} there and run again to download them."
            ) from error
    try:
        return kind(str(root), **arguments, download=True)
    except Exception as error:
        _raise_damaged(root, files | _archives(kind), error)
        raise PvaeError(
            f"{name} is not in {root} and could not be downloaded "
            f"({_line(error)}). Put its files there ({', '.join(files)}), or name "
            "their folder with root= or the environment variable PVAE_DATA."
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _files(kind: type) -> dict[str, str | None]:
    """Returns the files of a dataset, with the MD5 sums that torchvision publishes."""
    match kind.__name__:
        case "CIFAR10":
            meta = kind.meta["filename"], kind.meta["md5"]
            files = (*kind.train_list, *kind.test_list, meta)
            return {f"{kind.base_folder}/{file}": md5 for file, md5 in files}
        case "SVHN":
            return {file: md5 for _, file, md5 in map(kind.split_list.get, ("train", "test"))}
        case "Omniglot":
            zips = {f"{kind.folder}/{file}.zip": md5 for file, md5 in kind.zips_md5.items()}
            return zips | {f"{kind.folder}/{file}/": None for file in kind.zips_md5}
    parts = ("train", "t10k")
    if kind.__name__ == "EMNIST":
        parts = ("emnist-balanced-train", "emnist-balanced-test")
    content = ("images-idx3", "labels-idx1")
    names = (f"{part}-{what}-ubyte" for part in parts for what in content)
    return {f"{kind.__name__}/raw/{file}": None for file in names}


def _archives(kind: type) -> dict[str, str | None]:
    """Returns the archives that torchvision downloads for a dataset, with their MD5 sums."""
    match kind.__name__:
        case "CIFAR10":
            return {kind.filename: kind.tgz_md5}
        case "EMNIST":
            return {"EMNIST/raw/gzip.zip": kind.md5}
        case "SVHN" | "Omniglot":
            return {}
    return {f"{kind.__name__}/raw/{file}": md5 for file, md5 in kind.resources}


def _raise_damaged(root: Path, files: dict[str, str | None], error: Exception) -> None:
    """Raises a PvaeError that names the damaged files, if there are any."""
    from torchvision.datasets.utils import check_integrity

    damaged = []
    for file, md5 in files.items():
        path = root / file
        if path.is_file() and not (check_integrity(str(path), md5) if md5 else _whole_idx(path)):
            damaged.append(str(path))
    if damaged:
        it, is_ = ("it", "is") if len(damaged) == 1 else ("them", "are")
        raise PvaeError(
            f"{' and '.join(damaged)} {is_} truncated or damaged. Delete {it} and run again to "
            f"download {it}."
        ) from error


def _whole_idx(path: Path) -> bool:
    """Whether an idx file is as long as its header says."""
    with open(path, "rb") as file:
        head = file.read(16)
    dims = head[3] if len(head) >= 4 else 0
    if head[:3] != b"\0\0\x08" or dims not in (1, 3) or len(head) < 4 + 4 * dims:
        return False
    shape = [int.from_bytes(head[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    return path.stat().st_size == 4 + 4 * dims + math.prod(shape)


@functools.lru_cache(maxsize=2)
def _omniglot(archive: Path) -> tuple[Tensor, Tensor]:
    """Returns ink [N, 1, 28, 28] and the number of the character [N], sorted by path.

    The order of torchvision's own class is that of the file system, which differs between
    machines. Pillow resizes with integers, so the result is the same everywhere.
    """
    from PIL import Image

    with zipfile.ZipFile(archive) as files:
        paths = sorted(path for path in files.namelist() if path.endswith(".png"))
        images = []
        for path in paths:
            image = Image.open(io.BytesIO(files.read(path))).convert("L")
            images.append(255 - np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR)))
    characters = [path.rsplit("/", 1)[0] for path in paths]
    number = {character: i for i, character in enumerate(sorted(set(characters)))}
    y = torch.tensor([number[character] for character in characters])
    return torch.from_numpy(np.stack(images)).unsqueeze(1), y
