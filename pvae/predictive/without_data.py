"""Runs a model without data: on a size alone, or on a batch whose observations are taken away."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pvae.errors import PvaeError, first_line, text_of
from pvae.pair import (
    Bounded,
    Program,
    latent_sites,
    name_of,
    opened,
    runs_together,
    signature_of,
    trace_of,
    trace_program,
    with_densities,
)
from pvae.predictive.at_means import given_to, place_of
from pvae.runtime import is_out_of_memory

__all__ = ["drawn", "one_label", "refuse_reading", "run_without_data"]


@contextlib.contextmanager
def one_label(model: Program, batch: tuple[Tensor, ...]) -> Iterator[None]:
    """Explains why a model that only runs under enumeration has no mean."""
    try:
        yield
    except PvaeError as error:
        if _runs(model, batch) or not runs_together(model, batch):
            raise
        raise PvaeError(
            f"The model {name_of(model)} runs for all values of its discrete sites at once only, "
            "under enumeration, so that it has no mean for one of them. Let its networks take one "
            "label for each datum too (a repeat by the number of labels does not); evaluation and "
            f"training do without. With one label for each datum: {error}"
        ) from error


def _runs(model: Program, batch: tuple[Tensor, ...]) -> bool:
    try:
        trace_program("model", model, model, batch)
    except PvaeError:
        return False
    return True


def run_without_data(
    model: Program, size: int, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> Trace:
    """Runs a model on n data that it draws itself, given the other fields of a batch."""
    args, kwargs, (model,) = opened(args, kwargs or {}, model)
    _refuse_unknown(model, kwargs)
    try:
        bounded = Bounded()(model)
        given = _given(model, size, args) | kwargs
        return with_densities(poutine.trace(bounded).get_trace(size=size, **given))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        without = error
    if not args and not kwargs:
        return _run_on_stand_ins(model, size, without)
    if not args:
        _explain(model, size, kwargs, without)
    (bound,), batch = given_to(args, kwargs, model)
    batch = tuple(_repeated(tensor, size) for tensor in batch)
    with one_label(bound, batch):
        trace = trace_program("model", model, poutine.uncondition(bound), batch)
    refuse_reading(model, bound, trace, batch)
    return trace


def _refuse_unknown(model: Program, kwargs: dict[str, Any]) -> None:
    """Raises a PvaeError if the model takes no argument of a given name."""
    signature = signature_of(model)
    if signature is None:
        return
    taken = signature.parameters
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return
    for name in kwargs:
        if name not in taken:
            own = [each for each in taken if each not in ("x", "size")]
            what = f"it takes {', '.join(own)}" if own else "nothing can be given to it"
            raise PvaeError(f"The model {name_of(model)} takes no {name!r}: {what}.")


def _explain(model: Program, size: int, kwargs: dict[str, Any], error: Exception) -> None:
    """Raises a PvaeError if a model failed on what it was given by name alone."""
    for name, value in kwargs.items():
        if isinstance(value, Tensor) and value.ndim and len(value) not in (1, size):
            raise PvaeError(
                f"{name} has {len(value)} rows, and {size} samples were asked for: give a row for "
                f"each of them. (The model failed with {_in_a_line(error)})"
            ) from error
    if isinstance(error, PvaeError):  # what is given is refused
        raise PvaeError(_in_a_line(error)) from error
    if not any(isinstance(value, Tensor) and value.ndim for value in kwargs.values()):
        given = ", ".join(f"{name}={value!r}" for name, value in kwargs.items())
        raise PvaeError(
            f"The model {name_of(model)} does not run on {given} alone ({_in_a_line(error)}). What "
            f"differs between samples is a tensor with a row for each of the {size}, such as "
            f"y=torch.full(({size},), 3); a model that reads its data needs some after the size."
        ) from error


def _in_a_line(error: Exception) -> str:
    """An error's text without the table of shapes that Pyro appends."""
    text = " ".join(text_of(error).partition("Trace Shapes:")[0].split())
    return text if isinstance(error, PvaeError) else f"{type(error).__name__}: {text}"


