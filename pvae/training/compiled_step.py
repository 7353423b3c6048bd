"""CompiledGradient: the gradient of a pair's loss by compiled graphs, compared with eager ones."""

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from pyro.poutine import runtime
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pvae.compile import Change, Recorded, Watch, as_number, can_replay, decides, in_words, kind_of
from pvae.errors import PvaeError, first_line
from pvae.pair import OwnParameters, Program
from pvae.runtime import is_out_of_memory, noise_state, restore_noise
from pvae.training.agreement import EagerStep, differ, same
from pvae.training.optimiser import Optimiser

__all__ = ["CompiledGradient", "Gradient"]

CHECKED_EVERY = 500  # steps
MOST_GRAPHS = 8
_MOST_ANEW = 2

Gradient = tuple[Tensor, Tensor]
"""A loss and the norm of its gradient, which is in the parameters' `grad`."""


class CompiledGradient:
    """Computes gradients with one compiled graph for each kind of minibatch.

    Args:
        model: Pyro program.
        guide: Pyro program.
        loss: The ELBO.
        own: Keeps the pair's parameters.
        optim: Knows the trained parameters.
        scaled: Makes the context of a step from the KL weight.
        precision: `"float32"` or `"bf16"`: how far graphs and eager steps may differ.

    Attributes:
        why_not: Why there are no graphs, else `None`.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        loss: ELBO,
        own: OwnParameters,
        optim: Optimiser,
        scaled: Callable[[float | Tensor | None], Any],
        precision: str,
    ) -> None:
        self.model, self.guide, self.loss = model, guide, loss
        self.own, self.optim, self._scaled = own, optim, scaled
        self.precision = precision
        self.why_not: str | None = None
        self._graphs: dict[Any, Recorded] = {}
        self._largest: dict[Any, int] = {}
        self._schedules: list[tuple[Any, Any]] = []
        self._anew = 0
        self._watch: Watch | None = None
        self._no_replay = False
        self._fixed = False

    def expect(self, args: Any, kwargs: Any) -> None:
        """Notes the size of the minibatches to come; smaller ones will run eagerly."""
        with contextlib.suppress(TypeError, RuntimeError):  # a step says why it is eager
            kind, size = kind_of(args, kwargs)
            self._largest[kind] = max(size, self._largest.get(kind, 0))

    def __call__(
        self, eager: Callable[[], Gradient], weight: float | None, args: Any, kwargs: Any
    ) -> Gradient | None:
        """Leaves the gradient in the parameters; None, with nothing done, if there is no graph.

        Raises:
            PvaeError: As `eager`.
        """
        found = self._find(weight, args, kwargs)
        if found is None:
            return None
        key, recorded = found
        if recorded is not None and not _due(recorded):
            loss, norm, *gradients = recorded((weight, *args), kwargs)
            _put(recorded.trained, gradients)
            self.own.used = set(recorded.used)
            return loss, norm
        return self._checked(key, eager, (weight, *args), kwargs)

    def replay(
        self,
        finish: Callable[[Tensor, Tensor], list[Tensor]],
        changes: Callable[[], Sequence[Tensor]],
        constants: Any,
        weight: float | None,
        args: Any,
        kwargs: Any,
    ) -> list[Tensor] | None:
        """Takes a whole step on a GPU as one CUDA graph; None, with nothing done, if it cannot.

        Args:
            finish: Ends a step, given loss and norm on the device, once the gradient is in the
                parameters.
            changes: Returns the tensors that `finish` changes.
            constants: Settings of the step; if they change, it is captured again.
            weight: The KL weight.
            args: The programs' arguments.
            kwargs: The programs' arguments by name.
        """
        found = None if self._no_replay else self._find(weight, args, kwargs)
        if found is None or found[1] is None or _due(found[1]):
            return None
        recorded = found[1]
        if not can_replay(recorded.device):
            return None

        def step(inputs: Sequence[Tensor]) -> list[Tensor]:
            loss, norm, *gradients = recorded.run(inputs)
            _put(recorded.trained, gradients)
            return finish(loss, norm)

        self.own.used = set(recorded.used)
        try:
            return recorded.replay(step, changes, constants, (weight, *args), kwargs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._no_replay = True
            text = str(error)
            if not isinstance(error, PvaeError):
                text = f"{type(error).__name__}: {first_line(error)[:200]}"
            warnings.warn(f"SVI's steps are compiled, but no CUDA graph: {text}.", stacklevel=4)
            return None

    def _find(
        self, weight: float | None, args: Any, kwargs: Any
    ) -> "tuple[Any, Recorded | None] | None":
        """Returns the key of a minibatch's graph, and the graph if it has been recorded."""
        if self.why_not is not None:
            return None
        if not hasattr(self.loss, "differentiable_loss"):
            return self._give_up(f"{type(self.loss).__name__} has no differentiable_loss")
        try:
            kind, size = kind_of(args, kwargs, fixed=self._fixed)
        except (TypeError, RuntimeError) as error:  # torch's, of a tensor that is not dense
            return self._give_up(first_line(error))
        if size < self._largest.get(kind, 0):
            return None  # the last, smaller minibatch
        self._largest[kind] = size
        handlers = [type(m).__name__ for m in runtime._PYRO_STACK if m is not self.own]
        if handlers:
            return self._give_up(
                f"SVI was called inside of a {handlers[0]}, whose effect may change"
            )
        if self._watch is not None and (change := self._watch.changed()) is not None:
            self._start_again(change)
        try:
            numbers = [as_number(holder[key]) for holder, key in self._schedules]
            beta = float if type(weight) is float else _layout(weight)
            key = kind, size, beta, tuple(map(_layout, numbers)), _setting()
        except (LookupError, TypeError, ValueError):
            return self._give_up("an attribute that was a number is none any more")
        return key, self._graphs.get(key)

    def check_next(self) -> None:
        """Makes the next step be compared with the eager one."""
        for recorded in self._graphs.values():
            recorded.uses = CHECKED_EVERY

    def _checked(
        self, key: Any, eager: Callable[[], Gradient], args: Any, kwargs: Any
    ) -> Gradient | None:
        """Computes the gradient both ways, from the same random numbers, and compares."""
        buffers = [b for module in self.own.modules.values() for b in module.buffers()]
        before = [b.clone() for b in buffers], noise_state()

        def run() -> EagerStep:
            _rewind(buffers, before)
            loss, norm = eager()
            trained = [p for p in self.optim.parameters if p.grad is not None]
            found = EagerStep(
                loss, norm, trained, [p.grad for p in trained], frozenset(self.own.used)
            )
            _put(trained, [None] * len(trained))
            found.after = [b.clone() for b in buffers], noise_state()
            return found

        first = run()
        if not (math.isfinite(first.loss) and math.isfinite(first.norm)):
            _put(first.trained, first.gradients)
            return first.loss, first.norm
        # A loss that is near zero by chance is not judged by its own size alone.
        values = sum(a.numel() for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        how = values, self.precision, self.optim.names
        recorded = self._graphs.get(key)
        # Parameters that have appeared, or lost their gradient, are not those of the graph.
        known = recorded is not None and same(recorded.trained, first.trained)
        wrong = None
        for fresh in (not known, True):
            _rewind(buffers, before)
            if fresh and known and not self._may_record_anew(f"compiled, {wrong} again and again"):
                break
            if fresh and not self._record(key, first, args, kwargs):
                break
            _rewind(buffers, before)
            recorded = self._graphs[key]
            loss, norm, *gradients = recorded(args, kwargs)
            after = [b.clone() for b in buffers]
            wrong = differ(first, recorded, [loss, *gradients], after, *how)
            if wrong is None:
                _put(first.trained, gradients)
                return loss, norm
            if fresh:
                # Initial values and prototypes may be drawn in a first call, and in no other.
                again = run()
                if differ(again, recorded, [loss, *gradients], after, *how):
                    self._give_up(f"compiled, {wrong}")
                break
        # Nothing has happened but the eager step.
        _rewind(buffers, first.after)
        _put(first.trained, first.gradients)
        return first.loss, first.norm

    def _record(self, key: Any, found: EagerStep, args: Any, kwargs: Any) -> bool:
        self._graphs.pop(key, None)
        if self._fixed and len(self._graphs) > _MOST_ANEW:
            self._give_up("a program decides by a number among its arguments, which changes")
            return False
        if len(self._graphs) >= MOST_GRAPHS:
            self._give_up(f"minibatches come in more than {MOST_GRAPHS} kinds")
            return False
        owned = [t for m in self.own.modules.values() for t in (*m.parameters(), *m.buffers())]
        owned += self.own.parameters.values()
        apart = {id(holder[key]) for holder, key in self._schedules}
        owned, trained = [t for t in owned if id(t) not in apart], found.trained

        def gradient(weight: float | Tensor | None, *args: Any, **kwargs: Any) -> list[Tensor]:
            with self._scaled(weight):
                loss = self.loss.differentiable_loss(self.model, self.guide, *args, **kwargs)
            gradients = torch.autograd.grad(loss, trained)
            gradients = [_laid_out(g, p) for g, p in zip(gradients, trained, strict=True)]
            norm = torch.stack([(g * g).sum() for g in gradients]).sum().sqrt()
            return [loss.detach(), norm, *gradients]

        watch = Watch(self.model, self.guide, self.loss, self._schedules)
        try:
            with self.own:
                recorded = Recorded(
                    gradient, trained, owned, self._schedules, args, kwargs, fixed=self._fixed
                )
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if decides(error) and not self._fixed and _floats(args, kwargs):
                self._fixed = True  # tried once more, at the next step, with numbers as constants
            else:
                self._give_up(in_words(error))
            return False
        if (change := watch.settle()) is not None:
            self._give_up(f"{change.name} is changed by the programs themselves")
            return False
        recorded.used = found.used
        self._graphs[key], self._watch = recorded, watch
        return True

    def _start_again(self, change: Change) -> None:
        """Drops the graphs of a value that has changed, and makes it an input if it can be one."""
        self._graphs.clear()
        self._watch = None
        value = None
        if change.holder is not None:
            with contextlib.suppress(LookupError, ValueError):  # it is gone
                value = change.holder[change.key]
        if _is_input(value):
            self._schedules.append((change.holder, change.key))
        else:
            self._may_record_anew(f"{change.name} changes again and again")

    def _may_record_anew(self, why_not: str) -> bool:
        self._anew += 1
        if self._anew > _MOST_ANEW:
            self._give_up(why_not)
        return self._anew <= _MOST_ANEW

    def _give_up(self, why: str) -> None:
        self.why_not, self._watch = why, None
        self._graphs.clear()
        warnings.warn(f"SVI runs eagerly from here on: {why}.", stacklevel=5)


def _is_input(value: Any) -> bool:
    """Whether a value can be an input of a graph: a number with a fraction, or a tensor."""
    if isinstance(value, Tensor):
        return not value.requires_grad
    return isinstance(value, float | np.floating)


def _floats(args: Any, kwargs: Any) -> bool:
    return any(type(leaf) is float for leaf in tree_leaves((args[1:], kwargs)))


def _layout(value: Any) -> Any:
    """Returns what a graph depends on in a number, a tensor or a string."""
    if isinstance(value, Tensor):
        return value.dtype, value.device, value.shape, value.stride()
    if type(value) is float:
        return float, value != 0
    if isinstance(value, bool | int | str | None):
        return type(value), value
    raise TypeError


def _setting() -> tuple[Any, ...]:
    """Returns torch's global settings that change numbers."""
    on = torch.is_autocast_enabled
    return torch.get_default_dtype(), on("cpu"), on("cuda")


def _due(recorded: Recorded) -> bool:
    """Whether a graph is due to be compared: at its second use, and every 500 steps."""
    return recorded.uses == 1 or not recorded.uses % CHECKED_EVERY


def _laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Returns a gradient with its parameter's strides; a fused optimiser ignores the gradient's."""
    same = gradient.stride() == parameter.stride()
    return gradient if same else torch.empty_like(parameter).copy_(gradient)


def _put(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _rewind(buffers: Sequence[Tensor], state: tuple[list[Tensor], Any]) -> None:
    values, noise = state
    restore_noise(noise)
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)
