"""Graph: what a function does to tensors, recorded once and compiled."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import pyro
import pyro.util
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from pvae.errors import first_line

__all__ = ["Graph", "in_words"]

_FRESH = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)


class Graph:
    """A function of tensors as one compiled program, without the Python around it.

    The function is called once. What it does to tensors is recorded; what Python does (control
    flow, numbers, strings, the handlers of Pyro) is not, and stays as it was in that call.
    Tensors that it finds elsewhere than among the inputs are taken by reference: later changes
    in place are seen. Random numbers come from torch's global generators, by the operations of
    the function: where there are several, they are drawn first, in their order, which the
    compiler might change.

    Args:
        function: Takes nothing, returns tensors; it may differentiate. What it changes in place
            is changed by the recording too.
        inputs: Different tensors that the function reads, recognised by identity wherever it
            finds them.

    Raises:
        Exception: Whatever the function raises; of torch, if it looks at a tensor's values
            (`.item()` and `if` of a result) or the compiler cannot do it.

    Example:
        >>> x = torch.ones(3)
        >>> graph = Graph(lambda: [2 * x], [x])
        >>> graph([torch.arange(3.0)])
        [tensor([0., 2., 4.])]
    """

    def __init__(self, function: Callable[[], list[Tensor]], inputs: Sequence[Tensor]) -> None:
        with _tolerant():
            program = make_fx(lambda *_: function())(*inputs)
        self._constants = _lift(program)
        self._noise = _draw_outside(program)
        self.num_operations = sum(node.op == "call_function" for node in program.graph.nodes)
        everything = [*inputs, *self._constants, *(draw() for draw in self._noise)]
        with torch.no_grad():
            self._run = torch._inductor.compile(
                program, everything, options={"fallback_random": True}
            )

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns what the function would, for other tensors of the same shapes."""
        with torch.no_grad():
            return self._run(*inputs, *self._constants, *(draw() for draw in self._noise))


def in_words(error: Exception) -> str:
    """Says why a function could not be recorded or compiled."""
    text = f"{type(error).__name__}: {first_line(error)[:200]}"
    if "It appears that you're trying to get value out of a tracing tensor" in str(error):
        return "a program decides by the value of a tensor (if, float(), int() or an index)"
    if "InvalidCxxCompiler" in text or "CppCompileError" in text:
        return f"PyTorch's compiler finds no C++ compiler that works ({text})"
    return f"the pair could not be recorded ({text})"


def _lift(program: GraphModule) -> list[Tensor]:
    """Turns tensors that were found outside the inputs into inputs, and returns them.

    Not so those that the function made of numbers: they are constants.
    """
    graph, constants = program.graph, []
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.nodes):
        if node.op != "get_attr" or all(user.target in _FRESH for user in node.users):
            continue
        with graph.inserting_after(last):
            last = graph.placeholder(f"constant_{len(constants)}")
        constants.append(getattr(program, node.target))
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    program.recompile()
    return constants


def _draw_outside(program: GraphModule) -> list[Callable[[], Tensor]]:
    """Turns random numbers into inputs, and returns what draws them, in order.

    Only where there are several, and where none depends on the value of a tensor.
    """
    graph = program.graph
    seeded = torch.Tag.nondeterministic_seeded
    nodes = [n for n in graph.nodes if seeded in getattr(n.target, "tags", ())]
    if len(nodes) < 2 or not all(map(_by_shape_alone, nodes)):
        return []
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    draws = []
    for node in nodes:
        with graph.inserting_after(last):
            last = graph.placeholder(f"noise_{len(draws)}")
        draws.append(_again(node))
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    program.recompile()
    return draws


def _by_shape_alone(node: Node) -> bool:
    """Whether a random operation fills new memory, whatever the values of its arguments."""
    tensors = [arg for arg in node.args if isinstance(arg, Node)]
    fresh = all(len(arg.users) == 1 and "empty" in str(arg.target) for arg in tensors)
    return (fresh and node.target._schema.is_mutable) or "rand" in node.target._schema.name


def _again(node: Node) -> Callable[[], Tensor]:
    """Returns what does a random operation once more."""
    target, kwargs = node.target, node.kwargs
    args = [_empty_like(arg) if isinstance(arg, Node) else arg for arg in node.args]

    def draw() -> Tensor:
        return target(*(arg() if callable(arg) else arg for arg in args), **kwargs)

    return draw


def _empty_like(node: Node) -> Callable[[], Tensor]:
    like = node.meta["val"]
    options = {"dtype": like.dtype, "device": like.device}
    return functools.partial(torch.empty_strided, tuple(like.shape), like.stride(), **options)


@contextlib.contextmanager
def _tolerant() -> Iterator[None]:
    """Lets Pyro's ELBOs run without looking at the values of tensors."""
    with (
        pyro.validation_enabled(False),
        patch.object(pyro.util, "torch_isnan", lambda _: False),  # asked for a warning only
        _Items(),
    ):
        yield


class _Items(TorchFunctionMode):
    """Lets `.item()` return a tensor without dimensions: Pyro adds such numbers up.

    A program that makes a decision from one, or an index, still fails.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.item:
            return args[0].detach()
        return func(*args, **(kwargs or {}))
