"""PyroRecipe: one torch optimiser from an optimiser of Pyro's, which makes one per parameter."""

from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from pyro.params.param_store import normalize_param_name
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from pvae.training.fused import fused

__all__ = ["PyroRecipe"]


class PyroRecipe:
    """Makes one torch optimiser, with a group of options for each parameter.

    Attributes:
        schedules: The schedulers of the groups, if `optim` has a schedule: one for the parameters
            that appeared in the same step.
        scheduled: Whether `optim` has a schedule.
    """

    def __init__(self, optim: PyroOptim) -> None:
        self._optim = optim
        self.schedules: list[LRScheduler] = []
        self.scheduled = isinstance(optim, PyroLRScheduler)
        self._clipped: list[tuple[Tensor, dict[str, float]]] = []

    def make(self, named: dict[str, Tensor]) -> torch.optim.Optimizer:
        """Returns an optimiser of named parameters."""
        options = self._options(next(iter(named)))
        extra = fused(self._optim.pt_optim_constructor, named.values(), options)
        return self._optim.pt_optim_constructor(self.groups(named), **options | extra)

    def groups(self, named: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Returns a group for each parameter; a schedule of these groups starts now."""
        self._clipped += [(p, clip) for n, p in named.items() if (clip := self._clip(n))]
        groups = [{"params": [p], **self._fused(n, p)} for n, p in named.items()]
        if groups and self.scheduled:
            owner = self._optim.pt_optim_constructor(groups, **self._options(next(iter(named))))
            owner._opt_called = True  # the optimiser of all groups steps these
            schedule = self._optim.pt_scheduler_constructor(owner, **self._optim.kwargs)
            self.schedules.append(schedule)
            # The user may call `step` of the Pyro optimiser, which looks here.
            self._optim.optim_objs[groups[0]["params"][0]] = schedule
        return groups

    def share(self, groups: list[dict[str, Any]]) -> None:
        """Lets the schedules act on groups that replace the old ones."""
        rest = iter(groups)
        for schedule in self.schedules:
            owner = schedule.optimizer
            owner.param_groups = [next(rest) for _ in owner.param_groups]

    def clip_gradients(self) -> None:
        """Clips each gradient as the options of its parameter say."""
        for parameter, clip in self._clipped:
            if parameter.grad is not None:
                self._optim._clip_grad(parameter, **clip)

    def _options(self, name: str) -> dict[str, Any]:
        options = self._optim.pt_optim_args
        if not callable(options):
            return options
        if self._optim.pt_optim_args_argc == 1:
            return options(normalize_param_name(name))
        return options(*_pieces(name))

    def _fused(self, name: str, parameter: Tensor) -> dict[str, Any]:
        options = self._options(name)
        return options | fused(self._optim.pt_optim_constructor, [parameter], options)

    def _clip(self, name: str) -> dict[str, float]:
        clip = self._optim.pt_clip_args
        return clip(*_pieces(name)) if callable(clip) else clip


def _pieces(name: str) -> tuple[str, str]:
    module, _, parameter = name.rpartition(".")
    return module, parameter
