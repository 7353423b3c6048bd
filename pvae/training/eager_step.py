"""EagerGradient: the gradient of a pair's loss, computed by Pyro."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pvae.errors import PvaeError
from pvae.objectives import LatentScale
from pvae.pair import Bounded, OwnParameters, Program, arose_in_programs, check_tensor, look
from pvae.runtime import Precision, check_precision, in_precision, is_out_of_memory
from pvae.training.optimiser import Optimiser
from pvae.training.warn import warn

__all__ = ["EagerGradient", "Gradient"]

Gradient = tuple[Tensor, Tensor]
"""A loss and the norm of its gradient, which is in the parameters' `grad`."""


class EagerGradient:
    """Computes the gradient of a pair's loss with Pyro, and gives its parameters to `optim`."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        loss: ELBO,
        own: OwnParameters,
        optim: Optimiser,
        precision: Precision,
    ) -> None:
        self.model, self.guide, self.loss = model, guide, loss
        self.own, self.optim, self.precision = own, optim, precision
        self._looked_for_strays = False

    def __call__(self, weight: float | Tensor | None, args: Any, kwargs: Any) -> Gradient:
        """Leaves the gradient under a KL weight in the parameters; returns loss and norm.

        Raises:
            PvaeError: If the arguments or the pair's structure are wrong, or the loss depends on
                no parameter. What the programs raise themselves passes through, as in Pyro.
        """
        self.own.used = set()
        with self.own, self.context(weight):
            try:
                loss = self.loss.loss_and_grads(self.model, self.guide, *args, **kwargs)
            except Exception as error:
                self._explain(error, args, kwargs)
                raise
        trained = (p for p in self.own.parameters.values() if p.requires_grad)
        if not all(id(p) in self.optim.names for p in trained):
            self.take_up_parameters()
        if not self._looked_for_strays:
            self._looked_for_strays = True
            self._warn_of_strays()
        for parameter in self.optim.parameters:
            # Embeddings with sparse=True have such gradients, and few optimisers take them.
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
        gradients = [p.grad for p in self.optim.parameters if p.grad is not None]
        if not gradients:
            raise PvaeError(
                "The pair has no parameter that the loss depends on. Make the programs "
                "PyroModules, call pyro.module(name, network) in them, or use pyro.param."
            )
        return loss, torch.nn.utils.get_total_norm(gradients)

    @contextlib.contextmanager
    def context(self, weight: float | Tensor | None) -> Iterator[None]:
        """Sets the KL weight and the precision of a step."""
        scaled = contextlib.nullcontext() if weight is None else LatentScale(weight)
        with Bounded(), scaled, in_precision(self.precision):
            yield

    def take_up_parameters(self) -> None:
        """Gives the parameters that the pair has used to the optimiser."""
        self.optim.add(self.own.parameters)
        for device in {parameter.device for parameter in self.optim.parameters}:
            check_precision(self.precision, device)

    def _explain(self, error: Exception, args: Any, kwargs: Any) -> None:
        """Raises a PvaeError if the arguments or the pair's structure caused an error."""
        for i, value in enumerate((*args, *kwargs.values())):
            if isinstance(value, Tensor):
                check_tensor(f"Argument {i} of the step", value)
        if isinstance(error, PvaeError) or is_out_of_memory(error) or arose_in_programs(error):
            return
        try:
            look(self.model, self.guide, *args, **kwargs)
        except PvaeError as found:
            raise found from error

    def _warn_of_strays(self) -> None:
        strays = [
            f"{path}.{name}"
            for path, module in self.own.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None and id(parameter) not in self.optim.names
        ]
        if strays:
            more = f" and {len(strays) - 3} more" if len(strays) > 3 else ""
            warn(
                "These parameters have a gradient but are not trained, as in Pyro, because no "
                f"program registers them: {', '.join(strays[:3])}{more}. Call "
                "pyro.module(name, network) in the program, or make it a PyroModule."
            )
