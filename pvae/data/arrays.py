"""The user's own arrays: what they hold is checked here, and labels with them."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pvae.data import storage
from pvae.errors import PvaeError

__all__ = ["Source", "Values", "from_arrays"]

_LAYOUT = "Give images as [N, C, H, W] or [N, H, W] and vectors as [N, D]."
_KEYS = "x_train and x_test (with y_train, y_test), train and test, x (with y), or one array alone"


class Values(NamedTuple):
    """Checked values: what they are, and where between 0 and 1 they lie.

    Attributes:
        raw: uint8 or float32 [N, *event], or an array on disk of any real dtype.
        integer: Whether they are integers.
        low: The smallest value.
        high: The largest value.
        binary: Whether all are 0 or 1.
        byte: Whether integers came as uint8, as 8-bit images do.
    """

    raw: Tensor | np.ndarray
    integer: bool
    low: float
    high: float
    binary: bool
    byte: bool = True


class Source(NamedTuple):
    """What a source hands over, before it is split further and observed."""

    train: Values
    test: Values | None
    y_train: Tensor | None
    y_test: Tensor | None
    levels: int | None
    observation: str


def from_arrays(
    found: object, where: str, levels: int | None = None, *, counts: bool = False
) -> Source:
    """Returns a source from an array, a pair (x, y) or a mapping of names to arrays.

    Args:
        found: An array or tensor, a tuple or list `(x,)` or `(x, y)`, or a mapping.
        where: How messages call it.
        levels: The number of levels of integers, where the caller knows it.
        counts: Whether the values are counts.

    Raises:
        PvaeError: What is wrong with it, and what to do; so for integers that may be counts or
            levels, if the caller does not say which.
    """
    keys = _keys(found, where)
    train = _values(keys["x_train"], f"{keys['x_name']} of {where}", counts)
    y_train = _labels(keys.get("y_train"), train, f"y of {where}")
    test = y_test = None
    if keys.get("x_test") is not None:
        test = _values(keys["x_test"], f"the test part of {where}", counts)
        y_test = _labels(keys.get("y_test"), test, f"y_test of {where}")
        if test.raw.shape[1:] != train.raw.shape[1:] or test.integer != train.integer:
            raise PvaeError(
                f"The parts of {where} differ: train is {_describe(train)}, test is "
                f"{_describe(test)}. Give both the same shape and dtype."
            )
    elif len(train.raw) < 2:
        raise PvaeError(f"{where} has one datum; a test part takes a second.")
    parts = [part for part in (train, test) if part is not None]
    binary = all(part.binary for part in parts)
    if levels is not None and (counts or not train.integer):
        what = "counts have no levels" if counts else f"{where} holds floats, which have no levels"
        raise PvaeError(f"levels={levels}: {what}. Leave levels out.")
    if counts:
        return Source(train, test, y_train, y_test, None, "counts")
    levels = _levels(parts, where, levels) if train.integer else None
    colour = len(train.raw.shape) == 4 and train.raw.shape[1] > 1
    observation = "grey" if binary or levels is None else "dequantize" if colour else "dynamic"
    return Source(train, test, y_train, y_test, levels, observation)


def _levels(parts: list[Values], where: str, levels: int | None) -> int:
    """Returns the number of levels of integers, if it is given or plain."""
    high = int(max(part.high for part in parts))
    if levels is not None:
        if not max(high + 1, 2) <= levels <= 256:
            raise PvaeError(
                f"levels={levels}: {where} holds integers up to {high}, so that there are "
                f"{max(high + 1, 2)} levels or more, and at most 256."
            )
        return levels
    if high <= 1:
        return 2
    plain = all(part.byte or len(part.raw.shape) == 4 for part in parts)  # bytes, or images
    if high == 255 or (high > 127 and plain):
        return 256
    raise PvaeError(
        f"{where} holds integers from 0 to {high}, which may be counts or levels. Say which: "
        f"observation='counts' takes them as they are, for a likelihood of counts; "
        f"levels={high + 1} (or the number that there could be, 256 in 8-bit images) takes k as "
        f"the grey level k / {high}. In the shell: --data.observation counts, --data.levels "
        f"{high + 1}."
    )


def _describe(values: Values) -> str:
    return f"{'integer' if values.integer else 'float'} {list(values.raw.shape[1:])}"


def _keys(found: object, where: str) -> dict:
    """Returns x_train, x_test, y_train, y_test as far as they are there, and x_train's name."""
    if isinstance(found, Tensor | np.ndarray):
        return {"x_train": found, "x_name": "x"}
    if isinstance(found, tuple | list):
        if len(found) not in (1, 2) or not all(isinstance(a, Tensor | np.ndarray) for a in found):
            kinds = ", ".join(type(a).__name__ for a in found[:4])
            raise PvaeError(
                f"{where} is a {type(found).__name__} of {len(found)} ({kinds}); give (x,) or "
                "(x, y), each an array or a tensor."
            )
        return {
            "x_train": found[0],
            "y_train": found[1] if len(found) == 2 else None,
            "x_name": "x",
        }
    if isinstance(found, Mapping):
        lower = {str(key).lower(): value for key, value in found.items()}
        for x, x_test, y, y_test in (
            ("x_train", "x_test", "y_train", "y_test"),
            ("train", "test", "y_train", "y_test"),
            ("x", None, "y", None),
        ):
            if x in lower:
                names = {"x_train": x, "x_test": x_test, "y_train": y, "y_test": y_test}
                return {k: lower.get(v) for k, v in names.items()} | {"x_name": x}
        if len(lower) == 1:
            name, value = next(iter(lower.items()))
            return {"x_train": value, "x_name": name}
        listed = ", ".join(map(str, list(found)[:8])) or "nothing"
        raise PvaeError(f"{where} holds {listed}. Name its arrays {_KEYS}.")
    raise PvaeError(
        f"{where} is a {type(found).__name__}, not an array or a tensor. "
        "Give a tensor, a NumPy array, (x, y), or a .npy, .npz or .pt file."
    )


