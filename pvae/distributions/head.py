"""The base class of likelihood heads."""

import copy
import math
from collections.abc import Sequence
from typing import Self

import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import constraints

from pvae.errors import PvaeError

__all__ = ["Head"]


class Head(PyroModule):
    r"""Turns the output f of a decoder into p(x|z). Base class of the heads.

    Your own head overrides `forward`, and `out_shape`, `support` and `bias` if they differ from
    those here. Every model with a decoder takes it: `VAE(event_shape, likelihood=MyHead())`, or
    `--model.likelihood my_file.py:MyHead` in the shell.

    Attributes:
        event_shape: Shape of one datum, which `sized` sets.
        support: The values that x can take.

    Example:
        >>> import torch
        >>> class Laplace(Head):
        ...     def forward(self, f):
        ...         return dist.Laplace(f, 0.5).to_event(self.event_dim)
        >>> Laplace().sized((1, 8, 8))(torch.zeros(5, 1, 8, 8)).event_shape
        torch.Size([1, 8, 8])
    """

    event_shape: tuple[int, ...] = ()
    support: constraints.Constraint = constraints.real

    def __init__(self) -> None:  # without PyroModule's argument `name`
        super().__init__()

    def sized(self, event_shape: Sequence[int]) -> Self:
        """Returns a copy of this head for data of one shape.

        A head with parameters that depend on the shape makes them here.

        Raises:
            PvaeError: If the head's own constructor left out `super().__init__()`.
        """
        if "_modules" not in vars(self):
            raise PvaeError(
                f"The head {type(self).__name__} is not complete: its __init__ does not call "
                "super().__init__(). Call it there first."
            )
        head = copy.deepcopy(self)
        head.event_shape = tuple(event_shape)
        return head

    @property
    def event_dim(self) -> int:
        """Number of dimensions of one datum."""
        return len(self.event_shape)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of f for one datum."""
        return self.event_shape

    def forward(self, f: Tensor) -> dist.Distribution:
        """Returns p(x|z), [...] with events of `event_shape`, for f [..., *out_shape]."""
        raise NotImplementedError

    def bias(self, x: Tensor) -> Tensor | None:
        """Returns the f at which p(x|z) has the mean of the data x [N, *event_shape].

        With several outputs for each value, f is the first one. None leaves the decoder unchanged.
        """
        return None

    def shaped(self, f: Tensor, batch_shape: Sequence[int]) -> Tensor:
        """Returns f as [..., *out_shape]; a decoder may have flattened it.

        Raises:
            PvaeError: If f has the wrong number of values.
        """
        if f.shape[max(0, f.ndim - len(self.out_shape)) :] == self.out_shape:
            return f
        shape = (*batch_shape, *self.out_shape)
        if f.numel() != math.prod(shape):
            raise PvaeError(
                f"The decoder gives a tensor of shape {tuple(f.shape)}, but {type(self).__name__} "
                f"for data of shape {self.event_shape} needs {shape}. Make the decoder's last "
                f"layer give {self.out_shape} for each datum."
            )
        return f.reshape(shape)
