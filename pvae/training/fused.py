"""The fused step of torch's optimisers: one kernel for all parameters of a group."""

import inspect
from collections.abc import Container, Iterable
from typing import Any

from torch import Tensor

__all__ = ["fused"]


def fused(make: Any, parameters: Iterable[Tensor], given: Container[str] = ()) -> dict[str, bool]:
    """Returns `{"fused": True}` if an optimiser takes it for these parameters.

    Args:
        make: Class of the optimiser.
        parameters: Its parameters.
        given: Names of options that the user chose. A choice of `foreach`, `fused`, `capturable`
            or `differentiable` is kept.
    """
    if any(name in given for name in ("foreach", "fused", "capturable", "differentiable")):
        return {}
    able = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return {"fused": True} if able and "fused" in inspect.signature(make).parameters else {}
