"""Foreign data: their names, files or tensors as minibatches of the pair, observed like its own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.data import Data, Split, as_data, canonical, load, names
from pvae.errors import PvaeError, nearest
from pvae.evaluation.estimator import Task
from pvae.evaluation.identity import choose
from pvae.evaluation.work import fingerprint
from pvae.pair import TensorSplit
from pvae.runtime import own_random_state

__all__ = ["SHUFFLED", "Foreign", "as_foreign", "check_names", "fields_of", "rows_of"]

SHUFFLED = "shuffled"
_GRID = 1e-3  # how far a grey value may lie from its level, in levels


@dataclass(frozen=True)
class Foreign:
    """Foreign data as the pair receives them.

    Attributes:
        name: For tables and figures.
        batch: Tensors [n, *event] in the order of the pair's data, without labels.
        hash: Of all data of the set.
    """

    name: str
    batch: tuple[Tensor, ...]
    hash: str


def as_foreign(given: Any, task: Task, num_data: int, labels: int | None) -> tuple[Foreign, ...]:
    """Returns foreign sets by what `Rejection.foreign` allows.

    Args:
        given: A set, a sequence of sets, or sets by name.
        task: That of the estimator.
        num_data: The largest number of data of each set, drawn at random.
        labels: Which of the pair's tensors are labels, which foreign data do not need.

    Raises:
        PvaeError: If a set is empty, or not of the pair's shape, or observed in another way.
    """
    found = _named(given)
    if all(isinstance(each, Foreign) for _, each in found):
        return tuple(each for _, each in found)
    called = [name for name, _ in found]
    if twice := {name for name in called if called.count(name) > 1}:
        raise PvaeError(
            f"foreign: two sets are called {twice.pop()}. Name them: foreign={{'a': …, 'b': …}}."
        )
    if own := {"test data", "training data", "validation data"} & set(called):
        raise PvaeError(f"foreign: {own.pop()!r} are the pair's own. Rename the set.")
    own = task.batch(np.arange(min(len(task.data), num_data)))
    return tuple(_foreign(n, each, task, own, num_data, labels) for n, each in found)


def check_names(given: Any) -> None:
    """Raises a PvaeError for the name of a set that is neither a dataset nor a file."""
    for _, each in _named(given):
        if not isinstance(each, str) or each == SHUFFLED or canonical(each) in names():
            continue
        if not Path(each).expanduser().exists():
            raise PvaeError(
                f"foreign={each!r} is not valid: there is no dataset or file of this name. "
                f"{nearest(each, [*names(), SHUFFLED])}"
            )


def fields_of(part: Split | TensorSplit) -> tuple[str, ...]:
    """Returns the names of a part's tensors; x and y of tensors without names."""
    if isinstance(part, Split):
        return part.names
    rest = (f"argument {i}" for i in range(2, len(part.tensors())))
    return ("x", "y", *rest)[: len(part.tensors())]


def rows_of(part: Split | TensorSplit, num_data: int, seed: int) -> tuple[Tensor, ...]:
    """Returns some data of a part, drawn at random, the same for every call; observed once."""
    with own_random_state(seed):
        rows = choose(len(part), num_data)
        index = torch.arange(len(part)) if rows is None else torch.from_numpy(rows)
        return tuple(tensor.cpu() for tensor in part.observe(index.to(part.device)))


def _named(given: Any) -> list[tuple[str, Any]]:
    if isinstance(given, Mapping):
        return list(given.items())
    sets = given if isinstance(given, list | tuple) else [given]
    return [(_name(each), each) for each in sets]


def _name(given: Any) -> str:
    if isinstance(given, Foreign | Data):
        return given.name
    return os.path.basename(given) if isinstance(given, str | os.PathLike) else "foreign"


