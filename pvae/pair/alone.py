"""alone(): allows one call at a time per process, and restores Pyro's state if a call fails."""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyro.distributions as dist
import pyro.infer
import pyro.poutine as poutine
import torch
from pyro.nn import PyroModule
from pyro.poutine.runtime import _DIM_ALLOCATOR, _ENUM_ALLOCATOR, _PYRO_STACK
from torch import nn

from pvae.pair.reach import modules

__all__ = ["alone"]

_lock = threading.RLock()
_working: list[int] = []  # the thread whose call it is


def alone[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Makes calls of a function wait for other threads, and restores Pyro's state if they fail.

    All threads of a process share Pyro's stack of handlers and torch's generator, so two calls at
    once would disturb each other. An interrupt in a notebook can end a handler or a plate before
    it has restored what it changed. Every later call, also of Pyro itself, would then fail with
    an error that blames the pair.

    Calls may be nested. Code that runs Pyro in another thread without pvae does not wait.

    Example:
        >>> @alone
        ... def double(x):
        ...     return 2 * x
        >>> double(2)
        4
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _working and _working[0] != threading.get_ident():
            warnings.warn(
                f"{function.__name__}() waits for another thread's call of pvae, because all "
                "threads share Pyro's handlers and torch's generator. Use processes for parallel "
                "work.",
                stacklevel=2,
            )
        with _lock:
            if _working:
                return function(*args, **kwargs)
            if not _PYRO_STACK:  # plates that an interrupted call of Pyro's own has left
                _DIM_ALLOCATOR._stack.clear()
            before = _state()
            try:
                _working.append(threading.get_ident())
                return function(*args, **kwargs)
            except BaseException:
                while True:
                    try:
                        _restore(before, [*args, *kwargs.values()])
                        break
                    except KeyboardInterrupt:  # restore first; one is being raised already
                        continue
                raise
            finally:
                _working.clear()

    return call


def _state() -> tuple[Any, ...]:
    """Returns the global state of Pyro and torch that handlers change."""
    enum = {**vars(_ENUM_ALLOCATOR)}
    if "dim_to_id" in enum:
        enum["dim_to_id"] = {**enum["dim_to_id"]}
    valid = [m.is_validation_enabled() for m in (dist, pyro.infer, poutine)]
    return [*_PYRO_STACK], [*_DIM_ALLOCATOR._stack], enum, valid, torch.is_grad_enabled()


def _restore(before: tuple[Any, ...], arguments: list[Any]) -> None:
    handlers, dims, enum, valid, grad = before
    _PYRO_STACK[:] = handlers
    _DIM_ALLOCATOR._stack[:] = dims
    vars(_ENUM_ALLOCATOR).update(enum)
    for module, enabled in zip((dist, pyro.infer, poutine), valid, strict=True):
        module.enable_validation(enabled)
    torch.set_grad_enabled(grad)
    if handlers:  # the call was made from within a program
        return
    for part in _parts(arguments):
        if isinstance(part, PyroModule):
            # It would remember the old parameters of a call that never ended.
            context = part._pyro_context
            context.active = 0
            context.cache.clear()


def _parts(arguments: list[Any]) -> Iterator[nn.Module]:
    """Yields every module of the programs among a call's arguments."""
    for each in arguments:
        programs = [each]
        for side in ("model", "guide"):
            with contextlib.suppress(Exception):  # a program's own __getattr__ may raise anything
                programs.append(getattr(each, side, None))
        for program in programs:
            if callable(program) and not isinstance(program, type):
                for module in modules(program, program).values():
                    yield from module.modules()
