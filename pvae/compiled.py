"""The gradient of a pair's loss as a compiled graph, compared with the eager one now and then."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine import runtime
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pvae.environment import is_out_of_memory, noise_state, restore_noise
from pvae.graph import Graph, in_words
from pvae.optimisers import Optimiser
from pvae.pair import OwnParameters, Program
from pvae.watch import Change, Watch

__all__ = ["CompiledGradient", "Gradient"]

CHECKED_EVERY = 500  # steps
MOST_GRAPHS = 8
_MOST_ANEW = 2
# Relative errors of the loss, and of a gradient in norm, that rounding explains.
_TOLERANCE = {"bf16": (1e-3, 0.1), torch.float64: (1e-9, 1e-7), torch.float32: (1e-5, 2e-3)}

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
        self._graphs: dict[Any, _Recorded] = {}
        self._largest: dict[Any, int] = {}
        self._schedules: list[tuple[dict[str, Any], str]] = []
        self._anew = 0
        self._watch: Watch | None = None

    def expect(self, args: Any, kwargs: Any) -> None:
        """Notes the size of the minibatches to come: smaller ones are not worth a graph."""
        kind, size = _kind(args, kwargs)
        self._largest[kind] = max(size, self._largest.get(kind, 0))

    def __call__(
        self, eager: Callable[[], Gradient], weight: float | None, args: Any, kwargs: Any
    ) -> Gradient | None:
        """Does what `eager` does by a graph; None, with nothing done, where there is none to use.

        Raises:
            PvaeError: What `eager` raises.
        """
        if self.why_not is not None:
            return None
        try:
            kind, size = _kind(args, kwargs)
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
        recorded = self._graphs.get(key)
        if recorded is not None and recorded.uses % CHECKED_EVERY:
            loss, norm, *gradients = recorded((weight, *args), kwargs)
            _put(recorded.trained, gradients)
            return loss, norm
        return self._checked(key, eager, (weight, *args), kwargs)

    def check_next(self) -> None:
        """Has the next step compared with the eager one."""
        for recorded in self._graphs.values():
            recorded.uses = 0

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
        recorded = self._graphs.get(key)
        # Parameters that have appeared, or lost their gradient, are not those of the graph.
        known = recorded is not None and list(map(id, recorded.trained)) == list(map(id, trained))
        for fresh in (not known, True):
            for parameter in trained:
                parameter.grad = None
            _rewind(buffers, before)
            if fresh and not self._record(key, trained, args, kwargs):
                break
            _rewind(buffers, before)
            loss, norm, *gradients = self._graphs[key](args, kwargs)
            wrong = next(self._differences([loss, *gradients], expected, names), None)
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
        if not hasattr(self.loss, "differentiable_loss"):
            self._give_up(f"{type(self.loss).__name__} has no differentiable_loss")
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
                recorded = _Recorded(gradient, trained, owned, self._schedules, args, kwargs)
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
        elif self._anew < _MOST_ANEW:
            self._anew += 1
        else:
            self._give_up(f"{change.name} changes again and again")

    def _differences(
        self, found: Sequence[Tensor], expected: Sequence[Tensor], names: Sequence[str]
    ) -> Iterator[str]:
        for i, (ours, theirs, name) in enumerate(zip(found, expected, names, strict=True)):
            kind = "bf16" if self._precision == "bf16" else theirs.dtype if i else ours.dtype
            most = _TOLERANCE.get(kind, _TOLERANCE["bf16"])[i > 0]
            ours, theirs = ours.double(), theirs.to(ours.device).double()
            size, error = float(theirs.norm()), float((ours - theirs).norm())
            if not error <= most * size:
                yield f"{name} differs by {error / (size or 1):.1e} of its size"

    def _give_up(self, why: str) -> None:
        self.why_not, self._watch = why, None
        self._graphs.clear()
        warnings.warn(f"SVI runs eagerly from here on: {why}.", stacklevel=5)


class _Recorded:
    """A function of arguments of one kind, as a graph.

    Inputs of the graph are `owned`, the tensors and floats among the arguments, and the
    `schedules`: floats that the function reads from dicts, such as a module's attributes.
    """

    def __init__(
        self,
        function: Callable[..., list[Tensor]],
        trained: list[Tensor],
        owned: Sequence[Tensor],
        schedules: Sequence[tuple[dict[str, Any], str]],
        args: Any,
        kwargs: Any,
    ) -> None:
        self.trained, self.uses = trained, 0
        self._owned = list({id(t): t for t in owned}.values())
        self._schedules = list(schedules)
        numbers, leaves, spec = self._numbers(), *tree_flatten((args, kwargs))
        leaves = [self._as_tensor(leaf) for leaf in leaves]

        def call() -> list[Tensor]:
            before = [holder[key] for holder, key in self._schedules]
            try:
                self._set(numbers)
                args, kwargs = tree_unflatten(leaves, spec)
                return function(*args, **kwargs)
            finally:
                self._set(before)

        self._graph = Graph(call, [*self._owned, *numbers, *_different(leaves)])

    def __call__(self, args: Any, kwargs: Any) -> list[Tensor]:
        self.uses += 1
        leaves = [self._as_tensor(leaf) for leaf in tree_flatten((args, kwargs))[0]]
        return self._graph([*self._owned, *self._numbers(), *_different(leaves)])

    def _numbers(self) -> list[Tensor]:
        return [self._as_tensor(float(holder[key])) for holder, key in self._schedules]

    def _as_tensor(self, leaf: Any) -> Any:
        # A tensor without dimensions counts as a number where types are promoted. On a GPU it is
        # there, because a graph with inputs on the CPU is not replayed as one.
        if type(leaf) is not float:
            return leaf
        return torch.tensor(leaf, dtype=torch.float64, device=self.trained[0].device)

    def _set(self, values: Sequence[Any]) -> None:
        for (holder, key), value in zip(self._schedules, values, strict=True):
            holder[key] = value


def _different(leaves: Sequence[Any]) -> list[Tensor]:
    """One tensor that is two arguments is one input; `_kind` tells such calls apart."""
    return list({id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}.values())


def _kind(args: Any, kwargs: Any) -> tuple[Any, int]:
    """Returns what a graph depends on in its arguments but the leading size, and that size.

    Raises:
        TypeError: If an argument is of a kind that cannot be compared.
    """
    leaves, spec = tree_flatten((args, kwargs))
    parts: list[Any] = [spec]
    size, first = 0, {}
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            if leaf.ndim and not first:
                size = len(leaf)
            same, layout = first.setdefault(id(leaf), i), (leaf.dtype, leaf.device, leaf.stride())
            batch = leaf.ndim and len(leaf) == size
            parts.append((same, layout, batch, leaf.shape[1:] if batch else leaf.shape))
        elif type(leaf) is float:
            parts.append(float)
        elif isinstance(leaf, bool | int | str | None):
            parts.append((type(leaf), leaf))
        else:
            raise TypeError(f"an argument is a {type(leaf).__name__}, no tensor, number or string")
    return tuple(parts), size


def _put(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _rewind(buffers: Sequence[Tensor], state: tuple[list[Tensor], Any]) -> None:
    values, noise = state
    restore_noise(noise)
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)