def _foreign(
    name: str,
    given: Any,
    task: Task,
    own: tuple[Tensor, ...],
    num_data: int,
    labels: int | None,
) -> Foreign:
    where = f"The foreign data {name!r}"
    source = task.source
    known = source if isinstance(source, Data) else None
    if isinstance(given, str) and given == SHUFFLED:
        batch = tuple(t for i, t in enumerate(rows_of(task.data, num_data, 1)) if i != labels)
        x = batch[0].flatten(1)
        order = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).argsort(1)
        batch = (x.gather(1, order).view_as(batch[0]), *batch[1:])
        return Foreign(name, batch, f"{SHUFFLED} {fingerprint(batch)}")
    if isinstance(given, str | os.PathLike):
        if known is None:
            raise PvaeError(
                f"{where} cannot be loaded by name, because it is not known how the pair's own "
                "data were observed. Give tensors, or evaluate data from pvae.data.load."
            )
        given = load(given, observation=known.observation, seed=known.seed)
    elif not isinstance(given, Split | TensorSplit | Data):
        given = as_data(given)
    if isinstance(given, Data):
        _refuse_other_observation(where, given, known)
        given = given.test
    if not isinstance(given, Split | TensorSplit):
        given = TensorSplit(given)
    fields = fields_of(task.data)
    wanted = [field for i, field in enumerate(fields) if i != labels]
    if isinstance(given, Split):
        if lacking := [field for field in wanted if field not in given.fields]:
            raise PvaeError(
                f"{where} have no field {', '.join(lacking)}, which the pair takes: they have "
                f"{', '.join(given.fields)}."
            )
        given = given.only(wanted)
        batch = rows_of(given, num_data, 0)
    else:
        batch = rows_of(given, num_data, 0)
        if len(batch) == len(fields) > len(wanted):
            batch = tuple(t for i, t in enumerate(batch) if i != labels)
        if len(batch) != len(wanted):
            raise PvaeError(
                f"{where} have {len(batch)} tensors, but the pair takes {', '.join(wanted)}."
            )
    own = tuple(tensor for i, tensor in enumerate(own) if i != labels)
    batch = tuple(
        _alike(where, field, theirs, ours, known)
        for field, theirs, ours in zip(wanted, batch, own, strict=True)
    )
    return Foreign(name, batch, given.hash)


def _refuse_other_observation(where: str, given: Data, known: Data | None) -> None:
    if known is None:
        return
    ours, theirs = (
        "dynamic" if each.observation == "fixed" else each.observation for each in (known, given)
    )
    if ours != theirs:
        raise PvaeError(
            f"{where} are observed by {given.observation!r}, and the pair's own data by "
            f"{known.observation!r}: the scores would tell the two apart by that. Load them with "
            f"observation={known.observation!r}."
        )


def _alike(where: str, field: str, theirs: Tensor, ours: Tensor, known: Data | None) -> Tensor:
    """Returns foreign values in the type of the pair's own.

    Raises:
        PvaeError: If their shape differs, or their values show another observation.
    """
    if theirs.shape[1:] != ours.shape[1:]:
        raise PvaeError(
            f"{where} have {field} of shape {list(theirs.shape[1:])}, and the pair's own data "
            f"{list(ours.shape[1:])}. Resize them."
        )
    if theirs.is_floating_point() > ours.is_floating_point():
        raise PvaeError(
            f"{where} have {field} of type {theirs.dtype}, and the pair's own data of "
            f"{ours.dtype}. Convert them."
        )
    if not ours.is_floating_point():
        return theirs.to(ours.dtype)
    if field != "x":
        return theirs.to(ours.dtype)
    theirs, high = theirs.to(ours.dtype), theirs.max().item()
    how = "" if known is None else f" Load them with observation={known.observation!r}."
    low = theirs.min().item()
    if ((ours == 0) | (ours == 1)).all() and not ((theirs == 0) | (theirs == 1)).all():
        how = how or " Make them 0 or 1 in the same way."
        raise PvaeError(
            f"{where} have values from {low:.4g} to {high:.4g}, and the pair's own data only 0 "
            f"and 1.{how}"
        )
    within = ours.min() >= 0 and ours.max() <= 1
    unscaled = within and high > 1 and bool((theirs == theirs.round()).all())
    if unscaled or (
        known is not None and known.support == "unit_interval" and not 0 <= low <= high <= 1
    ):
        raise PvaeError(
            f"{where} have values from {low:.4g} to {high:.4g}, and the pair's own data from 0 to "
            f"1.{how or ' Scale them in the same way.'}"
        )
    if known is not None and known.observation == "grey" and known.levels:
        grey = theirs * (known.levels - 1)
        if ((grey - grey.round()).abs() > _GRID * known.levels).any():
            raise PvaeError(
                f"{where} have values between the {known.levels} grey levels of the pair's own "
                f"data.{how}"
            )
    return theirs
