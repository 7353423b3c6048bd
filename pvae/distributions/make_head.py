"""Likelihood heads by name."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal, get_args

import pvae.distributions.heads as heads
from pvae.distributions.head import Head
from pvae.errors import PvaeError

__all__ = ["Likelihood", "make_head"]

Likelihood = Literal[
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "binomial",
    "discretized_logistic",
    "logistic_mixture",
    "softmax",
    "categorical",
    "poisson",
    "negative_binomial",
    "zero_inflated_poisson",
    "zero_inflated_negative_binomial",
]


def make_head(
    likelihood: Likelihood | Head,
    event_shape: Sequence[int],
    scale: heads.Scale | None = None,
    levels: int | None = None,
    num_mixtures: int | None = None,
) -> Head:
    """Makes the head of a model from a name or from a head.

    Args:
        likelihood: A head, or the name of one, such as `"zero_inflated_poisson"`.
        event_shape: Shape of one datum.
        scale: With the name of a `Gaussian` (default 1) or `DiscretizedLogistic` (default
            "network"): s, a number, "learned" or "network". Other names ignore it.
        levels: With the name of a `Binomial`, `DiscretizedLogistic` or `LogisticMixture`: the
            number of grey levels (default 256). Other names ignore it.
        num_mixtures: With the name of a `LogisticMixture`: its components (default 5). Other names
            ignore it.

    Returns:
        A new head for data of this shape.

    Raises:
        PvaeError: If the name or an option is not valid, or an option is given with a head.

    Example:
        >>> make_head("gaussian", (1, 8, 8), scale="network").out_shape
        (2, 1, 8, 8)
    """
    options = {"scale": scale, "levels": levels, "num_mixtures": num_mixtures}
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(likelihood, Head):
        if given:
            name, value = next(iter(given.items()))
            raise PvaeError(
                f"{name}={value!r} is an option for a likelihood that is given by name. Give it to "
                f"the head: likelihood={type(likelihood).__name__}({name}={value!r})."
            )
        return likelihood.sized(event_shape)
    if likelihood not in get_args(Likelihood):
        raise PvaeError(
            f"likelihood={likelihood!r} is not valid: give {', '.join(get_args(Likelihood))}, or "
            "your own head, an object of a subclass of pvae.distributions.Head."
        )
    kind: Any = getattr(heads, likelihood.title().replace("_", ""))
    taken = inspect.signature(kind).parameters
    return kind(**{name: given[name] for name in given if name in taken}).sized(event_shape)
