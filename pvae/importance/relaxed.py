"""The relaxed value of a straight-through sample."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["with_noise"]


def with_noise(value: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns function(value), and keeps the relaxed value of a straight-through draw.

    Pyro's straight-through distributions return a discrete value. Their density is that of the
    relaxed value, an attribute of the discrete one, which operations lose.
    """
    out, relaxed = function(value), getattr(value, "_unquantize", None)
    if relaxed is not None:
        out._unquantize = function(relaxed)
    return out
