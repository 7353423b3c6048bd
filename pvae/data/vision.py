"""Datasets in torchvision's folder layout, downloaded by torchvision where they are missing."""

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
    """How torchvision calls a dataset, and where under the root folder it puts the files."""

    kind: str
    train: dict[str, object]
    test: dict[str, object]
    files: tuple[str, ...]
    observation: str


def _idx(folder: str, train: str = "train", test: str = "t10k") -> tuple[str, ...]:
    return tuple(
        f"{folder}/raw/{part}-{what}-ubyte"
        for part in (train, test)
        for what in ("images-idx3", "labels-idx1")
    )


_TRAIN, _TEST = {"train": True}, {"train": False}
_CIFAR = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
_CIFAR = tuple(f"cifar-10-batches-py/{file}" for file in (*_CIFAR, "test_batch", "batches.meta"))
_BALANCED = _idx("EMNIST", "emnist-balanced-train", "emnist-balanced-test")
_OMNIGLOT = ("omniglot-py/images_background", "omniglot-py/images_evaluation")
_OMNIGLOT = tuple(f"{folder}{end}" for folder in _OMNIGLOT for end in (".zip", "/"))

SETS = {
    "mnist": VisionSet("MNIST", _TRAIN, _TEST, _idx("MNIST"), "dynamic"),
    "fashion_mnist": VisionSet("FashionMNIST", _TRAIN, _TEST, _idx("FashionMNIST"), "dynamic"),
    "kmnist": VisionSet("KMNIST", _TRAIN, _TEST, _idx("KMNIST"), "dynamic"),
    "emnist": VisionSet(
        "EMNIST",
        {"split": "balanced", "train": True},
        {"split": "balanced", "train": False},
        _BALANCED,
        "dynamic",
    ),
    "omniglot": VisionSet(
        "Omniglot", {"background": True}, {"background": False}, _OMNIGLOT, "dynamic"
    ),
    "cifar10": VisionSet("CIFAR10", _TRAIN, _TEST, _CIFAR, "dequantize"),
    "svhn": VisionSet(
        "SVHN",
        {"split": "train"},
        {"split": "test"},
        ("train_32x32.mat", "test_32x32.mat"),
        "dequantize",
    ),
}


def read(name: str, root: Path) -> Parts:
    """Returns (x_train, x_test, y_train, y_test), x uint8 [N, C, H, W] and y int64 [N].

    What lies under `root` is read without touching the network or writing anything.

    Raises:
        PvaeError: The files are damaged, or missing and not to be downloaded.
    """
    (x_train, y_train), (x_test, y_test) = (
        _part(name, root, arguments) for arguments in (SETS[name].train, SETS[name].test)
    )
    if name == "omniglot":
        # The evaluation set has characters of its own, so they get numbers of their own.
        y_test = y_test + 1 + y_train.max()
    for x, y, part in ((x_train, y_train, "train"), (x_test, y_test, "test")):
        if len(x) != len(y):
            raise PvaeError(
                f"The {part} part of {name} in {root} has {len(x)} images and {len(y)} labels. "
                f"Delete {', '.join(SETS[name].files)} there and run again to download them."
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


def _open(name: str, root: Path, arguments: dict[str, object]) -> object:
    import torchvision.datasets

    wanted = SETS[name]
    kind = getattr(torchvision.datasets, wanted.kind)
    # torchvision fails in as many ways as there are parsers and servers, hence the wide nets.
    try:
        return kind(str(root), **arguments, download=False)
    except Exception as error:
        _raise_damaged(root, wanted.files, kind, error)
        if all((root / file).exists() for file in wanted.files):
            raise PvaeError(
                f"{name} in {root} cannot be read ({_line(error)}). Delete "
                f"{', '.join(wanted.files)} there and run again to download them."
            ) from error
    try:
        return kind(str(root), **arguments, download=True)
    except Exception as error:
        _raise_damaged(root, (*wanted.files, *_checksums(kind)), kind, error)
        raise PvaeError(
            f"{name} is not in {root} and could not be downloaded ({_line(error)}). It should hold "
            f"{', '.join(wanted.files)}. Put them there, or name the folder that has them with "
            "root= or the environment variable PVAE_DATA."
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _checksums(kind: type) -> dict[str, str]:
    """Returns the MD5 sums that torchvision publishes, by path under the root folder."""
    match kind.__name__:
        case "CIFAR10":
            meta = (kind.meta["filename"], kind.meta["md5"])
            sums = dict((*kind.train_list, *kind.test_list, meta))
            return {f"{kind.base_folder}/{f}": md5 for f, md5 in sums.items()} | {
                kind.filename: kind.tgz_md5
            }
        case "SVHN":
            return {file: md5 for _, file, md5 in kind.split_list.values()}
        case "Omniglot":
            return {f"{kind.folder}/{f}.zip": md5 for f, md5 in kind.zips_md5.items()}
        case "EMNIST":
            return {"EMNIST/raw/gzip.zip": kind.md5}
        case _:
            return {f"{kind.__name__}/raw/{file}": md5 for file, md5 in kind.resources}


def _raise_damaged(root: Path, files: tuple[str, ...], kind: type, error: Exception) -> None:
    """Names the files that are there and not whole, if any."""
    from torchvision.datasets.utils import check_integrity

    sums = _checksums(kind)
    damaged = []
    for file in files:
        path = root / file
        if not path.is_file():
            continue
        whole = check_integrity(str(path), sums[file]) if file in sums else _whole_idx(path)
        if not whole:
            damaged.append(str(path))
    if damaged:
        it, is_ = ("it", "is") if len(damaged) == 1 else ("them", "are")
        raise PvaeError(
            f"{' and '.join(damaged)} {is_} truncated or damaged. Delete {it} and run again to "
            "download afresh."
        ) from error


def _whole_idx(path: Path) -> bool:
    """Returns whether an idx file is as long as its header says."""
    with open(path, "rb") as file:
        head = file.read(16)
    dims = head[3] if len(head) >= 4 else 0
    if head[:3] != b"\0\0\x08" or dims not in (1, 3) or len(head) < 4 + 4 * dims:
        return False
    shape = [int.from_bytes(head[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    return path.stat().st_size == 4 + 4 * dims + math.prod(shape)


@functools.lru_cache(maxsize=2)
def _omniglot(archive: Path) -> tuple[Tensor, Tensor]:
    """Returns ink [N, 1, 28, 28] and the character's number, sorted by path.

    torchvision's own order is that of the file system, and differs between machines. Pillow
    resizes in integers, so the result is the same everywhere.
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
