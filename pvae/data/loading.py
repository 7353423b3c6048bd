"""load(): turns a name, a file, arrays or a Dataset into observed parts."""

import functools
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pvae.data import files, storage
from pvae.data.arrays import Source, from_arrays, given_fields, is_frame
from pvae.data.dataset import Data
from pvae.data.frames import Frames, cut, windows_of
from pvae.data.masks import Mask, draw_masks
from pvae.data.observation import BINARY, OBSERVATIONS, Observation, draw, stream
from pvae.data.partly_labelled import keep_labels, mix
from pvae.data.sources import canonical, from_name, names, root_folder
from pvae.data.split import Split
from pvae.data.torch_data import is_dataset
from pvae.errors import PvaeError, nearest

__all__ = ["as_data", "drawn_once", "load"]


def load(
    source: Any = "digits",
    *,
    root: str | os.PathLike | None = None,
    observation: Observation | None = None,
    levels: int | None = None,
    validation: int = 0,
    labels: bool = False,
    mask: Mask | None = None,
    frames: Frames | None = None,
    window: int | None = None,
    labelled: int | None = None,
    balanced: bool = True,
    labelled_share: float | None = None,
    seed: int = 0,
) -> Data:
    """Loads data, and observes the field x.

    A datum has one field or more; a field is a named tensor. The field x is observed. With
    p = raw / (levels − 1) for integers and p = raw for floats, x is

    - "dynamic": Bernoulli(p), drawn again for each training minibatch;
    - "fixed": Bernoulli(p), drawn once, for training too;
    - "threshold": 1 where p > 0.5, else 0;
    - "grey": p; for integers one of the levels k / (levels − 1), for discretised likelihoods;
    - "dequantize": (raw + u) / levels, u uniform on [0, 1), again for each training minibatch;
    - "counts": raw, whole numbers from 0 on, for likelihoods of counts;
    - "as_given": raw, of any shape; integers such as tokens stay integers.

    Other fields are taken as given, floats in single precision; NaN and negative numbers may mark
    missing values. A pair receives the fields that its arguments name, or all by position.
    Validation and test are always drawn once, from `seed`, on the CPU. The test part does not
    depend on `validation` or the device.

    Args:
        source: A name out of `names()`; a .npy, .npz or .pt file; an array or tensor x, or (x, y);
            a dict of arrays, each a field; a data frame, whose column y is y and whose other
            columns are x [N, D]; a Dataset or DataLoader of tensors, pairs (x, y) or dicts.
            Images are [N, C, H, W] or [N, H, W], videos [N, T, C, H, W], vectors [N, D], points
            [N, P, 3]. In x, integers and booleans become uint8 (counts above 255 float32), floats
            float32. A dict or file may hold x_train and x_test (and so on for each field), train
            and test, or only fields; without a test part, 10 % of the data are held out by `seed`.
            A .npy file or a Dataset that does not fit in memory is read on demand, by as many
            workers as its DataLoader has.
        root: The folder of named datasets, in torchvision's layout; by default the environment
            variable PVAE_DATA, else the user's cache. Missing files are downloaded there.
        observation: How x is observed. By default "dynamic" for integers in grey images and
            vectors, "dequantize" for integers in colour, "grey" for floats and for 0 and 1.
        levels: The number of levels of integers, 2 to 256. By default it is known for values of 0
            and 1, 8-bit images and named datasets. Other integers need `levels` or `observation`.
        validation: Number of data held out of training, from the end of a permutation by `seed`;
            with `frames`, a number of videos.
        labels: Whether batches hold the field y; of `"glyphs"` and `"emoji"` also `caption`,
            and of `"glyphs"` `factors`.
        mask: Which kind of masks batches hold in the field mask, True where x is known: "center",
            "block", "region", "quadrants", "pixels" or "any", as drawn by `pvae.data.draw_masks`;
            again for each training minibatch. By default there are none.
        frames: Of videos, which frames of a window are x. "between": the middle one; batches also
            hold the first one and the last, the fields before and after. "next": all but the first
            one, which is the field still. These fields are E[x] of their observation, without
            noise. Training has a window from each frame on; validation and test have windows that
            share no frame. By default x are the videos.
        window: The length of a window: 3 frames by default between, the whole video for next.
        labelled: How many training data keep their labels, drawn by `seed`; batches hold y then,
            and the labels of the other training data are −1. Validation and test keep all labels.
            By default all are kept.
        balanced: Whether every class keeps as many labels, or one more where the number does not
            divide.
        labelled_share: The share of labelled data in a training minibatch; by default that of the
            data. Train on such minibatches with `pvae.objectives.SemiSupervised_ELBO`, which weighs
            both kinds so that the bound is that of the data.
        seed: Seed of the data: of splits, and of what is drawn once.

    Raises:
        PvaeError: An argument is wrong, or files are missing or damaged. The message says what is
            wrong, where, and what to do.

    Example:
        >>> data = load("digits", validation=200, labels=True)
        >>> data.train, data.validation
        (Split(1300 × [1, 8, 8], dynamic for each minibatch), Split(200 × [1, 8, 8], drawn once))
        >>> x, y = next(data.train.batches(64, shuffle=True))
        >>> x.shape, y.shape, data.support
        (torch.Size([64, 1, 8, 8]), torch.Size([64]), 'binary')
    """
    if observation is not None and observation not in OBSERVATIONS:
        raise PvaeError(
            f"There is no observation {observation!r}. {nearest(str(observation), OBSERVATIONS)}"
        )
    seed, validation = _integer(seed, "seed"), _integer(validation, "validation")
    levels = levels if levels is None else _integer(levels, "levels")
    name, found = _find(source, root, levels, observation)
    observation = observation or found.observation
    _check(name, found, observation, labels)
    if labelled is not None and not labels:
        _check(name, found, observation, True, f"labelled={labelled}")
    # Batches of a named dataset hold its other fields only together with the labels.
    aside = found.train.keys() - {"x"} if name in names() else ()

    off = () if labels else {"y", *aside} - ({"y"} if labelled is not None else set())
    batch = tuple(field for field in found.train if field not in off)
    train = Split(found.train, observation, found.levels, batch)
    if found.test is None:
        order = torch.randperm(len(train), generator=stream(seed, "test split"), device="cpu")
        tenth = max(1, len(train) // 10)
        train, test = train.take(order[tenth:]), train.take(order[:tenth])
    else:
        test = Split(found.test, observation, found.levels, batch)
    if frames is not None:
        window = windows_of(train, frames, window, name)
    elif window is not None:
        raise PvaeError(
            f"window={window} is not valid without frames. Say which of its frames are x: "
            "frames='between' or frames='next'."
        )
    if not 0 <= validation < len(train):
        raise PvaeError(
            f"validation={validation} is not valid: {name} has {len(train)} training data. Give 0 "
            f"to {len(train) - 1}."
        )
    if observation == "fixed":
        # Before the split, so that the draw of a datum does not depend on `validation`.
        train = drawn_once(train, seed, "train", name)
        test = drawn_once(test, seed, "test", name)
    held_out = None
    if validation:
        order = torch.randperm(len(train), generator=stream(seed, "validation split"), device="cpu")
        train, held_out = train.take(order[:-validation]), train.take(order[-validation:])
    if frames is not None:
        train = cut(train, frames, window, step=1)
        test = cut(test, frames, window, step=window)
        held_out = None if held_out is None else cut(held_out, frames, window, step=window)
    if mask is not None:
        if "mask" in found.train:
            raise PvaeError(f"mask={mask!r} is not valid: {name} has a field mask. Leave mask out.")
        train = _masked(train, mask, None)
        test = _masked(test, mask, stream(seed, "test mask"))
    if held_out is not None:
        if mask is not None:
            held_out = _masked(held_out, mask, stream(seed, "validation mask"))
        held_out = drawn_once(held_out, seed, "validation", name)
    if labelled is not None:
        train = keep_labels(train, labelled, balanced, stream(seed, "labels"), name)
    if labelled_share is not None:
        train = mix(train, labelled_share, name)
    return Data(
        name=name,
        observation=observation,
        seed=seed,
        levels=found.levels,
        event_shape=tuple(train.fields[batch[0]].shape[1:]),
        support=_support(found, observation),
        train=train,
        validation=held_out,
        test=drawn_once(test, seed, "test", name),
        source=os.fspath(source) if isinstance(source, str | os.PathLike) else None,
        asked_levels=levels,
        vocabulary=found.vocabulary,
        mask=mask,
        labelled=labelled,
        balanced=balanced,
        frames=frames,
        window=window,
        asked_validation=validation,
    )


def _masked(part: Split, kind: Mask, generator: torch.Generator | None) -> Split:
    """Returns a part with masks, drawn once by a generator, or without one for each minibatch."""
    shape, size = tuple(part.raw.shape[1:]), len(part)
    if generator is None:
        draw = functools.partial(draw_masks, kind, shape)
        masks = storage.Drawn(draw, kind, shape, size)
    else:
        masks = draw_masks(kind, shape, size, generator)
    names = (*(name for name in part.names if name != "mask"), "mask")
    return Split({**part.fields, "mask": masks}, part.observation, part.levels, names)


def as_data(source: Any) -> Any:
    """Returns an argument for data as `Data` or `Split`, or unchanged if it is neither.

    A name or a file is loaded, with a test part. A dict of arrays, a data frame, a Dataset or a
    DataLoader is one part with its fields unchanged: nothing is held out or drawn. (Wrap a dict
    that is itself an argument of the programs in a tuple: `(batch,)`.)

    Args:
        source: An argument of `fit`, `evaluate` and others.

    Example:
        >>> import torch
        >>> part = as_data({"x": torch.rand(10, 4), "y": torch.arange(10)})
        >>> len(part), part.names
        (10, ('x', 'y'))
        >>> as_data(3)
        3
    """
    if isinstance(source, str | os.PathLike):
        return load(source)
    if isinstance(source, Mapping) or is_frame(source) or is_dataset(source):
        fields = given_fields(source, "the data")
        return Split(fields, "as_given", names=tuple(fields))
    return source


def _integer(value: object, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise PvaeError(f"{name}={value!r} is not valid: give an integer.") from error


def _find(
    source: Any, root: str | os.PathLike | None, levels: int | None, observation: str | None
) -> tuple[str, Source]:
    """Returns the name of a source, without its folder, and its content."""
    if isinstance(source, str):
        name = canonical(source)
        if name in names():
            found = from_name(name, root_folder(root))
            if levels not in (None, found.levels):
                raise PvaeError(
                    f"levels={levels} is not valid: {name} has {found.levels}. Leave levels out."
                )
            plain = observation in ("counts", "as_given")
            return name, found._replace(levels=None) if plain else found
        path = Path(source).expanduser()
        if path.suffix.lower() not in files.SUFFIXES and not path.exists():
            raise PvaeError(
                f"There is no dataset or file {source!r}. {nearest(name, names())} Names of files "
                "end in .npy, .npz or .pt."
            )
        source = path
    if isinstance(source, os.PathLike):
        path = Path(source).expanduser()
        return path.name, from_arrays(files.read(path), path.name, levels, observation)
    where = "the array" if hasattr(source, "shape") else "the source"
    return "array", from_arrays(source, where, levels, observation)


def _check(
    name: str, found: Source, observation: str, labels: bool, asked: str = "labels=True"
) -> None:
    parts = {"training": found.train, "test": found.test}
    lacks = [part for part, fields in parts.items() if fields is not None and "y" not in fields]
    if labels and lacks:
        raise PvaeError(
            f"{asked} is not valid: the {lacks[0]} part of {name} has no labels. Give (x, y), "
            f"or arrays named y_train and y_test, or leave {asked.partition('=')[0]} out."
        )
    if found.values is None or found.levels is not None or observation in ("counts", "as_given"):
        return
    if observation == "dequantize":
        raise PvaeError(
            f"observation='dequantize' is not valid: {name} has floats, which have no levels. Use "
            "observation='grey', or give integers from 0 to 255."
        )
    low, high = found.values.low, found.values.high
    if observation in BINARY and (low < 0 or high > 1):
        raise PvaeError(
            f"observation={observation!r} is not valid: it needs floats in [0, 1], and {name} has "
            f"floats from {low:g} to {high:g}. Rescale them, or use observation='grey' for the "
            "values themselves."
        )


def _support(found: Source, observation: str) -> str:
    values = found.values
    if values is None or observation == "as_given":
        return "real"
    if observation in BINARY or (observation == "grey" and values.binary):
        return "binary"
    if observation == "counts":
        return "counts"
    unit = found.levels is not None or (values.low >= 0 and values.high <= 1)
    return "unit_interval" if unit else "real"


def drawn_once(part: Split, seed: int, purpose: str, name: str) -> Split:
    """Returns a part with x drawn once, if its observation draws noise.

    Args:
        part: A part of the data.
        seed: The data seed.
        purpose: The part: "train", "validation" or "test".
        name: The name of the data, for messages.

    Raises:
        PvaeError: The part does not fit in memory.

    Example:
        >>> import pvae
        >>> train = pvae.data.load("digits").train
        >>> once = drawn_once(train, 0, "train", "digits")
        >>> (x,), (again,) = once.tensors(), once.tensors()
        >>> x.equal(again), once.fresh
        (True, False)
    """
    if part.observation not in ("dynamic", "fixed", "dequantize"):
        return part
    raw = storage.resident(part.raw, torch.device("cpu"))
    if raw is None:
        where = "training" if purpose == "train" else purpose
        raise PvaeError(
            f"With observation={part.observation!r}, the {where} part of {name} is drawn once and "
            "kept in memory, but it does not fit. Use observation='grey' or 'threshold', or give "
            "less data."
        )
    x = draw(raw, part.observation, part.levels, stream(seed, purpose))
    levels = 2 if x.dtype == torch.uint8 else None
    return Split({**part.fields, "x": x}, "grey", levels, part.names)
