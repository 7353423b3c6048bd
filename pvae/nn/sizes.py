"""Checks of the sizes and numbers that a model or a guide is given."""

import math
from collections.abc import Sequence

from pvae.errors import PvaeError

__all__ = ["at_least_one", "check_layers", "positive"]


def at_least_one(**sizes: int) -> None:
    """Raises a PvaeError that names the first size below one.

    Example:
        >>> at_least_one(latent_dim=20, num_steps=2)
    """
    for name, value in sizes.items():
        if value < 1:
            raise PvaeError(f"{name}={value}: it must be at least 1.")


def positive(**numbers: float) -> None:
    """Raises a PvaeError that names the first number that is not positive and finite.

    Example:
        >>> positive(temperature=0.5)
    """
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise PvaeError(f"{name}={value} is not valid: give a finite positive number.")


def check_layers(
    latent_dims: Sequence[int], hidden_dims: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Returns the sizes of a chain of codes and of its networks as tuples with an entry per layer.

    Raises:
        PvaeError: If there is no layer, a code has no dimension, or the lengths differ.

    Example:
        >>> check_layers([4, 2], [[16], [8]])
        ((4, 2), ((16,), (8,)))
    """
    latent_dims, hidden_dims = tuple(latent_dims), tuple(map(tuple, hidden_dims))
    if not latent_dims or len(hidden_dims) != len(latent_dims) or min(latent_dims) < 1:
        raise PvaeError(
            f"latent_dims={latent_dims}, hidden_dims={hidden_dims}: give a positive size for "
            "each layer, at least one, and for each its hidden widths, as in "
            "latent_dims=(100, 50), hidden_dims=((200, 200), (100, 100))."
        )
    return latent_dims, hidden_dims
