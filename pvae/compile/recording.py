"""Records a function's tensor operations; raises if the recording would be wrong."""

import contextlib
import gc
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pyro
import pyro.util
import torch
from pyro.infer.util import Dice
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot, make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from pvae.runtime import default_device

__all__ = ["FRESH", "LeavesTorch", "is_random", "record"]

FRESH = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)
"""Operations that make a tensor of numbers, as `torch.tensor(1.0)` does."""

_VALUES = {
    Tensor.item, Tensor.__int__, Tensor.__float__, Tensor.__bool__, Tensor.__index__,
    Tensor.__complex__,
}  # fmt: skip
_EXITS = {
    Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.__deepcopy__,
    Tensor.__cuda_array_interface__.__get__,
}  # fmt: skip
_MAKERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}

_EXPECTATION = Dice.compute_expectation


class LeavesTorch(Exception):
    """A function uses values that no recording of its tensor operations holds.

    Attributes:
        what: What it does.
        instead: What to do in its place.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what)
        self.what, self.instead = what, instead


def record(
    function: Callable[[], list[Tensor]], inputs: Sequence[Tensor]
) -> tuple[GraphModule, torch.device | None]:
    """Returns a function's operations, and the device of all tensors in them.

    The device is None if there are several. Tensors of numbers that name no device
    (`torch.tensor(1.0)`) are made on the inputs' device, if all tensors are then there.

    Args:
        function: Takes nothing, returns tensors.
        inputs: Different tensors that the function reads.

    Raises:
        LeavesTorch: If the function takes values out of torch (except those that follow from
            numbers alone), or draws random numbers from Python or NumPy.
        Exception: What the function raises.
    """
    program = _recorded(function, inputs)
    devices, place = _devices(program.graph.nodes), inputs[0].device
    if devices == {place}:
        return program, place
    drawn = _devices(node for node in program.graph.nodes if is_random(node))
    if place.type != "cpu" and drawn <= {place}:  # else other random numbers would be drawn
        with contextlib.suppress(Exception), default_device(place):
            again = _recorded(function, inputs)
            if _devices(again.graph.nodes) == {place}:
                return again, place
    return program, None


def is_random(node: Node) -> bool:
    """Whether an operation draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _recorded(function: Callable[[], list[Tensor]], inputs: Sequence[Tensor]) -> GraphModule:
    generators = _generators()
    before = [_state(g) for g in generators]
    # One fake mode for all values: `make_fx` would make one for each, with the call stack.
    fake = torch._guards.TracingContext(FakeTensorMode(allow_fallback_kernels=True))
    with _tolerant(), torch._guards.tracing(fake):
        program = make_fx(lambda *_: function())(*inputs)
    if before != [_state(g) for g in generators]:
        raise LeavesTorch(
            "a program draws random numbers from Python or NumPy",
            "Draw them with torch, for example with torch.rand(())",
        )
    for node in reversed(program.graph.nodes):  # unused tensors that are made of numbers
        made = not node.all_input_nodes or node.target in FRESH
        if made and not (node.users or node.is_impure() or is_random(node)):
            program.graph.erase_node(node)
    program.recompile()
    return program


def _generators() -> list[Any]:
    """Returns every generator of Python and NumPy that exists."""
    kinds = (random.Random, np.random.Generator, np.random.RandomState)
    return [
        found
        for found in gc.get_objects()
        if issubclass(type(found), kinds) and not isinstance(found, random.SystemRandom)
    ]


def _state(generator: Any) -> bytes:
    if isinstance(generator, random.Random):
        return pickle.dumps(generator.getstate())
    if isinstance(generator, np.random.Generator):
        return pickle.dumps(generator.bit_generator.state)
    return pickle.dumps(generator.get_state(legacy=False))


def _devices(nodes: Any) -> set[torch.device]:
    found = set()
    for node in nodes:
        if node.op == "get_attr":
            found.add(getattr(node.graph.owning_module, node.target).device)
        values = tree_leaves(node.meta.get("val"))
        found |= {value.device for value in values if isinstance(value, Tensor)}
    return found


