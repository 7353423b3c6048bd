"""Graph: a function of tensors, recorded once and compiled."""

import functools
import re
import traceback
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pvae.compile import limit
from pvae.compile.limit import TooSlow, limited
from pvae.compile.recording import FRESH, LeavesTorch, is_random, record
from pvae.errors import first_line
from pvae.pair import place

__all__ = ["Graph", "decides", "in_words"]

_PRODUCTS = {"conv": r"conv", "rnn": r"rnn|lstm|gru", "matmul": r"mm\b|matmul|dot|mv\b"}


class Graph:
    """Records a function's tensor operations in one call, and compiles them.

    Python's part (control flow, numbers, strings, Pyro's handlers) is constant from then on.
    Tensors that are not among the inputs are held by reference, so that the graph sees later
    changes in place. Random numbers come from torch's global generators. If there are several
    random operations, they run before the others, in the function's order, because the compiler
    may reorder them.

    Args:
        function: Takes nothing, returns tensors; it may differentiate. The graph repeats its
            changes in place.
        inputs: The tensors that calls of the graph replace, all different. The function may read
            them from anywhere: the recording recognises them by identity.

    Attributes:
        device: The device of all its tensors, or None if there are several. In this case do not
            capture it as a CUDA graph: that would read host memory at each replay or keep old
            values.
        products: Kinds of products in it: `"matmul"`, `"conv"`, `"rnn"`.
        constants: Tensors that it reads and that are not among the inputs.

    Raises:
        LeavesTorch: If the function takes values of tensors out of torch, to NumPy or to a list,
            or draws random numbers from Python or NumPy.
        TooSlow: If the compiler takes longer than `pvae.compile.limit.SECONDS`.
        Exception: What the function raises; torch's own, if the function decides by a tensor's
            value (`if`, or an index) or the compiler fails.

    Example:
        >>> x = torch.ones(3)
        >>> graph = Graph(lambda: [2 * x], [x])
        >>> graph([torch.arange(3.0)])
        [tensor([0., 2., 4.])]
    """

    def __init__(self, function: Callable[[], list[Tensor]], inputs: Sequence[Tensor]) -> None:
        program, self.device = record(function, inputs)
        names = " ".join(str(node.target) for node in program.graph.nodes)
        self.products = {kind for kind, name in _PRODUCTS.items() if re.search(name, names)}
        self.constants = _lift(program)
        self._noise = _draw_outside(program)
        everything = [*inputs, *self.constants, *(draw() for draw in self._noise)]
        with torch.no_grad(), warnings.catch_warnings(), limited(limit.SECONDS):
            # Advice on the user's precision, which would break a progress bar.
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
            self._run = torch._inductor.compile(
                program, everything, options={"fallback_random": True}
            )

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns the function's results for other inputs of the same shapes."""
        with torch.no_grad():
            return self._run(*inputs, *self.constants, *(draw() for draw in self._noise))


def in_words(error: Exception) -> str:
    """Says why a function could not be recorded or compiled, where, and what to change.

    The text has no full stop at its end.
    """
    text = f"{type(error).__name__}: {first_line(error)[:200]}"
    where = place(traceback.extract_tb(error.__traceback__))
    where = where and f" ({where})"
    if isinstance(error, TooSlow):
        return str(error)
    if isinstance(error, LeavesTorch):
        return f"{error.what}{where}, and a graph would repeat those of one call. {error.instead}"
    if decides(error):
        return (
            f"a program decides by the value of a tensor{where}, as if, float(), int() and an "
            "index do. Keep the value a tensor, for example with torch.where or torch.gather"
        )
    if "DynamicOutputShapeException" in text:
        name = first_line(error).removeprefix("aten.").partition(".")[0]
        return (
            f"the size of a tensor depends on the values of another ({name}), as in x[x > 0]. Keep "
            "the size, for example with torch.where"
        )
    if "InvalidCxxCompiler" in text or "CppCompileError" in text:
        return (
            f"PyTorch's compiler finds no C++ compiler that works ({text}). Install one, such as "
            "g++, or name one in the environment variable CXX"
        )
    return f"the pair could not be recorded{where} ({text})"


def decides(error: Exception) -> bool:
    """Whether recording failed because Python asked for the value of a tensor."""
    return "It appears that you're trying to get value out of a tracing tensor" in str(error)


def _lift(program: GraphModule) -> list[Tensor]:
    """Turns tensors from outside into inputs and returns them; tensors of numbers stay."""
    graph = program.graph
    lifted: dict[str, Node] = {}
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.nodes):
        if node.op != "get_attr" or all(user.target in FRESH for user in node.users):
            continue
        if node.target not in lifted:
            with graph.inserting_after(last):
                last = lifted[node.target] = graph.placeholder(f"constant_{len(lifted)}")
        node.replace_all_uses_with(lifted[node.target])
        graph.erase_node(node)
    program.recompile()
    return [getattr(program, name) for name in lifted]


def _draw_outside(program: GraphModule) -> list[Callable[[], Tensor]]:
    """Turns several random numbers that depend on no value into inputs; returns what draws them."""
    graph = program.graph
    nodes = [node for node in graph.nodes if is_random(node)]
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
    """Whether a random operation depends on its arguments' shapes and not on their values."""
    tensors = [arg for arg in node.args if isinstance(arg, Node)]
    fresh = all(len(arg.users) == 1 and "empty" in str(arg.target) for arg in tensors)
    return (fresh and node.target._schema.is_mutable) or "rand" in node.target._schema.name


def _again(node: Node) -> Callable[[], Tensor]:
    """Returns a function that repeats a random operation."""
    target, kwargs = node.target, node.kwargs
    args = [_empty_like(arg) if isinstance(arg, Node) else arg for arg in node.args]

    def draw() -> Tensor:
        return target(*(arg() if callable(arg) else arg for arg in args), **kwargs)

    return draw


def _empty_like(node: Node) -> Callable[[], Tensor]:
    like = node.meta["val"]
    options = {"dtype": like.dtype, "device": like.device}
    return functools.partial(torch.empty_strided, tuple(like.shape), like.stride(), **options)
