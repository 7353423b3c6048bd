"""Turns arrays into fields: their names, their parts, their types, and how x may be observed."""

import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from pvae.data.storage import Column
from pvae.data.torch_data import NUMBERS, fields_of, is_dataset, named
from pvae.data.values import Range, column, labels, observed
from pvae.data.vocabulary import Vocabulary
from pvae.errors import PvaeError

__all__ = ["Fields", "Source", "from_arrays", "given_fields", "is_frame"]

Fields = dict[str, Column]

_KEYS = (
    "x_train and x_test (with y_train, y_test), train and test, x (with y), one array alone, or "
    "several fields with a row for each datum"
)
_PART = re.compile("(?:(.+)_)?(train|test)", re.IGNORECASE)


class Source(NamedTuple):
    """The content of a source before it is split and observed.

    Attributes:
        train: The fields; an observed x is uint8 or float32.
        test: The fields of the test part, if there is one.
        values: The range of x over both parts; None if x is not observed.
        levels: The number of levels of x, if it has levels.
        observation: How x is observed by default.
        vocabulary: The words of the field caption.
    """

    train: Fields
    test: Fields | None
    values: Range | None
    levels: int | None
    observation: str
    vocabulary: Vocabulary | None = None


def given_fields(found: object, where: str) -> Fields:
    """Returns the fields of a mapping, a data frame, a Dataset or a DataLoader unchanged.

    Raises:
        PvaeError: A field does not hold numbers, or fields have different numbers of rows.
    """
    found = _named(found, where)
    found = {n if _lowered(n) in found else _lowered(n): a for n, a in found.items()}
    found = _with_rows(found, where)
    if parts := [name for name in found if _PART.fullmatch(name)]:
        raise PvaeError(
            f"The names {', '.join(parts)} in {where} mean several parts, but one part is expected "
            "here. Load all with pvae.data.load(source), or give the fields of one part."
        )
    fields = {name: column(a, f"{name} of {where}", single=False) for name, a in found.items()}
    _check_rows(fields, where)
    return fields


def from_arrays(
    found: object, where: str, levels: int | None = None, observation: str | None = None
) -> Source:
    """Returns a source from arrays.

    Args:
        found: An array or tensor; a tuple of them; a mapping of names to arrays; a data frame; a
            Dataset or a DataLoader.
        where: Its name in messages.
        levels: The number of levels of integers, if the caller knows it.
        observation: How to observe x, if the caller chooses.

    Raises:
        PvaeError: The source cannot be used, or has integers that may be counts or levels and the
            caller does not choose. The message says what to do.
    """
    parts = _parts(_named(found, where), where)
    if len(parts[0]) == 1:
        (only,) = parts[0]
        parts = [{"x" if n == only else n: a for n, a in part.items()} for part in parts]
    observes = "x" in parts[0] and observation != "as_given"
    if not observes and (levels is not None or observation not in (None, "as_given")):
        raise PvaeError(
            f"levels and observation are for an observed field x, but the fields of {where}, "
            f"{', '.join(parts[0])}, are taken as given. Leave both out."
        )
    fields, ranges = [], []
    for part, end in zip(parts, ("", "_test"), strict=False):
        columns: Fields = {}
        if observes:
            x = observed(part.pop("x"), f"x{end} of {where}", observation == "counts")
            columns["x"] = x[0]
            ranges.append(x[1])
        for name, value in part.items():
            checked = labels if name == "y" else column
            columns[name] = checked(value, f"{name}{end} of {where}")
        _check_rows(columns, where, end)
        fields.append(columns)
    train, test = [*fields, None][:2]
    if test is not None:
        _check_alike(train, test, ranges, where)
    elif len(next(iter(train.values()))) < 2:
        raise PvaeError(f"There is only one datum in {where}. A test part needs a second one.")
    found = Source(train, test, None, None, "as_given")
    return _observed(found, ranges, where, levels, observation) if observes else found


