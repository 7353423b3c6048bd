"""The gradient of a pair's loss as a compiled graph, compared with the eager one now and then."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine import runtime
from torch import Tensor

from pvae.environment import is_out_of_memory, noise_state, restore_noise
from pvae.errors import PvaeError, first_line
from pvae.graph import in_words
from pvae.optimisers import Optimiser
from pvae.pair import OwnParameters, Program
from pvae.precision import rounding
from pvae.recorded import Recorded, kind_of
from pvae.replay import can_replay
from pvae.watch import Change, Watch

__all__ = ["CompiledGradient", "Gradient"]

CHECKED_EVERY = 500  # steps
MOST_GRAPHS = 8
_MOST_ANEW = 2
# Relative errors of the loss, and of a gradient in norm, that rounding explains.
_TOLERANCE = {"bf16": (1e-3, 0.1), torch.float64: (1e-9, 1e-7), torch.float32: (1e-5, 2e-3)}
_TOLERANCE["tf32"] = (1.25e-4, 1.25e-2)  # three bits more than bf16

Gradient = tuple[Tensor, Tensor]
"""A loss and the norm of its gradient, which is in the parameters' `grad`."""


class CompiledGradient:
    """Leaves the gradient of a loss in a pair's parameters, by graphs, one a kind of minibatch.

    Args:
        model: Pyro program.
        guide: Pyro program.
        loss: The ELBO.
        own: Keeps the pair's parameters.
        optim: Knows the parameters that are trained.
        scaled: Makes the context of a step, given the KL weight.
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
        self._precision = precision
        self.why_not: str | None = None
        self._graphs: dict[Any, Recorded] = {}
        self._largest: dict[Any, int] = {}
        self._schedules: list[tuple[dict[str, Any], str]] = []
        self._anew = 0
        self._watch: Watch | None = None
        self._no_replay = False

    def expect(self, args: Any, kwargs: Any) -> None:
        """Notes the size of the minibatches to come: smaller ones are not worth a graph."""
        kind, size = kind_of(args, kwargs)
        self._largest[kind] = max(size, self._largest.get(kind, 0))

    def __call__(
        self, eager: Callable[[], Gradient], weight: float | None, args: Any, kwargs: Any
    ) -> Gradient | None:
        """Does what `eager` does by a graph; None, with nothing done, where there is none to use.

        Raises:
            PvaeError: What `eager` raises.
        """
        found = self._find(weight, args, kwargs)
        if found is None:
            return None
        key, recorded = found
        if recorded is not None and not _due(recorded):
            loss, norm, *gradients = recorded((weight, *args), kwargs)
            _put(recorded.trained, gradients)
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
        """Takes a whole step on a GPU as one CUDA graph; None, with nothing done, where it cannot.

        Args:
            finish: What a step does with a loss and a norm on the device, once the gradient is in
                the parameters.
            changes: Returns the tensors that `finish` changes.
            constants: What the step was captured with; another value captures it anew.
            weight: The KL weight.
            args: Of the programs.
            kwargs: Of the programs.
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
            kind, size = kind_of(args, kwargs)
        except TypeError as error:
            return self._give_up(str(error))
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
        key = kind, size, weight is None
        return key, self._graphs.get(key)

    def check_next(self) -> None:
        """Has the next step compared with the eager one."""
        for recorded in self._graphs.values():
            recorded.uses = CHECKED_EVERY

    def _checked(
        self, key: Any, eager: Callable[[], Gradient], args: Any, kwargs: Any
    ) -> Gradient | None:
        """Takes the gradient both ways, from the same random numbers, and compares the two."""
        buffers = [b for module in self.own.modules.values() for b in module.buffers()]
        before = [b.clone() for b in buffers], noise_state()
        loss, norm = eager()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return loss, norm
        trained = [p for p in self.optim.parameters if p.grad is not None]
        expected = [torch.tensor(float(loss), dtype=torch.float64), *(p.grad for p in trained)]
        after = [b.clone() for b in buffers], noise_state()
        names = ["the loss", *(f"the gradient of {self.optim.names[id(p)]}" for p in trained)]
        # A loss that is near zero by chance is not judged by its own size alone.
        values = sum(a.numel() for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        recorded = self._graphs.get(key)
        # Parameters that have appeared, or lost their gradient, are not those of the graph.
        known = recorded is not None and list(map(id, recorded.trained)) == list(map(id, trained))
        wrong = None
        for fresh in (not known, True):
            for parameter in trained:
                parameter.grad = None
            _rewind(buffers, before)
            if fresh and known and not self._may_record_anew(f"compiled, {wrong} again and again"):
                break
            if fresh and not self._record(key, trained, args, kwargs):
                break
            _rewind(buffers, before)
            recorded = self._graphs[key]
            loss, norm, *gradients = recorded(args, kwargs)
            found, products = [loss, *gradients], recorded.products
            wrong = next(self._differences(found, expected, names, values, products), None)
            if not all(torch.equal(a, b) for a, b in zip(buffers, after[0], strict=True)):
                wrong = wrong or "a buffer is not what it should be"
            if wrong is None:
                _put(trained, gradients)
                return loss, norm
            if fresh:
                self._give_up(f"compiled, {wrong}")
                break
        # Nothing has happened but the eager step.
        _rewind(buffers, after)
        _put(trained, expected[1:])
        return expected[0], torch.nn.utils.get_total_norm(expected[1:])

    def _record(self, key: Any, trained: list[Tensor], args: Any, kwargs: Any) -> bool:
        self._graphs.pop(key, None)
        if len(self._graphs) >= MOST_GRAPHS:
            self._give_up(f"minibatches come in more than {MOST_GRAPHS} kinds")
            return False
        owned = [t for m in self.own.modules.values() for t in (*m.parameters(), *m.buffers())]
        owned += self.own.parameters.values()

        def gradient(weight: float | Tensor | None, *args: Any, **kwargs: Any) -> list[Tensor]:
            with self._scaled(weight):
                loss = self.loss.differentiable_loss(self.model, self.guide, *args, **kwargs)
            gradients = torch.autograd.grad(loss, trained)
            norm = torch.stack([(g * g).sum() for g in gradients]).sum().sqrt()
            return [loss.detach(), norm, *gradients]

        watch = Watch(self.model, self.guide, self.loss, self._schedules)
        try:
            with self.own:
                recorded = Recorded(gradient, trained, owned, self._schedules, args, kwargs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._give_up(in_words(error))
            return False
        if (change := watch.changed()) is not None:
            self._give_up(f"{change.name} is changed by the programs themselves")
            return False
        self._graphs[key], self._watch = recorded, watch
        return True

    def _start_again(self, change: Change) -> None:
        """Forgets what was recorded with another value; a float is an input from now on."""
        self._graphs.clear()
        self._watch = None
        if change.holder is not None and type(change.holder.get(change.key)) is float:
            self._schedules.append((change.holder, change.key))
        else:
            self._may_record_anew(f"{change.name} changes again and again")

    def _may_record_anew(self, why_not: str) -> bool:
        self._anew += 1
        if self._anew > _MOST_ANEW:
            self._give_up(why_not)
        return self._anew <= _MOST_ANEW

    def _differences(
        self,
        found: Sequence[Tensor],
        expected: Sequence[Tensor],
        names: Sequence[str],
        values: int,
        products: set[str],
    ) -> Iterator[str]:
        for i, (ours, theirs, name) in enumerate(zip(found, expected, names, strict=True)):
            kind: Any = "bf16"
            if self._precision != "bf16":
                kind = rounding(theirs.dtype if i else ours.dtype, products, ours.device)
            most = _TOLERANCE.get(kind, _TOLERANCE["bf16"])[i > 0]
            ours, theirs = ours.double(), theirs.to(ours.device).double()
            size, error = float(theirs.norm()), float((ours - theirs).norm())
            size = size if i else max(size, values)
            if not error <= most * size:
                yield f"{name} differs by {error / (size or 1):.1e} of its size"

    def _give_up(self, why: str) -> None:
        self.why_not, self._watch = why, None
        self._graphs.clear()
        warnings.warn(f"SVI runs eagerly from here on: {why}.", stacklevel=5)


def _due(recorded: Recorded) -> bool:
    """Whether a graph is to be compared: with its second minibatch, and every 500 steps."""
    return recorded.uses == 1 or not recorded.uses % CHECKED_EVERY


def _put(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _rewind(buffers: Sequence[Tensor], state: tuple[list[Tensor], Any]) -> None:
    values, noise = state
    restore_noise(noise)
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)
