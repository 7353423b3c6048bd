"""Recorded: a graph for one signature of arguments; its inputs are what may change."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from pvae.compile.cuda_graph import Replay
from pvae.compile.graph import Graph

__all__ = ["Recorded", "as_number", "signature_of"]


class Recorded:
    """The graph of a function for one signature of its arguments (see `signature_of`).

    Args:
        function: Maps arguments to tensors.
        trained: Tensors that the function differentiates with respect to.
        owned: Tensors that the function reads anywhere: inputs of the graph.
        schedules: Places, as (holder, key), of floats and tensors that the function reads: inputs
            of the graph.
        args: Arguments by position. Their tensors and floats are inputs of the graph.
        kwargs: Arguments by name.
        fixed: Whether floats among the arguments, except the first, are constants.

    Attributes:
        uses: Number of calls and replays so far.
        used: Ids of the parameters that the programs use.
        device: The device of all tensors of the graph, or None.
        products: Kinds of products in it.
    """

    def __init__(
        self,
        function: Callable[..., list[Tensor]],
        trained: list[Tensor],
        owned: Sequence[Tensor],
        schedules: Sequence[tuple[Any, Any]],
        args: Any,
        kwargs: Any,
        *,
        fixed: bool = False,
    ) -> None:
        self.trained, self.uses, self._fixed = trained, 0, fixed
        self.used: frozenset[int] = frozenset()
        self._replayed: Replay | None = None
        self._captured_with: Any = None
        self._owned = list({id(t): t for t in owned}.values())
        self._schedules = list(schedules)
        raw, spec = tree_flatten((args, kwargs))
        leaves = [self._as_input(leaf, i) for i, leaf in enumerate(raw)]
        # Different tensors, so that no two inputs are the same.
        numbers = [n.detach() if isinstance(n, Tensor) else n for n in self._numbers()]
        places = [holder[key] for holder, key in self._schedules]
        floats = {
            id(new): bool(old)
            for old, new in zip((*raw, *places), (*leaves, *numbers), strict=True)
            if new is not old and not isinstance(old, Tensor)
        }

        def call() -> list[Tensor]:
            before = [holder[key] for holder, key in self._schedules]
            try:
                self._set(numbers)
                args, kwargs = tree_unflatten(leaves, spec)
                with _Truths(floats):
                    return function(*args, **kwargs)
            finally:
                self._set(before)

        self._graph = Graph(call, [*self._owned, *_tensors(numbers), *_different(leaves)])
        self.device, self.products = self._graph.device, self._graph.products

    def __call__(self, args: Any, kwargs: Any) -> list[Tensor]:
        self.uses += 1
        return self.run(self._inputs(args, kwargs))

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns the loss, the norm and the gradients."""
        return self._graph([*self._owned, *inputs])

    def replay(
        self,
        step: Callable[[Sequence[Tensor]], list[Tensor]],
        changes: Callable[[], Sequence[Tensor]],
        constants: Any,
        args: Any,
        kwargs: Any,
    ) -> list[Tensor]:
        """Replays a step that begins with `run`; captures it first if needed."""
        inputs = self._inputs(args, kwargs)
        # A captured graph holds addresses: it would not see a tensor's new memory.
        places = [t.data_ptr() for t in (*self._owned, *self._graph.constants)]
        constants = constants, places
        if self._replayed is None or self._captured_with != constants:
            self._replayed = Replay(step, inputs, [*self._owned, *changes()])
            self._captured_with = constants
        self.uses += 1
        return self._replayed(inputs)

    def _inputs(self, args: Any, kwargs: Any) -> list[Tensor]:
        leaves = [self._as_input(leaf, i) for i, leaf in enumerate(_flatten(args, kwargs)[0])]
        return [*_tensors(self._numbers()), *_different(leaves)]

    def _as_input(self, leaf: Any, i: int) -> Any:
        # The first is the weight of the KL, which no program reads.
        return leaf if self._fixed and i and type(leaf) is float else self._as_tensor(leaf)

    def _numbers(self) -> list[Any]:
        return [self._as_tensor(as_number(holder[key])) for holder, key in self._schedules]

    def _as_tensor(self, leaf: Any) -> Any:
        # Type promotion treats a tensor without dimensions as a number. On a GPU it is made there,
        # without waiting, so that a CUDA graph can read it.
        device = self.trained[0].device
        if type(leaf) is float:
            return torch.full((), leaf, dtype=torch.float64, device=device)
        if isinstance(leaf, Tensor) and not leaf.ndim and leaf.device.type == "cpu" != device.type:
            return torch.full((), leaf.item(), dtype=leaf.dtype, device=device)
        return leaf

    def _set(self, values: Sequence[Any]) -> None:
        for (holder, key), value in zip(self._schedules, values, strict=True):
            holder[key] = value


class _Truths(TorchFunctionMode):
    """Answers whether a float is zero (`beta or 1.0`); `signature_of` separates the two cases."""

    def __init__(self, floats: dict[int, bool]) -> None:
        super().__init__()
        self._floats = floats

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__bool__ and id(args[0]) in self._floats:
            return self._floats[id(args[0])]
        return func(*args, **(kwargs or {}))


def as_number(value: Any) -> Any:
    """Returns any number as a float, and other values unchanged."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return float(value) if number else value


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def _different(leaves: Sequence[Any]) -> list[Tensor]:
    """Returns each tensor once; a repeated tensor has another `signature_of`."""
    return list({id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}.values())


def _flatten(args: Any, kwargs: Any) -> tuple[Sequence[Any], Any]:
    """Returns the arguments without their containers, and the containers' structure."""
    values = (*args, *kwargs.values())
    if all(isinstance(value, Tensor | float | int | str | None) for value in values):
        return values, (len(args), *kwargs)  # without containers, the usual case: ten times faster
    return tree_flatten((args, kwargs))


def signature_of(args: Any, kwargs: Any, *, fixed: bool = False) -> tuple[Any, int]:
    """Returns what a graph depends on in its arguments except their leading size, and that size.

    Args:
        args: Arguments by position.
        kwargs: Arguments by name.
        fixed: Whether the graph depends on the values of floats, too.

    Raises:
        TypeError: If an argument is no tensor, number, string or container of these.
    """
    leaves, spec = _flatten(args, kwargs)
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
            parts.append((float, leaf if fixed else leaf != 0))
        elif isinstance(leaf, bool | int | str | None):
            parts.append((type(leaf), leaf))
        else:
            raise TypeError(
                f"an argument has the type {type(leaf).__name__}, and compiled steps take tensors, "
                "numbers, strings and containers of these"
            )
    return tuple(parts), size
