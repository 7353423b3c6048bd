"""Reads .npy, .npz and .pt files without running code from them."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import torch

from pvae.errors import PvaeError, first_line

__all__ = ["SUFFIXES", "arrays", "read"]

SUFFIXES = (".npy", ".npz", ".pt", ".pth")


def read(path: Path) -> object:
    """Returns the array, the tuple or the mapping in a file.

    A .npy file is returned as an `np.memmap`, which is not read into memory yet.

    Raises:
        PvaeError: The file is missing, of another kind or damaged, or could run code.
    """
    if path.is_dir():
        raise PvaeError(
            f"{path} is a folder. Name a .npy, .npz or .pt file in it, or pass it as root= with "
            "the name of a dataset."
        )
    if not path.exists():
        raise PvaeError(f"There is no file {path}. A relative path starts at {Path.cwd()}.")
    if path.suffix.lower() not in SUFFIXES:
        raise PvaeError(f"{path} is not a .npy, .npz or .pt file. Save it as one of these.")
    kind = path.suffix.lower()
    try:
        return _torch(path) if kind in (".pt", ".pth") else _numpy(path)
    except PvaeError:
        raise
    except PermissionError as error:
        raise PvaeError(f"{path} cannot be read: {error.strerror}.") from error
    except pickle.UnpicklingError as error:
        if any(word in str(error) for word in ("GLOBAL", "unsupported class", "reduce")):
            raise PvaeError(
                f"{path} is refused: it holds Python objects, and loading those can run code. Save "
                "plain tensors: torch.save({'x': x, 'y': y}, path)."
            ) from error
        raise _damaged(path, error) from error
    # A damaged file can make the parsers raise any exception, even a MemoryError.
    except Exception as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise PvaeError(
                f"{path} is refused: it holds Python objects (dtype object), and loading those can "
                "run code. Save it again as uint8 or float32."
            ) from error
        raise _damaged(path, error) from error


def arrays(path: Path, name: str, holds: dict[str, str]) -> dict[str, np.ndarray]:
    """Returns the arrays in the file of a dataset that is known by name.

    Args:
        path: The file, in the folder of data.
        name: The dataset.
        holds: The arrays that the file must have, and what each of them is.

    Raises:
        PvaeError: The file or an array is missing, or the file is damaged.
    """
    if not path.exists():
        listed = "; ".join(f"{array}: {what}" for array, what in holds.items())
        raise PvaeError(
            f"{name} is not in {path.parent}: there is no file {path.name}. Put it there, or name "
            f"its folder with root= or the environment variable PVAE_DATA. It holds {listed}."
        )
    found = read(path)
    if missing := [array for array in holds if array not in found]:
        raise PvaeError(
            f"{path} has no array {missing[0]!r}; a file of {name} has {', '.join(holds)}."
        )
    return found


def _damaged(path: Path, error: Exception) -> PvaeError:
    why = first_line(error).strip().rstrip(".")
    return PvaeError(
        f"{path} is truncated, damaged or not a {path.suffix} file ({why}). Delete it and download "
        "or save it again."
    )


def _numpy(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive: rename it to .npz")
    return array


def _torch(path: Path) -> object:
    with warnings.catch_warnings():
        # torch warns about the pickle protocol before it raises the error that is reported.
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)
