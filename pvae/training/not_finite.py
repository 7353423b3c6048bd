"""Finds the parameter or site that made a loss or a gradient not finite."""

import functools
import math
from typing import Any

import pyro
import torch
from torch import Tensor

from pvae.distributions import log_prob
from pvae.errors import PvaeError
from pvae.pair import OwnParameters, Program, latent_sites, observed_sites, trace_guide, trace_model
from pvae.training.optimiser import Optimiser

__all__ = ["NotFiniteError", "what_is_not_finite"]


class NotFiniteError(PvaeError):
    """A loss or a gradient is not finite.

    Attributes:
        steps_ago: Number of steps after the failed one; they changed nothing.
    """

    steps_ago = 0


def what_is_not_finite(
    model: Program,
    guide: Program,
    own: OwnParameters,
    optim: Optimiser,
    loss: float,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> str:
    """Runs a pair again, from the present random state, and says what is not finite.

    Args:
        model: Pyro program.
        guide: Pyro program.
        own: Keeps their parameters.
        optim: Has the parameters' names.
        loss: The step's loss.
        args: Arguments of the programs.
        kwargs: Arguments by name.
    """
    head = f"The loss is {loss}" if not math.isfinite(loss) else "The gradient is not finite"
    sick = [optim.names[id(p)] for p in optim.parameters if not p.isfinite().all()]
    if sick:
        return f"{head}: parameter {sick[0]} holds NaN or infinite values."
    with own, torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = trace_guide(functools.partial(guide, **kwargs), *args)
        model_trace = trace_model(functools.partial(model, **kwargs), guide_trace, *args)
    for role, sites in (
        ("guide", latent_sites(guide_trace)),
        ("model", {**latent_sites(model_trace), **observed_sites(model_trace)}),
    ):
        for name, site in sites.items():
            for what, value in (
                ("value", site["value"]),
                ("log density", log_prob(site["fn"], site["value"], observed=site["is_observed"])),
            ):
                if not _finite(value):
                    return (
                        f"{head}: the {what} of site {name!r} in the {role} is not finite "
                        f"(its distribution: {_parameters(site['fn'])})."
                    )
    return (
        f"{head}, but every site's log density is: a derivative overflows, for example that of "
        "sqrt or of a scale at zero. Bound the scales away from zero, or lower the learning rate."
    )


def _finite(value: Tensor) -> bool:
    return bool(torch.as_tensor(value).isfinite().all())


def _parameters(fn: Any) -> str:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    parts = [
        f"{name} between {value.min().item():g} and {value.max().item():g}"
        for name, value in vars(fn).items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    ]
    return f"{type(fn).__name__}, {', '.join(parts)}" if parts else type(fn).__name__
