"""Programs: their names, their modules, and eval mode."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn.parameter import is_lazy

from pvae.errors import PvaeError
from pvae.pair.reach import modules

__all__ = [
    "Program",
    "check_programs",
    "evaluating",
    "innermost",
    "move",
    "name_of",
    "refuse_meta",
    "same_buffers",
    "without_handlers",
]

Program = Callable[..., Any]


def without_handlers(program: Program) -> Program:
    """Returns the program inside Pyro's handlers, which wrap it as an argument of a partial."""
    while isinstance(program, functools.partial):
        wrapped = [a for a in program.args if callable(a) and not isinstance(a, Messenger)]
        if not wrapped or not any(isinstance(a, Messenger) for a in program.args):
            break
        program = wrapped[-1]
    return program


def innermost(program: Program) -> Program:
    """Returns the program inside Pyro's handlers and partials."""
    while isinstance(program := without_handlers(program), functools.partial):
        # A partial of this room has the program last; any other one has it as its function.
        ours = str(getattr(program.func, "__module__", "")).startswith("pvae.pair")
        program = program.args[-1] if ours else program.func
    return program


def name_of(program: Program) -> str:
    """Returns a program's name: that of its class or function."""
    program = innermost(program)
    if inspect.ismethod(program):
        return f"{type(program.__self__).__name__}.{program.__name__}"
    return getattr(program, "__name__", type(program).__name__)


def check_programs(*programs: Any) -> None:
    """Raises a PvaeError if a program cannot be called with a batch."""
    for program in programs:
        if not callable(program) or isinstance(program, type):
            is_class = isinstance(program, type)
            what = "the class" if is_class else f"a {type(program).__name__},"
            raise PvaeError(
                "A model or a guide is a function or a module that is called with the batch, but "
                f"{what} {str(program)[:80]} is given. "
                + ("Create an object of it." if is_class else "Give the program.")
            )


def move(device: torch.device, *programs: Program) -> None:
    """Moves the modules of programs to a device.

    Raises:
        PvaeError: If a parameter is on the meta device: it has no values to move.
    """
    for path, module in modules(programs[0], programs[-1]).items():
        refuse_meta({f"{path}.{name}": p for name, p in module.named_parameters()})
        module.to(device)


def refuse_meta(parameters: dict[str, Tensor]) -> None:
    """Raises a PvaeError if a parameter has no values."""
    for name, parameter in parameters.items():
        if parameter.is_meta:
            raise PvaeError(
                f"Parameter {name} is on the meta device and has no values. Create the module on "
                "the device where it is used, or call module.to_empty(device=…) and set the values."
            )


@contextlib.contextmanager
def evaluating(model: Program, guide: Program) -> Iterator[None]:
    """Puts every module of a pair into eval mode, and restores each one's mode."""
    training = [
        part
        for module in modules(model, guide).values()
        for part in module.modules()
        if part.training
    ]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def same_buffers(model: Program, guide: Program) -> Iterator[None]:
    """Restores the buffers of a pair on exit: batch normalisation changes them at each call."""
    found = modules(model, guide).values()
    buffers = [b for module in found for b in module.buffers() if not is_lazy(b)]
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
