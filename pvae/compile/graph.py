"""Graph: what a function does to tensors, recorded once and compiled."""

import functools
import re
import traceback
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pvae.compile.recording import FRESH, LeavesTorch, is_random, place, record
from pvae.errors import first_line

__all__ = ["Graph", "decides", "in_words"]

_PRODUCTS = {"conv": r"conv", "rnn": r"rnn|lstm|gru", "matmul": r"mm\b|matmul|dot|mv\b"}


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

    Attributes:
        device: The device of all its tensors: those that it reads, makes and returns. None where
            there are several: then it must not be captured as a CUDA graph, which would read host
            memory again at each replay, or keep the values that were there.
        products: Kinds of products that it takes: `"matmul"`, `"conv"`, `"rnn"`.
        constants: Tensors that it found elsewhere than among the inputs.

    Raises:
        LeavesTorch: If the function takes values of tensors out of torch, to NumPy or to a list.
        Exception: Whatever the function raises; of torch, if it decides by a tensor's values
            (`if`, or an index) or the compiler cannot do it.

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
        with torch.no_grad(), warnings.catch_warnings():
            # A remark on the user's precision, in the middle of a progress bar.
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
            self._run = torch._inductor.compile(
                program, everything, options={"fallback_random": True}
            )

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns what the function would, for other tensors of the same shapes."""
        with torch.no_grad():
            return self._run(*inputs, *self.constants, *(draw() for draw in self._noise))


def in_words(error: Exception) -> str:
    """Says why a function could not be recorded or compiled."""
    if isinstance(error, LeavesTorch):
        return str(error)
    text = f"{type(error).__name__}: {first_line(error)[:200]}"
    if decides(error):
        where = place(traceback.extract_tb(error.__traceback__))
        return f"a program decides by the value of a tensor (if, float(), int() or an index){where}"
    if "DynamicOutputShapeException" in text:
        name = first_line(error).removeprefix("aten.").partition(".")[0]
        return f"the size of a tensor depends on the values of another, as in x[x > 0] ({name})"
    if "InvalidCxxCompiler" in text or "CppCompileError" in text:
        return f"PyTorch's compiler finds no C++ compiler that works ({text})"
    return f"the pair could not be recorded ({text})"


def decides(error: Exception) -> bool:
    """Whether a function could not be recorded since Python asks for the value of a tensor."""
    return "It appears that you're trying to get value out of a tracing tensor" in str(error)


def _lift(program: GraphModule) -> list[Tensor]:
    """Turns tensors that were found outside the inputs into inputs, and returns them.

    Not so those that the function made of numbers: they are constants.
    """
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
    """Turns random numbers into inputs, and returns what draws them, in order.

    Only where there are several, and where none depends on the value of a tensor.
    """
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