def _numpy(a: object, where: str) -> np.ndarray:
    if isinstance(a, np.ndarray):
        return a
    if not isinstance(a, Tensor):
        raise PvaeError(f"{where} is a {type(a).__name__}; give an array or a tensor.")
    try:
        a = a.detach().cpu()
        return (a.float() if a.dtype in (torch.float16, torch.bfloat16) else a).numpy()
    except (TypeError, RuntimeError) as error:
        raise PvaeError(
            f"{where} is a {a.dtype} tensor ({a.layout}) that cannot be read as numbers; "
            "give a dense tensor of uint8 or float32."
        ) from error


def _values(a: object, where: str, counts: bool) -> Values:
    """Checks shape, dtype and every value, in slabs; returns images as [N, C, H, W]."""
    a = _numpy(a, where)
    shape = list(a.shape)
    if a.dtype.kind not in "biuf":
        raise PvaeError(
            f"{where} has dtype {a.dtype}, which is not real numbers. Convert it to uint8 (counts "
            "0..255) or float32."
        )
    if a.ndim not in (2, 3, 4):
        hint = " A column of N numbers is x.reshape(-1, 1)." if a.ndim == 1 else ""
        raise PvaeError(f"{where} has shape {shape}. {_LAYOUT}{hint}")
    if a.size == 0:
        raise PvaeError(f"{where} is empty: its shape is {shape}. {_LAYOUT}")
    if a.ndim == 4 and shape[3] in (1, 3) and shape[1] == shape[2] > 4:
        raise PvaeError(
            f"{where} has shape {shape}, channels last. Give [N, C, H, W]: x.transpose(0, 3, 1, 2) "
            "in NumPy, x.permute(0, 3, 1, 2) in torch."
        )
    if a.ndim == 3:
        a = a[:, None]
    byte, floats = a.dtype == np.uint8, a.dtype.kind == "f"
    scan = (_scan_floats if floats else _scan_integers)(a, where)
    if counts:
        _check_counts(a, where, scan[0], scan[1])
    elif not floats and (scan[0] < 0 or scan[1] > 255):
        raise PvaeError(
            f"{where} has {a.dtype} values from {scan[0]} to {scan[1]}; integers are levels "
            "0..255. Rescale them to uint8, give floats: x.astype('float32'), or, if they are "
            "counts, say observation='counts'."
        )
    small = not floats and scan[1] <= 255
    dtype = np.dtype(np.uint8 if small else np.float32)
    if isinstance(a, np.memmap):
        if not storage._fits(a.size * dtype.itemsize, torch.device("cpu")):
            return Values(a, not floats, *scan, byte)
        a = np.array(a, dtype)
    a = np.ascontiguousarray(a, dtype)
    raw = torch.from_numpy(a if a.flags.writeable else a.copy())
    return Values(raw, not floats, *scan, byte)


