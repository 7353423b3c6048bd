"""Held: gradients of minibatches, added up until a step takes them."""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Held"]


class Held:
    """Adds up gradients of minibatches for one step of the optimiser."""

    def __init__(self) -> None:
        self._gradients: dict[int, tuple[Tensor, Tensor]] = {}
        self._used: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._gradients)

    def add(self, parameters: Iterable[Tensor], used: set[int], share: float) -> None:
        """Takes the gradients out of parameters and adds `share` of them to those it has.

        Args:
            parameters: All parameters; those without a gradient are passed over.
            used: Ids of the parameters that the programs registered in this step.
            share: A factor on the gradients.
        """
        for parameter in parameters:
            if (gradient := parameter.grad) is None:
                continue
            parameter.grad = None
            gradient = gradient if share == 1.0 else gradient * share
            if (held := self._gradients.get(id(parameter))) is not None:
                gradient = held[1] + gradient
            self._gradients[id(parameter)] = parameter, gradient
        self._used |= used

    def release(self) -> tuple[Tensor, set[int]]:
        """Puts the sums into the parameters; returns their norm, and which have been used."""
        for parameter, gradient in self._gradients.values():
            parameter.grad = gradient
        norm = torch.nn.utils.get_total_norm([g for _, g in self._gradients.values()])
        used = self._used
        self._gradients, self._used = {}, set()
        return norm, used

    def drop(self) -> None:
        """Forgets what it has."""
        self._gradients, self._used = {}, set()
