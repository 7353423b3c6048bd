"""A function of a batch as a module for any number of data."""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from pvae.compile import is_random, record
from pvae.errors import PvaeError

__all__ = ["Rows"]

_SIZES = 3, 5  # of the batches that are recorded
_ATEN = torch.ops.aten
_SHAPE_ONLY = {  # operations that read the shape of a tensor, not its values
    _ATEN.new_zeros, _ATEN.new_ones, _ATEN.new_full, _ATEN.zeros_like, _ATEN.ones_like,
    _ATEN.full_like,
}  # fmt: skip


class Rows(nn.Module):
    """Computes a function of a batch for any number of data.

    Programs use the number of data as a plain number, as in `len(x)`, which a recording keeps. So
    the function is recorded with batches of 3 and 5 data, and a number of the recordings that
    differs, such as a size, becomes that affine function of the number of data B: 12 and 20 are 4B.

    Args:
        function: Maps tensors [B, ...] to tensors by name.
        inputs: Its arguments, by name.
        weights: Parameters and buffers by name.
        optional: The inputs that are left out if the outputs do not depend on them.

    Attributes:
        inputs: The names of the inputs.
        outputs: The names of the outputs, sorted.

    Raises:
        PvaeError: If an output is drawn at random, or the operations depend on B.
        Exception: What the function raises, or the recording.
    """

    def __init__(
        self,
        function: Callable[..., Mapping[str, Tensor]],
        inputs: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        optional: Sequence[str] = (),
    ) -> None:
        super().__init__()
        # Tied tensors have several names.
        different = {id(tensor): name for name, tensor in reversed(weights.items())}
        named = {name: weights[name] for name in reversed(different.values())}
        (graph, self.outputs), (other, _) = (
            _recorded(function, inputs, [*named.values()], size) for size in _SIZES
        )
        if drawn := [node for node in graph.graph.nodes if is_random(node)]:
            raise PvaeError(f"its result is drawn at random ({_name(drawn[0])}).")
        _generalise(graph, other)
        holders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        size = _size_of(graph.graph)
        self.inputs, self._keys = [], []
        for name, node in zip([*inputs, *named], holders, strict=True):
            if name in inputs and (name not in optional or set(node.users) - {size}):
                self.inputs.append(name)
            elif not node.users:
                graph.graph.erase_node(node)
            elif name in inputs:  # only its size is read
                node.replace_all_uses_with(holders[0])
                graph.graph.erase_node(node)
            else:
                self._keys.append(self._keep(name, named[name]))
        graph.recompile()
        self.operations = graph  # not "graph": an exported module has an attribute of that name

    def _keep(self, name: str, value: Tensor) -> str:
        key = re.sub(r"\W", "_", name)
        while hasattr(self, key):
            key += "_"
        self.register_buffer(key, value.detach())
        return key

    def forward(self, *rows: Tensor) -> dict[str, Tensor]:
        found = self.operations(*rows, *(getattr(self, key) for key in self._keys))
        return dict(zip(self.outputs, found, strict=True))


def _recorded(
    function: Callable[..., Mapping[str, Tensor]],
    inputs: Mapping[str, Tensor],
    weights: list[Tensor],
    size: int,
) -> tuple[GraphModule, list[str]]:
    """Records a function of a batch of some size, without changes in place and dead operations."""
    rows = [value[torch.arange(size) % len(value)] for value in inputs.values()]
    tensors, names = [*rows, *weights], []

    def values() -> list[Tensor]:
        found = function(*rows)
        names[:] = sorted(found)
        return [found[name].clone() for name in names]  # no output is an input or another output

    first, _ = record(values, tensors)
    with torch.no_grad():
        graph = make_fx(torch.func.functionalize(first))(*tensors)
        _forget_shapes(graph, tensors)
    needed = _needed(graph.graph)
    for node in reversed(graph.graph.nodes):
        if node not in needed and node.op != "placeholder":
            graph.graph.erase_node(node)
    constants: dict[str, Tensor] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value, node.target = getattr(graph, node.target), f"constant_{len(constants)}"
            constants[node.target] = value.detach()
    return GraphModule(constants, graph.graph), names  # without the constants of dead operations