@contextlib.contextmanager
def _tolerant() -> Iterator[None]:
    """Runs Pyro's ELBOs without their checks of tensors' values."""
    with (
        pyro.validation_enabled(False),
        patch.object(pyro.util, "torch_isnan", lambda _: False),  # it serves a warning only
        patch.object(Dice, "compute_expectation", _expectation),
        _Values(),
    ):
        yield


class _Values(TorchFunctionMode):
    """Gives a tensor's values to a function if they follow from numbers alone, such as sizes.

    Otherwise `.item()` returns a tensor without dimensions, because Pyro adds such numbers up;
    `.numpy()`, `.tolist()` and the like raise; and torch itself refuses decisions and indices.
    Lists that hold tensors are stacked, because `torch.tensor` would copy their values unrecorded.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _VALUES or func in _EXITS:
            if _made_of_numbers(args[0]):
                with _disable_current_modes():
                    return func(*args, **kwargs)
            if func is Tensor.item:
                return args[0].detach()
            if func in _EXITS:
                name = getattr(func, "__name__", "")
                raise LeavesTorch(
                    f"a program takes values out of torch by Tensor.{name}",
                    "Compute with torch in place of NumPy and lists",
                )
        if func in _MAKERS and (made := _stacked(func, args, kwargs)) is not None:
            return made
        if func is torch.nn.functional.one_hot:  # which checks the range of its indices
            return _one_hot(*args, **kwargs)
        return func(*args, **kwargs)


def _stacked(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """Makes a tensor of a list of numbers and tensors; returns None for anything else."""
    first = func is Tensor.new_tensor
    data = args[first] if len(args) > first else kwargs.get("data", kwargs.get("obj"))
    leaves = tree_leaves(data)
    if isinstance(data, Tensor) or not any(isinstance(leaf, Tensor) for leaf in leaves):
        return None
    with _disable_current_modes():
        like = func(*args, **kwargs)
    options = {"dtype": like.dtype, "device": like.device}
    parts = [
        leaf.detach().reshape(()).to(**options)
        if isinstance(leaf, Tensor)
        else torch.full((), leaf, **options)
        for leaf in leaves
    ]
    return torch.stack(parts).reshape(like.shape).requires_grad_(like.requires_grad)


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        return torch.nn.functional.one_hot(tensor, num_classes)
    return (tensor[..., None] == torch.arange(num_classes, device=tensor.device)).long()


def _expectation(dice: Dice, costs: dict[Any, list[Tensor]]) -> Any:
    """Computes DiCE's expectation without a test for terms of probability zero."""
    with _AllTerms():
        return _EXPECTATION(dice, costs)


class _AllTerms(TorchFunctionMode):
    """Counts terms of probability zero, which DiCE leaves out of its sums, as zeros."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.all:
            return False
        if func is Tensor.masked_select:
            return torch.where(args[1], args[0], args[0].new_zeros(()))
        return func(*args, **(kwargs or {}))


def _made_of_numbers(tensor: Tensor) -> bool:
    """Whether a tensor's values follow from numbers alone and are never changed in place."""
    mode = get_proxy_mode()
    node = mode and get_proxy_slot(tensor, mode.tracer, None, lambda found: found.proxy.node)
    if node is None:
        return False
    sources = _closure([node], lambda n: n.all_input_nodes)
    for source in sources:
        number = source.op == "get_attr" and all(user.target in FRESH for user in source.users)
        if not (number or (source.op == "call_function" and not is_random(source))):
            return False
    touched = _closure(sources, lambda n: n.users)
    schemas = [getattr(user.target, "_schema", None) for user in touched]
    return not any(schema is not None and schema.is_mutable for schema in schemas)


def _closure(nodes: Sequence[Node], following: Callable[[Node], Any]) -> list[Node]:
    found, left = {}, list(nodes)
    while left:
        node = left.pop()
        if node not in found:
            found[node] = None
            left += following(node)
    return list(found)
