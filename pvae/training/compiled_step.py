"""CompiledGradient: the gradient of a pair's loss by compiled graphs, compared with eager ones."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pyro.poutine import runtime
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pvae.compile import (
    Change,
    Recorded,
    Snapshot,
    Watch,
    as_number,
    can_replay,
    decides,
    in_words,
    signature_of,
)
from pvae.errors import first_line, reason_of
from pvae.objectives import ParticleELBO
from pvae.runtime import is_out_of_memory
from pvae.training.agreement import EagerStep, differ, same
from pvae.training.eager_step import EagerGradient, Gradient
from pvae.training.warn import warn

__all__ = ["CompiledGradient"]

CHECKED_EVERY = 500  # steps
_CHECKED_SOON = (2, 10, 100)  # steps of an objective, whose layout may be right at first only
MOST_GRAPHS = 8
_MOST_RENEWALS = 2


class CompiledGradient:
    """Computes gradients with one compiled graph per input signature, compared with `eager`'s.

    Args:
        eager: Computes the gradient with Pyro.
        compiling: Returns a context in which a graph is compiled.

    Attributes:
        why_not: Why there are no graphs, else `None`.
    """

    def __init__(
        self, eager: EagerGradient, compiling: Callable[[], Any] = contextlib.nullcontext
    ) -> None:
        self._eager, self._compiling = eager, compiling
        self.why_not: str | None = None
        self._graphs: dict[Any, Recorded] = {}
        self._largest: dict[Any, int] = {}
        self._schedules: list[tuple[Any, Any]] = []
        self._renewals = 0
        self._watch: Watch | None = None
        self._no_replay = False
        self._fixed = False
        self._replayed = 0

    def expect(self, args: Any, kwargs: Any) -> None:
        """Notes the size of the minibatches to come; smaller ones will run eagerly."""
        with contextlib.suppress(TypeError, RuntimeError):  # a step says why it is eager
            signature, size = signature_of(args, kwargs)
            self._largest[signature] = max(size, self._largest.get(signature, 0))

    def _due(self, recorded: Recorded) -> bool:
        """Whether a graph is due to be compared: at its second use, and every 500 steps."""
        soon = isinstance(self._eager.loss, ParticleELBO) and recorded.uses in _CHECKED_SOON
        return soon or recorded.uses == 1 or not recorded.uses % CHECKED_EVERY

    def compare_next(self) -> None:
        """Makes the next step be compared with the eager one."""
        for recorded in self._graphs.values():
            recorded.uses = CHECKED_EVERY

    def __call__(self, weight: float | Tensor | None, args: Any, kwargs: Any) -> Gradient | None:
        """Leaves the gradient in the parameters; None, with nothing done, if there is no graph.

        Raises:
            PvaeError: As the eager gradient.
        """
        found = self._find(weight, args, kwargs)
        if found is None:
            return None
        key, recorded = found
        if recorded is not None and not self._due(recorded):
            loss, norm, *gradients = recorded((weight, *args), kwargs)
            self._replayed += 1
            _put(recorded.trained, gradients)
            self._eager.own.used = set(recorded.used)
            return loss, norm
        return self._checked(key, (weight, *args), kwargs)

    def replay(
        self,
        finish: Callable[[Tensor, Tensor], list[Tensor]],
        changes: Callable[[], Sequence[Tensor]],
        constants: Any,
        weight: float | Tensor | None,
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
        if found is None or found[1] is None or self._due(found[1]):
            return None
        recorded = found[1]
        if not can_replay(recorded.device):
            return None

        def step(inputs: Sequence[Tensor]) -> list[Tensor]:
            loss, norm, *gradients = recorded.run(inputs)
            _put(recorded.trained, gradients)
            return finish(loss, norm)

        self._eager.own.used = set(recorded.used)
        try:
            found = recorded.replay(step, changes, constants, (weight, *args), kwargs)
            self._replayed += 1
            return found
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._no_replay = True
            warn(
                "SVI runs compiled steps from here on, but not as CUDA graphs, which are faster: "
                f"{reason_of(error)[:300].rstrip('.')}."
            )
            return None

    def _find(
        self, weight: float | Tensor | None, args: Any, kwargs: Any
    ) -> "tuple[Any, Recorded | None] | None":
        """Returns the key of a minibatch's graph, and the graph if it has been recorded."""
        if self.why_not is not None:
            return None
        loss = self._eager.loss
        if not hasattr(loss, "differentiable_loss"):
            return self._give_up(
                f"{type(loss).__name__} has no method differentiable_loss, which a graph needs. "
                "Use an ELBO that has it, such as Trace_ELBO"
            )
        try:
            signature, size = signature_of(args, kwargs, fixed=self._fixed)
        except (TypeError, RuntimeError) as error:  # torch's, of a tensor that is not dense
            return self._give_up(first_line(error))
        if size < self._largest.get(signature, 0):
            return None  # the last, smaller minibatch
        self._largest[signature] = size
        handlers = [type(m).__name__ for m in runtime._PYRO_STACK if m is not self._eager.own]
        if handlers:
            return self._give_up(
                f"the step is called inside a Pyro handler ({handlers[0]}), whose effect may "
                "change. Apply the handler to the model and the guide"
            )
        if self._watch is not None and (change := self._watch.changed()) is not None:
            self._start_again(change)
        try:
            inputs = [as_number(holder[key]) for holder, key in self._schedules]
            inputs += [weight] * isinstance(weight, Tensor)
            read = signature_of(inputs, {}) if inputs else None
            key = signature, size, type(weight), read, _setting()
        except (LookupError, TypeError, ValueError, RuntimeError):
            return self._give_up(
                "a number or a tensor that the programs read has been deleted, or replaced by an "
                "object of another type. Keep it a number or a tensor"
            )
        return key, self._graphs.get(key)

    def _checked(self, key: Any, args: Any, kwargs: Any) -> Gradient:
        """Computes the gradient both ways, from the same random numbers, and compares."""
        if isinstance(self._eager.loss, ParticleELBO):
            self._eager.loss.replayed(self._replayed)
        self._replayed = 0
        own, optim = self._eager.own, self._eager.optim
        buffers = [b for module in own.modules.values() for b in module.buffers()]
        before = Snapshot(buffers)

        def run() -> EagerStep:
            before.restore()
            weight, *rest = args
            loss, norm = self._eager(weight, rest, kwargs)
            trained = [p for p in optim.parameters if p.grad is not None]
            gradients = [p.grad for p in trained]
            _put(trained, [None] * len(trained))
            return EagerStep(loss, norm, trained, gradients, frozenset(own.used), Snapshot(buffers))

        first = run()
        if not (math.isfinite(first.loss) and math.isfinite(first.norm)):
            _put(first.trained, first.gradients)
            return first.loss, first.norm
        values = sum(a.numel() for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        how = values, self._eager.precision, optim.names
        recorded = self._graphs.get(key)
        # A graph differentiates by fixed parameters: others may have appeared or been frozen.
        known = recorded is not None and same(recorded.trained, first.trained)
        wrong = None
        for fresh in (not known, True):
            before.restore()
            if fresh and known and not self._may_renew(
                f"compiled steps differ from eager ones again and again ({wrong}): the programs "
                "read something that changes and that pvae cannot watch, such as a file, a clock, "
                "an environment variable or a NumPy array. Make it an argument or an attribute"
            ):  # fmt: skip
                break
            if fresh and not self._record(key, first, args, kwargs):
                break
            before.restore()
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
                    self._give_up(
                        f"the compiled step differs from the eager one ({wrong}). Look for code "
                        "of the model and the guide that does something else at each call"
                    )
                break
        # The eager step remains, as if nothing else had run.
        first.after.restore()
        _put(first.trained, first.gradients)
        return first.loss, first.norm

    def _record(self, key: Any, found: EagerStep, args: Any, kwargs: Any) -> bool:
        """Records and compiles a graph; False if it cannot be."""
        self._graphs.pop(key, None)
        if self._fixed and len(self._graphs) > _MOST_RENEWALS:
            self._give_up(
                "a program decides by a number among its arguments, and this number changes. Use "
                "torch.where in place of the decision"
            )
            return False
        if len(self._graphs) >= MOST_GRAPHS:
            self._give_up(
                f"the arguments of the steps have more than {MOST_GRAPHS} different signatures "
                "(shapes, dtypes, integers and strings), and each needs a graph. Use minibatches "
                "of one size, and floats or tensors for what changes"
            )
            return False
        model, guide, elbo = self._eager.model, self._eager.guide, self._eager.loss
        own, trained = self._eager.own, found.trained
        owned = [t for m in own.modules.values() for t in (*m.parameters(), *m.buffers())]
        owned += own.parameters.values()
        apart = {id(holder[key]) for holder, key in self._schedules}
        owned = [t for t in owned if id(t) not in apart]

        def gradient(weight: float | Tensor | None, *args: Any, **kwargs: Any) -> list[Tensor]:
            with self._eager.context(weight):
                loss = elbo.differentiable_loss(model, guide, *args, **kwargs)
            gradients = torch.autograd.grad(loss, trained)
            gradients = [_laid_out(g, p) for g, p in zip(gradients, trained, strict=True)]
            norm = torch.stack([(g * g).sum() for g in gradients]).sum().sqrt()
            return [loss.detach(), norm, *gradients]

        watch = Watch(model, guide, elbo, self._schedules)
        try:
            with own, self._compiling():
                recorded = Recorded(
                    gradient, trained, owned, self._schedules, args, kwargs, fixed=self._fixed
                )
        except Exception as error:
            if is_out_of_memory(error):
                raise
            floats = any(type(leaf) is float for leaf in tree_leaves((args[1:], kwargs)))
            if decides(error) and floats and not self._fixed:
                self._fixed = True  # the next step tries again, with numbers as constants
            else:
                self._give_up(in_words(error))
            return False
        if (change := watch.settle()) is not None:
            self._give_up(
                f"each call of the programs changes {change.name}, and a graph would not. If it is "
                "a number, make it a buffer (register_buffer) that is changed in place"
            )
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
        fractional = isinstance(value, float | np.floating)
        if fractional or (isinstance(value, Tensor) and not value.requires_grad):
            self._schedules.append((change.holder, change.key))
        else:
            self._may_renew(
                f"{change.name} changes again and again, and each change needs a new graph. If it "
                "is an integer, make it a float or a tensor, which are inputs of a graph"
            )

    def _may_renew(self, why_not: str) -> bool:
        self._renewals += 1
        if self._renewals > _MOST_RENEWALS:
            self._give_up(why_not)
        return self._renewals <= _MOST_RENEWALS

    def _give_up(self, why: str) -> None:
        self.why_not, self._watch = why, None
        self._graphs.clear()
        warn(f"SVI runs eagerly from here on: {why}. mode='eager' avoids this warning.")


def _setting() -> tuple[Any, ...]:
    """Returns torch's global settings that change numbers."""
    on = torch.is_autocast_enabled
    return torch.get_default_dtype(), on("cpu"), on("cuda")


def _laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Returns a gradient with its parameter's strides; a fused optimiser ignores the gradient's."""
    same = gradient.stride() == parameter.stride()
    return gradient if same else torch.empty_like(parameter).copy_(gradient)


def _put(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