def _needed(graph: Graph) -> set[Node]:
    """Returns the nodes that the output depends on."""
    todo = [node for node in graph.nodes if node.op == "output"]
    needed = set(todo)
    while todo:
        more = set(todo.pop().all_input_nodes) - needed
        needed |= more
        todo += more
    return needed


def _forget_shapes(graph: GraphModule, tensors: list[Tensor]) -> None:
    """Replaces tensors that are made by the shape of another, which would then be an input."""
    made: dict[Node, Tensor] = {}

    class Keeping(Interpreter):
        def run_node(self, n: Node) -> object:
            value = super().run_node(n)
            if getattr(n.target, "overloadpacket", None) in _SHAPE_ONLY:
                made[n] = value
            return value

    Keeping(graph).run(*tensors)
    for node, value in made.items():
        fill = value.flatten()[0].item() if value.numel() else 0
        with graph.graph.inserting_before(node):
            full = graph.graph.call_function(
                _ATEN.full.default, ([*value.shape], fill), {"dtype": value.dtype}
            )
        node.replace_all_uses_with(full)
        graph.graph.erase_node(node)


def _generalise(graph: GraphModule, other: GraphModule) -> None:
    """Replaces the numbers that differ between two recordings by functions of the batch size."""
    ours, theirs = list(graph.graph.nodes), list(other.graph.nodes)
    place = {node: i for i, node in enumerate(ours)} | {node: i for i, node in enumerate(theirs)}
    if [(n.op, str(n.target)) for n in ours] != [(n.op, str(n.target)) for n in theirs]:
        raise PvaeError(
            f"a program does other operations for {_SIZES[0]} data than for {_SIZES[1]}. Compute "
            "with all data of a batch at once, not in a loop over them."
        )
    batch = None
    for a, b in zip(ours, theirs, strict=True):
        if a.op == "get_attr":
            one, two = getattr(graph, a.target), getattr(other, b.target)
            if one.shape != two.shape or not torch.equal(one, two):
                raise PvaeError(
                    "a program makes a tensor of numbers for each batch, as torch.tensor of a list "
                    "does. Make it with torch.zeros, torch.full or torch.arange."
                )
        if a.op != "call_function":
            continue
        left, spec = tree_flatten((list(a.args), a.kwargs))
        right, other_spec = tree_flatten((list(b.args), b.kwargs))
        if spec != other_spec:
            raise PvaeError(f"the arguments of {_name(a)} depend on the number of data.")
        for i, (x, y) in enumerate(zip(left, right, strict=True)):
            same = place[x] == place.get(y) if isinstance(x, Node) else _equal(x, y)
            if same:
                continue
            slope = (y - x) / (_SIZES[1] - _SIZES[0]) if type(x) is type(y) is int else 0.5
            if slope != int(slope):
                raise PvaeError(f"an argument of {_name(a)} depends on the number of data.")
            batch = batch or _batch_size(graph.graph)
            with graph.graph.inserting_before(a):
                left[i] = graph.graph.call_function(
                    _affine, (batch, int(slope), x - int(slope) * _SIZES[0])
                )
        args, a.kwargs = tree_unflatten(left, spec)
        a.args = tuple(args)


def _affine(size: int, slope: int, shift: int) -> int:
    size = size if slope == 1 else slope * size
    return size + shift if shift else size


def _batch_size(graph: Graph) -> Node:
    holders = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_after(holders[-1]):
        return graph.call_function(_ATEN.sym_size.int, (holders[0], 0))


def _size_of(graph: Graph) -> Node | None:
    return next((n for n in graph.nodes if n.target is _ATEN.sym_size.int), None)


def _equal(x: object, y: object) -> bool:
    return type(x) is type(y) and (x == y or x != x)


def _name(node: Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]
