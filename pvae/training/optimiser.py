"""One face for torch's optimisers and Pyro's, over parameters that appear as they are used."""

import contextlib
import inspect
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from pyro.params.param_store import normalize_param_name
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pvae.errors import PvaeError, first_line

__all__ = ["MakeOptimizer", "Optimiser"]

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer | LRScheduler]

# Of a group's options, those that say how a step is computed and not which one it is.
_TECHNICAL = {"params", "initial_lr", "fused", "foreach", "capturable", "differentiable"}


class Optimiser:
    """Steps a growing set of named parameters.

    Args:
        optim: A class of `torch.optim` or a `functools.partial` of one (called with the
            parameters), an optimiser of `torch.optim` already made or one of its
            learning-rate schedulers, an optimiser of `pyro.optim`, or `None` for Adam.
        lr: Learning rate, nats⁻¹; used where `optim` is `None` or a bare class.

    Raises:
        PvaeError: If `optim` is none of these.
    """

    def __init__(
        self,
        optim: MakeOptimizer | PyroOptim | torch.optim.Optimizer | LRScheduler | None = None,
        lr: float = 1e-3,
    ) -> None:
        self._schedule: LRScheduler | None = None
        optim = self._without_schedule(optim)
        if not (optim is None or isinstance(optim, PyroOptim | torch.optim.Optimizer)):
            if not callable(optim):
                raise PvaeError(
                    f"optim={optim!r}: expected a class of torch.optim (or a functools.partial of "
                    "one), an optimiser or a scheduler of torch.optim, or an optimiser of "
                    "pyro.optim."
                )
            if isinstance(optim, type):
                make = optim
                optim = lambda parameters: make(parameters, lr=lr, **_fused(make, parameters))  # noqa: E731
        self._optim = optim
        self._lr = lr
        self.names: dict[int, str] = {}
        self.parameters: list[Tensor] = []
        self._moved: set[int] = set()
        self._torch = optim if isinstance(optim, torch.optim.Optimizer) else None
        self._begun = 0
        self._rates: list[Tensor] = []
        self._sent: list[float] = []

    @property
    def scheduled(self) -> bool:
        """Whether the optimiser brings a learning-rate schedule of its own."""
        return isinstance(self._optim, PyroLRScheduler) or self._schedule is not None

    def _without_schedule(self, optim: Any) -> Any:
        """Returns the optimiser of a scheduler of torch's, which is kept."""
        if not isinstance(optim, LRScheduler):
            return optim
        self._schedule = optim
        return optim.optimizer

    def add(self, named: dict[str, Tensor]) -> None:
        """Takes up parameters that it has not seen before."""
        new = {n: p for n, p in named.items() if id(p) not in self.names and p.requires_grad}
        if not new:
            return
        if made := next((n for n, p in new.items() if p.is_inference()), None):
            raise PvaeError(
                f"{made} was made in torch.inference_mode, and such a tensor has no gradient. "
                "Build the pair outside of it."
            )
        if isinstance(self._optim, PyroOptim):
            for name, parameter in new.items():
                self._add_pyro(name, parameter)
        elif self._torch is None:
            self._torch = self._make(list(new.values()))
        else:
            known = {id(p) for group in self._torch.param_groups for p in group["params"]}
            rest = [p for p in new.values() if id(p) not in known]
            if rest and isinstance(self._optim, torch.optim.Optimizer):
                missing = ", ".join(n for n, p in new.items() if id(p) not in known)
                raise PvaeError(
                    f"The optimiser does not hold these parameters of the pair: {missing}. Pass "
                    "optim=torch.optim.Adam (the class, or a functools.partial of it), and pvae "
                    "gives it every parameter that the pair uses."
                )
            if rest:
                self._torch.add_param_group({"params": rest})
        self.names.update({id(p): n for n, p in new.items()})
        self.parameters += new.values()

    def _make(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        if self._optim is not None:
            made = self._without_schedule(self._optim(parameters))
            if isinstance(made, torch.optim.SparseAdam):
                raise PvaeError(
                    "SparseAdam takes sparse gradients alone, and the pair's are dense. Use Adam, "
                    "which updates embeddings with sparse=True as well."
                )
            closure = inspect.signature(type(made).step).parameters.get("closure")
            if closure is not None and closure.default is inspect.Parameter.empty:
                raise PvaeError(
                    f"{type(made).__name__} evaluates the loss several times in a step, which "
                    "makes no sense of a minibatch and its noise. Use Adam, SGD or another "
                    "first-order optimiser."
                )
            return made
        fused = _fused(torch.optim.Adam, parameters)
        return torch.optim.Adam(parameters, lr=self._lr, **fused)

    def _add_pyro(self, name: str, parameter: Tensor) -> None:
        # PyroOptim looks names up in the param store, where a module's parameters are not.
        optim = self._optim
        arguments = optim.pt_optim_args
        clip = optim.pt_clip_args
        short = normalize_param_name(name)
        if callable(arguments):
            pieces = (short,) if optim.pt_optim_args_argc == 1 else _pieces(name)
            arguments = arguments(*pieces)
        if callable(clip):
            clip = clip(*_pieces(name))
        kept = optim.pt_optim_args
        optim.pt_optim_args = arguments
        try:
            optim.optim_objs[parameter] = optim._get_optim(parameter)
        finally:
            optim.pt_optim_args = kept
        optim.grad_clip[parameter] = (
            (lambda p, clip=clip: optim._clip_grad(p, **clip)) if clip else None
        )

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups, whose `"lr"` a schedule sets."""
        if isinstance(self._optim, PyroOptim):
            objects = self._optim.optim_objs.values()
            return [g for o in objects for g in getattr(o, "optimizer", o).param_groups]
        return [] if self._torch is None else self._torch.param_groups

    @property
    def settings(self) -> dict[str, Any]:
        """What the optimiser is, before its first step: its class, its options, its schedule.

        An option is a list where it is not the same for all parameters.
        """
        if not self.groups:
            return {}
        made = self._torch
        schedule = self._schedule
        if isinstance(self._optim, PyroOptim):
            made = next(iter(self._optim.optim_objs.values()))
            if hasattr(made, "optimizer"):
                made, schedule = made.optimizer, made
        found = {"optimiser": type(made).__name__}
        for name in self.groups[0].keys() - _TECHNICAL:
            values = [_plain_option(group.get(name)) for group in self.groups]
            same = all(value == values[0] for value in values)
            found[name if name == "lr" else f"optimiser.{name}"] = values[0] if same else values
        if schedule is not None:
            found["optimiser.schedule"] = type(schedule).__name__
            options = {n: v for n, v in _state_of(schedule).items() if not n.startswith("_")}
            found |= {f"optimiser.schedule.{name}": value for name, value in options.items()}
        return found

    def set_lr(self, factor: float) -> None:
        """Sets every learning rate to `factor` times its own.

        Its own is what it was at the first call, and follows what the optimiser makes of it in its
        steps, such as the decay of Pyro's ClippedAdam.
        """
        groups = self.groups
        for group in groups[self._begun :]:
            group["initial_lr"] = float(group["lr"])
        self._begun = len(groups)
        for group in groups:
            group["lr"] = group["initial_lr"] * factor

    @property
    def can_mask(self) -> bool:
        """Whether `step` can leave it to the device whether it updates: fused optimisers can."""
        return bool(getattr(self._torch, "_step_supports_amp_scaling", False))

    @property
    def constants(self) -> list[Any] | None:
        """What a captured step has for good, and would have to be captured anew with.

        None where a step cannot be captured: it can in fused optimisers with a `capturable`
        option, once they have stepped. Learning rates are none.
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
        """The tensors that a step changes beside the parameters."""
        states = self._torch.state.values()
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        """Inside this context a step reads its learning rates where `send_lr` puts them."""
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
            good: Whether to, a truth value on the parameters' device; only if `can_mask`.
        """
        rates = [(group, group["lr"]) for group in self.groups[: self._begun]]
        if isinstance(self._optim, PyroOptim):
            self._optim([p for p in self.parameters if p.grad is not None])
        elif self._torch is not None:
            # What gradient scalers set where a gradient overflowed.
            self._torch.found_inf = None if good is None else (~good).float()
            self._torch.step()
        for group, rate in rates:
            if group["lr"] is not rate and group["lr"] != rate and rate:
                group["initial_lr"] = float(group["lr"]) * (group["initial_lr"] / rate)

    def end_epoch(self, loss: float | None) -> None:
        """Lets an optimiser's own schedule go on, if it has one.

        Args:
            loss: What a schedule that waits for a plateau looks at; None if it has to wait.
        """
        if isinstance(self._optim, PyroLRScheduler):
            schedules = list(self._optim.optim_objs.values())
        else:
            schedules = [] if self._schedule is None else [self._schedule]
        for each in schedules:
            if not isinstance(each, ReduceLROnPlateau):
                each.step()
            elif loss is not None:
                each.step(loss)

    def fill(self, used: Container[int]) -> None:
        """Gives parameters that a step used without a gradient one of zeros, as Pyro does.

        From their first gradient on: an optimiser with momentum moves them on. Frozen ones stay.

        Args:
            used: Ids of the parameters that the programs have registered in this step.
        """
        for parameter in self.parameters:
            if parameter.grad is not None:
                self._moved.add(id(parameter))
            elif id(parameter) in used and parameter.requires_grad and self._has_moved(parameter):
                parameter.grad = torch.zeros_like(parameter)

    def _has_moved(self, parameter: Tensor) -> bool:
        made = self._torch
        if isinstance(self._optim, PyroOptim):
            made = self._optim.optim_objs[parameter]
            made = getattr(made, "optimizer", made)
        return id(parameter) in self._moved or bool(made.state.get(parameter))

    def zero_grad(self) -> None:
        """Drops every gradient."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimiser's state in plain containers."""
        if isinstance(self._optim, PyroOptim):
            return {self.names[id(p)]: _state(o) for p, o in self._optim.optim_objs.items()}
        if self._torch is None:
            return {}
        schedule = {} if self._schedule is None else {"schedule": _state_of(self._schedule)}
        return self._torch.state_dict() | schedule

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, over the same parameters.

        Raises:
            PvaeError: If it is the state of another kind of optimiser.
        """
        try:
            self._load(state)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise PvaeError(
                f"The saved state is not that of this optimiser ({type(error).__name__}: "
                f"{first_line(error)[:200]}). Give the one that the run was started with."
            ) from error
        self._begun = len(self.groups) if self._begun else 0

    def _load(self, state: dict[str, Any]) -> None:
        if isinstance(self._optim, PyroOptim):
            for parameter, each in self._optim.optim_objs.items():
                saved = state[self.names[id(parameter)]]
                if hasattr(each, "optimizer"):
                    _restore(each.optimizer, saved["optimizer"])
                    each.load_state_dict(saved["scheduler"])
                else:
                    _restore(each, saved)
        elif self._torch is not None:
            _restore(self._torch, {k: v for k, v in state.items() if k != "schedule"})
            if self._schedule is not None:
                self._schedule.load_state_dict(state["schedule"])


def _restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    for ours, theirs in zip(optimizer.param_groups, state["param_groups"], strict=True):
        # PyTorch fills in options that an older version did not have, and checks nothing else.
        missing, odd = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
        if missing - _TECHNICAL and odd - _TECHNICAL:
            raise ValueError(f"it has {', '.join(sorted(odd - _TECHNICAL))}")
        if missing - _TECHNICAL:
            raise ValueError(f"a group lacks {', '.join(sorted(missing - _TECHNICAL))}")
        for parameter, key in zip(ours["params"], theirs["params"], strict=True):
            for name, value in state["state"].get(key, {}).items():
                if not _fits(value, parameter):
                    shapes = list(value.shape), list(parameter.shape)
                    raise ValueError(f"{name} has shape {shapes[0]}, its parameter {shapes[1]}")
    optimizer.load_state_dict(state)


def _fits(value: Any, parameter: Tensor) -> bool:
    """Whether what is remembered of a parameter is of its shape, or of a part of its dimensions."""
    if not isinstance(value, Tensor) or value.ndim != parameter.ndim:
        return True
    return all(a in (1, b) for a, b in zip(value.shape, parameter.shape, strict=True))


def _fused(make: type[torch.optim.Optimizer], parameters: Iterable[Tensor]) -> dict[str, bool]:
    """Returns the option to update all parameters in one pass, if there is one."""
    able = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return {"fused": True} if able and "fused" in inspect.signature(make).parameters else {}


def _state(optimizer: Any) -> dict[str, Any]:
    if not hasattr(optimizer, "optimizer"):
        return optimizer.state_dict()
    return {"optimizer": optimizer.optimizer.state_dict(), "scheduler": _state_of(optimizer)}


def _state_of(schedule: LRScheduler) -> dict[str, Any]:
    """Returns what a scheduler of torch's holds in plain values, without its functions."""
    return {
        name: value
        for name, value in schedule.state_dict().items()
        if isinstance(value, int | float | str | list | bool | np.generic | None)
    }


def _plain_option(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _pieces(name: str) -> tuple[str, str]:
    module, _, parameter = name.rpartition(".")
    return module, parameter
