"""One face for torch's optimisers and Pyro's, over parameters that appear as they are used."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from pyro.params.param_store import normalize_param_name
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["MakeOptimizer", "Optimiser"]

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class Optimiser:
    """Steps a growing set of named parameters.

    Args:
        optim: A class of `torch.optim` or a `functools.partial` of one (called with the
            parameters), an optimiser of `torch.optim` already made, an optimiser of
            `pyro.optim`, or `None` for Adam.
        lr: Learning rate, nats⁻¹; used where `optim` is `None` or a bare class.

    Raises:
        PvaeError: If `optim` is none of these.
    """

    def __init__(
        self,
        optim: MakeOptimizer | PyroOptim | torch.optim.Optimizer | None = None,
        lr: float = 1e-3,
    ) -> None:
        if not (optim is None or isinstance(optim, PyroOptim | torch.optim.Optimizer)):
            if not callable(optim):
                raise PvaeError(
                    f"optim={optim!r}: expected a class of torch.optim (or a functools.partial of "
                    "one), an optimiser of torch.optim, or an optimiser of pyro.optim."
                )
            if isinstance(optim, type):
                make = optim
                optim = lambda parameters: make(parameters, lr=lr, **_fused(make, parameters))  # noqa: E731
        self._optim = optim
        self._lr = lr
        self.names: dict[int, str] = {}
        self.parameters: list[Tensor] = []
        self._torch = optim if isinstance(optim, torch.optim.Optimizer) else None
        self._rates: list[Tensor] = []
        self._sent: list[float] = []

    @property
    def scheduled(self) -> bool:
        """Whether the optimiser brings a learning-rate schedule of its own."""
        return isinstance(self._optim, PyroLRScheduler)

    def add(self, named: dict[str, Tensor]) -> None:
        """Takes up parameters that it has not seen before."""
        new = {n: p for n, p in named.items() if id(p) not in self.names and p.requires_grad}
        if not new:
            return
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
            made = self._optim(parameters)
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

    def set_lr(self, factor: float) -> None:
        """Sets every learning rate to `factor` times the one it began with."""
        for group in self.groups:
            group.setdefault("initial_lr", float(group["lr"]))
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
        if isinstance(self._optim, PyroOptim):
            self._optim([p for p in self.parameters if p.grad is not None])
        elif self._torch is not None:
            # What gradient scalers set where a gradient overflowed.
            self._torch.found_inf = None if good is None else (~good).float()
            self._torch.step()

    def end_epoch(self, loss: float) -> None:
        """Lets an optimiser's own schedule go on, if it has one."""
        if self.scheduled:
            for each in self._optim.optim_objs.values():
                plateau = isinstance(each, torch.optim.lr_scheduler.ReduceLROnPlateau)
                each.step(*([loss] if plateau else []))

    def zero_grad(self) -> None:
        """Drops every gradient."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimiser's state in plain containers."""
        if isinstance(self._optim, PyroOptim):
            return {self.names[id(p)]: _state(o) for p, o in self._optim.optim_objs.items()}
        return {} if self._torch is None else self._torch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, over the same parameters."""
        if isinstance(self._optim, PyroOptim):
            for parameter, each in self._optim.optim_objs.items():
                saved = state[self.names[id(parameter)]]
                if hasattr(each, "optimizer"):
                    each.optimizer.load_state_dict(saved["optimizer"])
                    each.load_state_dict(saved["scheduler"])
                else:
                    each.load_state_dict(saved)
        elif self._torch is not None:
            self._torch.load_state_dict(state)


def _fused(make: type[torch.optim.Optimizer], parameters: Iterable[Tensor]) -> dict[str, bool]:
    """Returns the option to update all parameters in one pass, if there is one."""
    able = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return {"fused": True} if able and "fused" in inspect.signature(make).parameters else {}


def _state(optimizer: Any) -> dict[str, Any]:
    if not hasattr(optimizer, "optimizer"):
        return optimizer.state_dict()
    return {
        "optimizer": optimizer.optimizer.state_dict(),
        "scheduler": {
            name: value
            for name, value in optimizer.state_dict().items()
            if isinstance(value, int | float | str | list | bool | None)
        },
    }


def _pieces(name: str) -> tuple[str, str]:
    module, _, parameter = name.rpartition(".")
    return module, parameter