def _given(model: Program, size: int, args: tuple[Any, ...]) -> dict[str, Any]:
    """Returns the fields of a batch after the first, n rows, by the names of the arguments."""
    signature, place = signature_of(model), place_of(model)
    if signature is None or not args:
        return {}
    given = dict(zip([*signature.parameters][1 : len(args)], args[1:], strict=False))
    num = len(args[0]) if isinstance(args[0], Tensor) and args[0].ndim else 0
    return {
        name: _repeated(value if place is None else value.to(place), size)
        if isinstance(value, Tensor) and value.ndim and len(value) == num
        else value
        for name, value in given.items()
    }


def _repeated(tensor: Tensor, size: int) -> Tensor:
    return tensor[torch.arange(size, device=tensor.device) % len(tensor)]


def _run_on_stand_ins(model: Program, size: int, without: Exception) -> Trace:
    """Runs a model without its observations, on arguments that only tell n."""
    forward = model.forward if isinstance(model, nn.Module) else model
    try:
        given = inspect.signature(forward).parameters.values()
        count = sum(p.default is p.empty and p.kind < p.VAR_POSITIONAL for p in given)
        stand_ins = [_StandIn.of(size) for _ in range(count)]
        bounded = Bounded()(poutine.uncondition(model))
        return poutine.trace(bounded).get_trace(*stand_ins)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(without, PvaeError):  # what the model needs
            raise without from None
        raise PvaeError(
            f"The model {name_of(model)} cannot generate: model(size=n) raised "
            f"{type(without).__name__}: {first_line(without)}. Hand in some data after the size, "
            "generate(model, n, x), to have its observations taken away; or give it x=None and "
            "size as arguments."
        ) from without


class _StandIn(Tensor):
    """A tensor that only tells its number of data; reading anything else fails."""

    @classmethod
    def of(cls, size: int) -> "_StandIn":
        return torch.full((size,), torch.nan).as_subclass(cls)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = Tensor.__len__, Tensor.shape.__get__, Tensor.device.__get__, Tensor.dtype.__get__
        first = func == Tensor.size and args[1:] in ((), (0,))
        if not first and func not in (*known, Tensor.new_zeros, Tensor.new_ones):
            raise PvaeError("the model reads its arguments")
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        return _Sizes(len(args[0])) if isinstance(found, torch.Size) else found


class _Sizes:
    """The shape of a stand-in: only its first size is known."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __getitem__(self, index: Any) -> int:
        if index != 0:
            raise PvaeError("the model reads the shape of its arguments")
        return self._first


def refuse_reading(model: Program, bound: Program, trace: Trace, batch: tuple[Tensor, ...]) -> None:
    """Raises a PvaeError if an observed site's density depends on the observed data.

    Such a model has to draw one value after the other. With its observations taken away it would
    still read the batch.
    """
    for name, site in drawn(trace).items():
        old = site["infer"].get("obs")
        if not isinstance(old, Tensor) or not old.numel():
            continue
        other, value = list(batch), site["value"]
        for i, tensor in enumerate(batch):
            if tensor.numel() == old.numel() == value.numel() and torch.equal(
                tensor.reshape(old.shape).to(old.dtype), old
            ):
                other[i] = value.reshape(tensor.shape).to(tensor.dtype)
        if all(a is b for a, b in zip(other, batch, strict=True)):
            continue
        values = trace_of({n: s["value"] for n, s in drawn(trace).items()})
        replayed = poutine.replay(poutine.uncondition(bound), trace=values)
        again = trace_program("model", model, replayed, tuple(other)).nodes[name]
        ours, theirs = (n["fn"].log_prob(value) for n in (site, again))
        if not torch.allclose(ours, theirs, 1e-3, 1e-3, equal_nan=True):
            raise PvaeError(
                f"The model {name_of(model)} cannot generate: the density of site {name!r} changes "
                "with the data that it observes, as that of an autoregressive decoder does. Give "
                "the model x=None and size as arguments, and let it draw one value after the other."
            )


def drawn(trace: Trace) -> dict[str, dict[str, Any]]:
    """Returns the sites that a model drew, without `pyro.deterministic` ones."""
    sites = latent_sites(trace).items()
    return {name: site for name, site in sites if not site["infer"].get("_deterministic")}
