"""One call of a program at the means of its sites, in eval mode."""

import contextlib
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pvae.distributions import is_discrete
from pvae.pair import Arguments, Program, modules, opened, trace_program

__all__ = ["AtMeans", "centre_of", "given_to", "place_of", "trace_at_means"]


def place_of(*programs: Program) -> torch.device | None:
    """Returns the device of the programs' parameters."""
    found = modules(programs[0], programs[-1]).values()
    return next((p.device for module in found for p in module.parameters()), None)


def given_to(
    args: tuple[Any, ...], kwargs: dict[str, Any], *programs: Program
) -> tuple[tuple[Program, ...], tuple[Tensor, ...]]:
    """Returns programs of the batch alone, and the batch on the device of the parameters."""
    args, kwargs, programs = opened(args, kwargs, *programs)
    arguments, place = Arguments(args, kwargs), place_of(*programs)
    arguments = arguments if place is None else arguments.to(place)
    return arguments.bind(*programs), arguments.batch


class AtMeans(Messenger):
    """Sets every latent site to its mean while the program runs."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["value"] is None and not msg["is_observed"] and not site_is_subsample(msg):
            msg["value"] = centre_of(msg["fn"])


def centre_of(fn: Any) -> Tensor | None:
    """Returns the mean of a distribution, else its mode, else its transformed base's mean.

    Of a discrete one the mode comes first: the mean is not one of its values.
    """
    discrete, shape = is_discrete(fn), fn.batch_shape + fn.event_shape
    for name in ("mode", "mean") if discrete else ("mean", "mode"):
        with contextlib.suppress(NotImplementedError, AttributeError, RuntimeError):
            value = getattr(fn, name).expand(shape)
            if discrete and name == "mode":
                value = value.nan_to_num()  # torch has NaN where 0 and 1 are as probable
            if not value.isnan().any():
                return value
    value = centre_of(fn.base_dist) if hasattr(fn, "base_dist") else None
    if value is not None:
        for transform in getattr(fn, "transforms", ()):
            value = transform(value)
        return value.expand(shape)
    return None


def trace_at_means(guide: Program, batch: tuple[Tensor, ...]) -> Trace:
    with AtMeans():
        return trace_program("guide", guide, guide, batch)