def _observed(
    found: Source, ranges: list[Range], where: str, levels: int | None, observation: str | None
) -> Source:
    """Returns a source with the range and the levels of x, and how it is observed by default."""
    values = Range(
        ranges[0].integer,
        min(part.low for part in ranges),
        max(part.high for part in ranges),
        all(part.binary for part in ranges),
        all(part.byte for part in ranges),
    )
    counts, event = observation == "counts", found.train["x"].shape[1:]
    if levels is not None and (counts or not values.integer):
        what = "counts have no levels" if counts else f"{where} has floats, which have no levels"
        raise PvaeError(f"levels={levels} is not valid: {what}. Leave levels out.")
    if counts:
        return found._replace(values=values, observation="counts")
    levels = _levels(values, event, where, levels) if values.integer else None
    colour = len(event) > 2 and event[-3] > 1
    how = "grey" if values.binary or levels is None else "dequantize" if colour else "dynamic"
    return found._replace(values=values, levels=levels, observation=how)


def _levels(values: Range, event: tuple[int, ...], where: str, levels: int | None) -> int:
    """Returns the number of levels of integers, if it is given or unambiguous."""
    high = int(values.high)
    if levels is not None:
        if not max(high + 1, 2) <= levels <= 256:
            raise PvaeError(
                f"levels={levels} is not valid: {where} has integers up to {high}. Give "
                f"{max(high + 1, 2)} to 256."
            )
        return levels
    if high <= 1:
        return 2
    if high == 255 or (high > 127 and (values.byte or len(event) > 2)):  # bytes, or images
        return 256
    raise PvaeError(
        f"There are integers from 0 to {high} in {where}, which may be counts or levels. Choose: "
        f"observation='counts' keeps counts, for a likelihood of counts; levels={high + 1} (or the "
        f"number of possible levels, 256 for 8-bit images) reads k as the grey level k / {high}; "
        f"observation='as_given' keeps integers such as tokens. In the shell: "
        f"--data.observation counts, --data.levels {high + 1}."
    )


def _named(found: Any, where: str) -> dict[str, Any]:
    """Returns the arrays of a source by name."""
    if isinstance(found, Tensor) or (hasattr(found, "__array__") and not is_frame(found)):
        return {"x": found}
    if is_frame(found):
        return _frame(found, where)
    if isinstance(found, tuple | list):
        if not found or not all(isinstance(a, Tensor | np.ndarray) for a in found):
            kinds = ", ".join(type(a).__name__ for a in found[:4])
            raise PvaeError(
                f"The type of {where} is {type(found).__name__} of {len(found)} ({kinds}). Give "
                "(x,) or (x, y), each an array or a tensor, or a dict of named arrays."
            )
        return named(tuple(found))
    if is_dataset(found):
        return fields_of(found, where)
    if not isinstance(found, Mapping):
        raise PvaeError(
            f"The type of {where} is {type(found).__name__}, which holds no data. Give a tensor, a "
            "NumPy array, (x, y), a dict of arrays, a data frame, a Dataset, or a .npy, .npz or "
            ".pt file."
        )
    return {str(name): value for name, value in found.items()}


def is_frame(source: object) -> bool:
    """Whether a source is a data frame, of pandas or of another library."""
    return hasattr(source, "columns") and hasattr(source, "to_numpy")


def _frame(frame: Any, where: str) -> dict[str, np.ndarray]:
    """Returns y, the column of this name, and x [N, D], the other columns of a data frame."""
    columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    if text := [name for name, values in columns.items() if values.dtype.kind not in "biuf"]:
        raise PvaeError(
            f"Some columns of {where} are not numbers: {', '.join(text[:8])}. Drop them with "
            "frame.select_dtypes('number'), or encode their values as numbers."
        )
    y = {name: columns.pop(name) for name in ("y",) if name in columns}
    if not columns:
        raise PvaeError(f"There is no column for x in {where}.")
    return {"x": np.column_stack(list(columns.values())), **y}