def _check_counts(a: np.ndarray, where: str, low: float, high: float) -> None:
    if low < 0 or high > 2**24:
        raise PvaeError(
            f"{where} has values from {low:g} to {high:g}; counts are whole numbers from 0 to "
            f"{2**24:,}."
        )
    if a.dtype.kind == "f":
        for piece in _pieces(a):
            broken = a[piece][a[piece] != np.floor(a[piece])]
            if broken.size:
                raise PvaeError(
                    f"{where} has values that are no whole numbers, such as {broken[0]:g}, and "
                    "observation='counts' was asked for. Give the counts themselves, or choose "
                    "observation='grey' to take the values as they are."
                )


def _pieces(a: np.ndarray) -> Iterator[slice]:
    return storage.slabs(len(a), a[:1].nbytes)


def _scan_floats(a: np.ndarray, where: str) -> tuple[float, float, bool]:
    low, high, binary, bad, first = np.inf, -np.inf, True, 0, None
    for piece in _pieces(a):
        # Beyond float32's range counts as infinite: that is what a model would see.
        with np.errstate(over="ignore"):
            values = np.asarray(a[piece], np.float32).reshape(piece.stop - piece.start, -1)
        rows = np.flatnonzero(~np.isfinite(values).all(1))
        if len(rows):
            bad += len(rows)
            first = piece.start + int(rows[0]) if first is None else first
            continue
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        binary = binary and bool(((values == 0) | (values == 1)).all())
    if bad:
        rows = "1 row" if bad == 1 else f"{bad} rows"
        raise PvaeError(
            f"{where} has NaN or infinite values in {rows} of {len(a)}, the first at index "
            f"{first}. Drop or mend them: x[np.isfinite(x.reshape(len(x), -1)).all(1)]."
        )
    return low, high, binary


def _scan_integers(a: np.ndarray, where: str) -> tuple[float, float, bool]:
    low, high = 0, 0
    for piece in _pieces(a):
        low, high = min(low, int(a[piece].min())), max(high, int(a[piece].max()))
    return low, high, low >= 0 and high <= 1


def _labels(y: object, x: Values, where: str) -> Tensor | None:
    """Returns labels as int64 [N]."""
    if y is None:
        return None
    y = _numpy(y, where)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        hint = " One-hot rows become y.argmax(1)." if y.ndim == 2 else ""
        raise PvaeError(f"{where} has shape {list(y.shape)}; labels are [N].{hint}")
    if len(y) != len(x.raw):
        raise PvaeError(f"{where} has {len(y)} labels for {len(x.raw)} data; give one for each.")
    if y.dtype.kind not in "biuf" or not (y == np.floor(y)).all():
        raise PvaeError(
            f"{where} has {y.dtype} values that are not all integers; number the classes: "
            "np.unique(y, return_inverse=True)[1]."
        )
    return torch.from_numpy(y.astype(np.int64))
