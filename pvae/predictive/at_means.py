"""One call of a program at the means of its sites, in eval mode."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pvae.distributions import is_discrete
from pvae.pair import Arguments, Program, modules, opened, trace_program

__all__ = ["AtMeans", "Rule", "centre_of", "given_to", "place_of", "rule_of", "trace_at_means"]

Rule = Callable[[Any], Tensor]


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
    """Sets every latent site to its mean while the program runs.

    Args:
        rules: How to compute the mean of some sites, by name; see `rule_of`. For the others the
            rule is found from their distribution's values.
    """

    def __init__(self, rules: Mapping[str, Rule] | None = None) -> None:
        super().__init__()
        self.rules = rules or {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["value"] is None and not msg["is_observed"] and not site_is_subsample(msg):
            rule = self.rules.get(msg["name"]) or rule_of(msg["fn"])
            msg["value"] = None if rule is None else rule(msg["fn"])


def rule_of(fn: Any) -> Rule | None:
    """Returns a function of a distribution that computes its mean; None if it has none.

    That is the mean, else the mode, else the mean of the base carried through the transforms. Of a
    discrete distribution the mode comes first: the mean is not one of its values.
    """
    for rule in (_mode, _mean) if is_discrete(fn) else (_mean, _mode):
        with contextlib.suppress(NotImplementedError, AttributeError, RuntimeError):
            if not rule(fn).isnan().any():
                return rule
    inner = rule_of(fn.base_dist) if hasattr(fn, "base_dist") else None
    return None if inner is None else functools.partial(_transformed, inner)


def _mean(fn: Any) -> Tensor:
    return fn.mean.expand(fn.batch_shape + fn.event_shape)


def _mode(fn: Any) -> Tensor:
    value = fn.mode.expand(fn.batch_shape + fn.event_shape)
    # torch has NaN where 0 and 1 are as probable.
    return value.nan_to_num() if is_discrete(fn) else value


def _transformed(inner: Rule, fn: Any) -> Tensor:
    value = inner(fn.base_dist)
    for transform in getattr(fn, "transforms", ()):
        value = transform(value)
    return value.expand(fn.batch_shape + fn.event_shape)


def centre_of(fn: Any) -> Tensor | None:
    """Returns the mean of a distribution as `rule_of` computes it; None if it has none."""
    rule = rule_of(fn)
    return None if rule is None else rule(fn)


def trace_at_means(guide: Program, batch: tuple[Tensor, ...]) -> Trace:
    with AtMeans():
        return trace_program("guide", guide, guide, batch)