def _parts(found: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Returns the fields of the training part, x first, and of the test part if there is one."""
    parts: dict[str, dict[str, Any]] = {"": {}, "train": {}, "test": {}}
    for name, value in found.items():
        match = _PART.fullmatch(name)
        stem, part = (match[1] or "x", match[2].lower()) if match else (name, "")
        parts[part].setdefault(_lowered(stem), value)
    if parts["train"] and "x" in parts[""] and "x" not in parts["train"]:
        listed = ", ".join(f"{name}_train" for name in parts["train"])
        raise PvaeError(
            f"There are x and {listed} in {where}, but no x_train. Name arrays {_KEYS}. Rename a "
            "field that belongs to no part."
        )
    train = _with_rows(parts["train"] or parts[""], where)
    if not train:
        listed = ", ".join(list(found)[:8]) or "nothing"
        raise PvaeError(f"No data found in {where}; it holds {listed}. Name its arrays {_KEYS}.")
    test = {name: a for name, a in parts["test"].items() if name in train or name == "y"}
    return [train, test] if parts["train"] and test.keys() - {"y"} else [train]


def _lowered(name: str) -> str:
    return name.lower() if name in ("X", "Y") else name


def _with_rows(part: dict[str, Any], where: str) -> dict[str, Any]:
    """Drops text and arrays without a row for each x, with a warning for arrays; x comes first."""
    part = {name: part[name] for name in sorted(part, key=lambda name: name != "x")}
    x = part.get("x")

    def is_field(name: str, a: Any) -> bool:
        if name in ("x", "y") or not hasattr(a, "shape"):
            return True
        number = isinstance(a, Tensor) or a.dtype.kind in NUMBERS
        if not number or x is None or a.shape[:1] == np.shape(x)[:1]:
            return number
        if a.shape:
            warnings.warn(
                f"{name} {list(a.shape)} of {where} is left out: it does not have a row for each "
                f"of the {len(x)} data.",
                stacklevel=5,
            )
        return False

    return {name: a for name, a in part.items() if is_field(name, a)}


def _check_rows(fields: Fields, where: str, end: str = "") -> None:
    """Raises a PvaeError unless all fields have the same number of rows."""
    sizes = {name: len(column) for name, column in fields.items()}
    if len(set(sizes.values())) == 1 and min(sizes.values()):
        return
    if "x" in sizes and sizes.get("y", sizes["x"]) != sizes["x"]:
        raise PvaeError(
            f"y{end} of {where} has {sizes['y']} labels for {sizes['x']} data. Give one for each."
        )
    listed = ", ".join(f"{name} {list(column.shape)}" for name, column in fields.items())
    raise PvaeError(
        f"The fields of {where} have different numbers of rows, or none: {listed}. Each needs one "
        f"row for each datum. Name arrays {_KEYS}."
    )


def _check_alike(train: Fields, test: Fields, ranges: list[Range], where: str) -> None:
    """Raises a PvaeError unless the test part has the fields of the training part."""
    for name in train:
        if name == "y" and "y" not in test:
            continue
        if name not in test:
            raise PvaeError(
                f"The training part of {where} has a field {name}, but the test part does not. "
                "Give both the same fields."
            )
        kinds = [str(part[name].dtype).removeprefix("torch.") for part in (train, test)]
        if name == "x" and ranges:
            kinds = ["integer" if values.integer else "float" for values in ranges]
        shapes = [list(part[name].shape[1:]) for part in (train, test)]
        if kinds[0] != kinds[1] or shapes[0] != shapes[1]:
            raise PvaeError(
                f"The parts of {where} differ in {name}: train is {kinds[0]} {shapes[0]}, test is "
                f"{kinds[1]} {shapes[1]}. Give both the same shape and dtype."
            )
