"""Optimiser: one torch optimiser for a pair, whose parameters appear when they are used."""

import contextlib
import inspect
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pvae.errors import PvaeError, first_line
from pvae.training.fused import fused, step_adam
from pvae.training.optimiser_state import TECHNICAL, restore, state_of
from pvae.training.pyro_recipe import PyroRecipe
from pvae.training.schedule import MakeScheduler, start_scheduler

__all__ = ["MakeOptimizer", "Optimiser"]

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer | LRScheduler]


class Optimiser:
    """Steps a growing set of named parameters.

    Args:
        optim: A class of `torch.optim` or a `functools.partial` of one (called with the
            parameters), an optimiser of `torch.optim` already made or one of its
            learning-rate schedulers, an optimiser of `pyro.optim`, or `None` for Adam.
        lr: Learning rate, nats⁻¹; used if `optim` is `None` or a bare class.
        schedule: Makes a scheduler of torch's for the optimiser, or None.

    Attributes:
        names: Names of the parameters, by id.
        parameters: The parameters, in the order in which they appeared.

    Raises:
        PvaeError: If `optim` is none of these.
    """

    def __init__(
        self,
        optim: MakeOptimizer | PyroOptim | torch.optim.Optimizer | LRScheduler | None = None,
        lr: float = 1e-3,
        schedule: MakeScheduler | None = None,
    ) -> None:
        self._schedules: list[LRScheduler] = []
        self._start = schedule
        optim = self._without_schedule(optim)
        self._recipe = PyroRecipe(optim) if isinstance(optim, PyroOptim) else None
        if self._recipe is not None:
            self._schedules = self._recipe.schedules
        self._torch = optim if isinstance(optim, torch.optim.Optimizer) else None
        if not (optim is None or self._torch or callable(optim)):
            raise PvaeError(
                f"optim={optim!r} is not valid: give a class of torch.optim (or a "
                "functools.partial of one), an optimiser or a scheduler of torch.optim, or an "
                "optimiser of pyro.optim."
            )
        if optim is None or isinstance(optim, type):
            make = optim or torch.optim.Adam
            optim = lambda parameters: make(parameters, lr=lr, **fused(make, parameters))  # noqa: E731
        self._optim = optim
        self.names: dict[int, str] = {}
        self.parameters: list[Tensor] = []
        self._moved: set[int] = set()
        self._idle: list[dict[str, Any]] = []
        self._begun = 0
        self._rates: list[Tensor] = []
        self._sent: list[float] = []

    @property
    def scheduled(self) -> bool:
        """Whether the optimiser has its own learning-rate schedule."""
        own = self._recipe is not None and self._recipe.scheduled
        return bool(self._schedules) or own or self._start is not None

    def _without_schedule(self, optim: Any) -> Any:
        """Returns the optimiser of a scheduler, and keeps the scheduler."""
        if not isinstance(optim, LRScheduler):
            return optim
        self._schedules.append(optim)
        return optim.optimizer

    def add(self, named: dict[str, Tensor]) -> None:
        """Adds parameters that are new."""
        new = {n: p for n, p in named.items() if id(p) not in self.names and p.requires_grad}
        if not new:
            return
        if made := next((n for n, p in new.items() if p.is_inference()), None):
            raise PvaeError(
                f"{made} was made in torch.inference_mode, so that it has no gradient. Build the "
                "pair outside of torch.inference_mode."
            )
        if self._torch is None:
            self._torch = self._make(new)
        else:
            known = {id(p) for group in self._torch.param_groups for p in group["params"]}
            rest = {n: p for n, p in new.items() if id(p) not in known}
            if rest and self._torch is self._optim:
                raise PvaeError(
                    f"The optimiser does not hold these parameters of the pair: {', '.join(rest)}. "
                    "Pass the class, as in optim=torch.optim.Adam, or a functools.partial of it: "
                    "pvae gives it every parameter that the pair uses."
                )
            if self._recipe is not None:
                groups = self._recipe.groups(rest)
            else:
                groups = [{"params": list(rest.values())}] if rest else []
            for group in groups:
                self._torch.add_param_group(group)
        self.names.update({id(p): n for n, p in new.items()})
        self.parameters += new.values()
        if self._start is not None:
            self._refuse_two_schedules()
            self._schedules.append(start_scheduler(self._start, self._torch))
            self._start = None

    def _refuse_two_schedules(self) -> None:
        if self._schedules or (self._recipe is not None and self._recipe.scheduled):
            raise PvaeError(
                "The optimiser has its own learning-rate schedule, and schedule is another one. "
                "Give one of them."
            )

    def _make(self, named: dict[str, Tensor]) -> torch.optim.Optimizer:
        if self._recipe is not None:
            made = self._recipe.make(named)
        else:
            made = self._without_schedule(self._optim(list(named.values())))
        if isinstance(made, torch.optim.SparseAdam):
            raise PvaeError(
                "SparseAdam takes only sparse gradients, and the pair's are dense. Use Adam, which "
                "also updates embeddings with sparse=True."
            )
        closure = inspect.signature(type(made).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise PvaeError(
                f"{type(made).__name__} evaluates the loss several times in a step, but each "
                "evaluation has other noise. Use Adam, SGD or another first-order optimiser."
            )
        return made

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups, whose `"lr"` a schedule sets."""
        return [] if self._torch is None else self._torch.param_groups

    @property
    def settings(self) -> dict[str, Any]:
        """Class, options and schedule of the optimiser, before its first step.

        An option that differs between groups is a list.
        """
        if not self.groups:
            return {}
        found = {"optimiser": type(self._torch).__name__}
        for name in self.groups[0].keys() - TECHNICAL:
            values = [_plain_option(group.get(name)) for group in self.groups]
            same = all(value == values[0] for value in values)
            found[name if name == "lr" else f"optimiser.{name}"] = values[0] if same else values
        if self._schedules:
            schedule = self._schedules[0]
            found["optimiser.schedule"] = type(schedule).__name__
            options = {n: v for n, v in state_of(schedule).items() if n[:1] != "_"}
            found |= {f"optimiser.schedule.{name}": value for name, value in options.items()}
        return found

    def set_lr(self, factor: float) -> None:
        """Sets every group's learning rate to its initial rate times `factor`.

        The initial rate is that of the first call, with the changes that the optimiser itself
        makes in its steps, such as the decay of Pyro's ClippedAdam. If the optimiser has its own
        schedule, this does nothing.
        """
        if self.scheduled:
            return
        groups = self.groups
        for group in groups[self._begun :]:
            group["initial_lr"] = float(group["lr"])
        self._begun = len(groups)
        for group in groups:
            group["lr"] = group["initial_lr"] * factor

    @property
    def can_mask(self) -> bool:
        """Whether `step` takes `good`, as fused optimisers do."""
        return bool(getattr(self._torch, "_step_supports_amp_scaling", False))

    @property
    def constants(self) -> list[Any] | None:
        """Settings that are constant in a captured step; None if a step cannot be captured.

        Fused optimisers with an option `capturable` can, after their first step. Learning rates
        may change.
        """
        if not self.can_mask or not all("capturable" in g for g in self.groups):
            return None
        state = self._torch.state
        if not all(state.get(p) for p in self.parameters):
            return None
        free = ("params", "lr", "initial_lr", "capturable")
        settings = [[v for k, v in g.items() if k not in free] for g in self.groups]
        return [id(state), [len(g["params"]) for g in self.groups], settings]

    @property
    def memory(self) -> list[Tensor]:
        """The tensors that a step changes, except the parameters."""
        states = self._torch.state.values()
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        """Makes steps in this context read the learning rates that `send_lr` has sent."""
        kept = [(g["lr"], g["capturable"]) for g in self.groups]
        try:
            for group, rate in zip(self.groups, self._rates, strict=True):
                group.update(lr=rate, capturable=True)
            yield
        finally:
            for group, (lr, capturable) in zip(self.groups, kept, strict=True):
                group.update(lr=lr, capturable=capturable)

    def send_lr(self) -> None:
        """Sends the learning rates to the device, if they have changed."""
        rates = [float(g["lr"]) for g in self.groups]
        if rates == self._sent:
            return
        while len(self._rates) < len(rates):
            self._rates.append(torch.zeros((), device=self.parameters[0].device))
        for tensor, rate in zip(self._rates, rates, strict=True):
            tensor.fill_(rate)
        self._sent = rates

    def step(self, good: Tensor | None = None) -> None:
        """Updates the parameters from their gradients.

        Args:
            good: Whether to update, a truth value on the device; only if `can_mask`.
        """
        rates = [(group, group["lr"]) for group in self.groups[: self._begun]]
        idle = [(group, group["lr"]) for group in self._idle]
        if self._recipe is not None:
            self._recipe.clip_gradients()
        if self._torch is not None:
            # torch's gradient scaler sets it after an overflow.
            self._torch.found_inf = None if good is None else (~good).float()
            if good is not None or not step_adam(self._torch):
                self._torch.step()
        for group, rate in idle:  # Pyro does not step these: ClippedAdam would decay their rate
            group["lr"] = rate
        for group, rate in rates:
            if group["lr"] is not rate and group["lr"] != rate and rate:
                group["initial_lr"] = float(group["lr"]) * (group["initial_lr"] / rate)

    def end_epoch(self, loss: float | None) -> None:
        """Steps the optimiser's own schedule, if it has one.

        Args:
            loss: For `ReduceLROnPlateau`; None does not step it.
        """
        for schedule in self._schedules:
            if not isinstance(schedule, ReduceLROnPlateau):
                schedule.step()
            elif loss is not None:
                schedule.step(loss)

    def fill(self, used: Container[int]) -> None:
        """Gives used parameters without a gradient a gradient of zeros, as Pyro does.

        It does so after a parameter's first gradient, so that momentum goes on. Frozen parameters
        do not move.

        Args:
            used: Ids of the parameters that the programs registered in this step.
        """
        if self._recipe is not None:
            self._idle = [g for g in self.groups if id(g["params"][0]) not in used]
        for parameter in self.parameters:
            if parameter.grad is not None:
                self._moved.add(id(parameter))
            elif (
                id(parameter) in used
                and parameter.requires_grad
                and (id(parameter) in self._moved or self._torch.state.get(parameter))
            ):
                parameter.grad = torch.zeros_like(parameter)

    def zero_grad(self) -> None:
        """Drops every gradient."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimiser's state."""
        if self._torch is None:
            return {}
        schedules = list(map(state_of, self._schedules))
        return self._torch.state_dict() | ({"schedule": schedules} if schedules else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state of `state_dict` for the same parameters.

        Raises:
            PvaeError: If it is the state of another optimiser.
        """
        try:
            self._load(state)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise PvaeError(
                f"The saved state is not that of this optimiser ({type(error).__name__}: "
                f"{first_line(error)[:200]}). Give the optimiser that the run was started with."
            ) from error
        self._begun = len(self.groups) if self._begun else 0

    def _load(self, state: dict[str, Any]) -> None:
        if self._torch is None:
            return
        if "param_groups" not in state:
            raise ValueError("an older pvae saved it, with a state for each parameter")
        restore(self._torch, {k: v for k, v in state.items() if k != "schedule"})
        if self._recipe is not None:  # loading has made new groups
            self._recipe.share(self._torch.param_groups)
        saved = state.get("schedule", [])
        saved = [saved] if isinstance(saved, dict) else saved  # as in older checkpoints
        for schedule, each in zip(self._schedules, saved, strict=True):
            schedule.load_state_dict(each)


def _plain_option(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
