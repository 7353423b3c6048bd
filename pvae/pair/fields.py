"""How the fields of a minibatch reach the arguments of a program: by name, or by position."""

import functools
import inspect
import os
import re
import warnings
from collections.abc import Mapping
from inspect import Parameter
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from pvae.data import Data, Split, as_data
from pvae.errors import PvaeError
from pvae.pair.program import Program, name_of, without_handlers
from pvae.pair.tensors import TensorSplit

__all__ = ["bind", "given", "names_labels", "opened", "signature_of"]

_LABELS = re.compile("^(y.*|[ct])$|label|target|class|cond|digit|categor|attr|context")


def given(
    data: Any,
    kwargs: dict[str, Any],
    device: str | torch.device | None,
    *programs: Program,
    split: str = "test",
) -> tuple[Split | TensorSplit, tuple[Program, ...]]:
    """Returns a part of any kind of data, and programs that are called with its minibatches.

    Args:
        data: What `pvae.data.as_data` takes, or positional arguments of the programs.
        kwargs: Arguments by name.
        device: Where to put the data; None leaves them where they are.
        *programs: The pair, or one of it.
        split: Which part of a `Data`: `"train"` or `"test"`.

    Raises:
        PvaeError: As `TensorSplit` and `bind`.
    """
    data = as_data(data)
    if isinstance(data, Data):
        data = getattr(data, split)
    if not isinstance(data, Split | TensorSplit):
        data, kwargs = TensorSplit(data, kwargs), {}
    if rows := [
        n for n, v in kwargs.items() if isinstance(v, Tensor) and v.ndim and len(v) == len(data)
    ]:
        raise PvaeError(
            f"Argument {rows[0]} has as many rows as there are data, {len(data)}, but it would not "
            "be cut into minibatches with them. Make it a field of the data: "
            f'{{"x": x, "{rows[0]}": {rows[0]}}}. If its rows do not belong to the data, keep it '
            "in the programs."
        )
    if kwargs:
        programs = tuple(functools.partial(program, **kwargs) for program in programs)
    return bind(data if device is None else data.to(device), *programs)


def opened(
    args: tuple[Any, ...], kwargs: dict[str, Any], *programs: Program, few: int | None = None
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Program, ...]]:
    """Opens a dataset that is given in place of a batch. Of a `Data`, takes the test part.

    Args:
        args: Positional arguments: a batch; or a Data, a part of one, a data frame, a Dataset or a
            DataLoader.
        kwargs: Arguments by name.
        *programs: The pair, or one of it.
        few: How many of the data to take; None for all.

    Returns:
        Arguments, and programs that are called with them. A batch is returned unchanged.
    """
    kinds = (Mapping, Tensor, str, os.PathLike)  # a dict is an argument of the programs here
    data = as_data(args[0]) if len(args) == 1 and not isinstance(args[0], kinds) else None
    data = data.test if isinstance(data, Data) else data
    if not isinstance(data, Split | TensorSplit):
        return args, kwargs, programs
    part, programs = bind(data, *programs)
    return part.observe(slice(few)) if few else part.tensors(), kwargs, programs


def bind(
    part: Split | TensorSplit, *programs: Program
) -> tuple[Split | TensorSplit, tuple[Program, ...]]:
    """Returns a part with the fields that programs receive, and programs of its minibatches.

    A program that needs no argument besides the fields of the data receives those that it names.
    Any other program receives all fields by position. Of two fields (x, y), y goes to the second
    argument, whatever its name.

    Args:
        part: A part of data.
        *programs: The pair, or one of it.

    Raises:
        PvaeError: If a program's arguments do not name the fields, and their number differs.

    Warns:
        UserWarning: If a field may have been meant for an argument that does not receive it, or
            labels y reach an optional argument whose name is none for labels.
    """
    if isinstance(part, TensorSplit):
        return part, part.bind(*programs)
    if part.names == ("x",) or not programs:  # one argument, whatever it is called
        return part, programs
    calls = [_Call.of(program, part) for program in programs]
    used = {name for call in calls for name in call.names}
    names = tuple(name for name in part.names if name in used)
    for program, call in zip(programs, calls, strict=True):
        if call.guessed:
            dtype = str(part.fields["y"].dtype).removeprefix("torch.")
            warnings.warn(
                f"The field y of the data, one number ({dtype}) for each datum, is given to the "
                f"argument {call.guessed} of {_shown(program)}, because it comes second. If "
                f"{call.guessed} is not for labels, leave y out of the data: {{'x': x}}. If y is "
                f"the right field, name it: {{'x': x, '{call.guessed}': …}}.",
                stacklevel=5,
            )
    if len(names) < len(part.names) and any(call.has_room for call in calls):
        unused = ", ".join(name for name in part.names if name not in used)
        warnings.warn(
            f"The pair does not receive {unused}: no argument of "
            f"{' or '.join(map(_shown, programs))} has this name. The fields of the data: "
            f"{part.in_words}. Give the argument the field's name, or leave the field out.",
            stacklevel=5,
        )
    return part.only(names), tuple(
        program
        if call.by_position and call.names == names
        else _by_name(names, call.names, program)
        for program, call in zip(programs, calls, strict=True)
    )


def _by_name(names: tuple[str, ...], taken: tuple[str, ...], program: Program) -> Program:
    found = functools.partial(_call, names, taken, program)
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    found.__signature__ = inspect.Signature(parameters)
    return found


def _call(
    names: tuple[str, ...], taken: tuple[str, ...], program: Program, *batch: Tensor, **kwargs: Any
) -> Any:
    if not batch:  # a model that draws its data
        return program(**kwargs)
    rows = dict(zip(names, batch, strict=True))
    return program(**{name: rows[name] for name in taken}, **kwargs)


class _Call(NamedTuple):
    """Which fields a program receives, in their order.

    Attributes:
        names: The fields.
        by_position: Whether they may be passed by position.
        has_room: Whether an argument that could take another field is left at None.
        guessed: An optional argument that receives what look like labels, by position.
    """

    names: tuple[str, ...]
    by_position: bool
    has_room: bool = False
    guessed: str | None = None

    @classmethod
    def of(cls, program: Program, part: Split) -> "_Call":
        """Reads the call from the program's signature."""
        names, signature = part.names, signature_of(program)
        if signature is None:
            return cls(names, True)
        parameters = signature.parameters.values()
        kinds = {p.kind for p in parameters}
        listed = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        needed = {p.name for p in listed if p.default is p.empty}
        in_turn = takewhile(_is_open, (p for p in listed if p.kind is not p.KEYWORD_ONLY))
        in_turn = [p.name for p in in_turn]
        fits = (
            needed <= set(in_turn[: len(names)])
            and (len(in_turn) >= len(names) or Parameter.VAR_POSITIONAL in kinds)
            and all(
                a == b or (b not in part.fields and a not in {p.name for p in listed})
                for a, b in zip(names, in_turn, strict=False)
            )
        )
        if fits and names == ("x", "y"):
            second = in_turn[1] if len(in_turn) > 1 and in_turn[1] not in needed else "y"
            return cls(names, True, guessed=None if _may_be_labels(second, part) else second)
        if fits and Parameter.VAR_POSITIONAL in kinds:
            return cls(names, True)
        known = {p.name for p in listed if p.kind is not p.POSITIONAL_ONLY}
        if Parameter.VAR_KEYWORD in kinds:  # it takes every name
            known = set(names) - {p.name for p in listed if p.kind is p.POSITIONAL_ONLY}
        taken = tuple(name for name in names if name in known)
        if taken and needed <= set(taken):
            room = any(_is_open(p) and p.name not in taken for p in listed)
            return cls(taken, taken == tuple(in_turn[: len(taken)]), room)
        if fits:
            return cls(names, True)
        aside = part.fields.keys() - set(names)
        raise PvaeError(
            f"{_shown(program)} cannot be called with the fields of the data, {part.in_words}. "
            "Give its arguments the names of the fields that it takes, or let it take all fields "
            "in this order."
            + (" With labels=True, the labels y are among the fields." if "y" in aside else "")
        )


def _is_open(parameter: Parameter) -> bool:
    """Whether an argument may be data: neither an option nor the number of samples to draw."""
    needed = parameter.default is parameter.empty
    return (needed or parameter.default is None) and parameter.name != "size"


def names_labels(argument: str) -> bool:
    """Returns whether an argument has a name for labels, such as y or class.

    Example:
        >>> names_labels("y"), names_labels("digit"), names_labels("lengths")
        (True, True, False)
    """
    return bool(_LABELS.search(argument))


def _may_be_labels(argument: str, part: Split) -> bool:
    """Whether an argument has a name for labels, or y has not one number for each datum."""
    y = part.fields["y"]
    return names_labels(argument) or len(y.shape) > 1 or y.dtype == torch.bool


def signature_of(program: Program) -> inspect.Signature | None:
    """Returns the signature of a program, without handlers around it; None of a builtin."""
    program = without_handlers(program)
    if isinstance(program, functools.partial) and isinstance(program.func, nn.Module):
        program = functools.partial(program.func.forward, *program.args, **program.keywords)
    elif isinstance(program, AutoGuide):
        return signature_of(program.model)
    elif isinstance(program, nn.Module):
        program = program.forward
    try:
        return inspect.signature(program)
    except (TypeError, ValueError):  # a builtin
        return None


def _shown(program: Program) -> str:
    parameters = str(signature_of(program) or "(…)")
    return f"{name_of(program)}{re.sub(r' -> .*$', '', parameters)}"
