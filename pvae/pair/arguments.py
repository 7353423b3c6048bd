"""Arguments: how a pair is called, split into the data and what is passed through."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pvae.errors import PvaeError, first_line
from pvae.pair.parameters import quiet
from pvae.pair.program import Program
from pvae.runtime import free_memory, is_out_of_memory

__all__ = ["Arguments", "check_tensor"]

_LARGE = 1 << 28  # bytes; below it memory is not asked for

Visit = Callable[[str, Any], Any]


class Arguments:
    """The arguments of a call of a pair: the tensors that hold data, and the rest.

    The leading size of the first tensor with a dimension is B, the number of data. Every tensor
    of this leading size holds data, also inside lists, tuples and dicts; so does an integer that
    is the size of the batch (see `bind`), and a PackedSequence of B sequences, whose data are the
    padded sequences [B, T, ...] and their lengths [B]. All else is passed through as it is:
    numbers, strings, None, functions, tensors without a dimension or of another leading size.

    Args:
        args: Positional arguments.
        kwargs: Arguments by name.

    Attributes:
        batch: The tensors that hold data, in the order of the arguments.
        names: What to call each of them: `0`, `1['x']`, `beta`.
        size: B.
        aside: What to call the tensors with a dimension that are passed through.
        counting: Whether integers equal to B count the batch; None until `bind` has found out.

    Raises:
        PvaeError: If no argument is a tensor with a dimension, or one that holds data is none that
            can be computed with: see `check_tensor`.

    Example:
        >>> call = Arguments((torch.zeros(5, 3), {"y": torch.arange(5)}, 0.1))
        >>> call.names, call.size
        (['0', "1['y']"], 5)
        >>> (program,) = call.bind(lambda x, labels, beta: (len(x), len(labels["y"]), beta))
        >>> program(torch.zeros(2, 3), torch.arange(2))
        (2, 2, 0.1)
    """

    def __init__(self, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> None:
        self._call = (tuple(args), dict(kwargs or {}))
        self.counting: bool | None = None
        try:
            leaves = self._leaves()
        except RecursionError as error:
            raise PvaeError(
                "The arguments of the pair hold a list, tuple or dict that contains itself or is "
                "nested too deeply. Hand in the tensors."
            ) from error
        held = [(name, leaf) for name, leaf in leaves if _has_rows(leaf)]
        if not held:
            kinds = ", ".join(type(a).__name__ for a in (*args, *(kwargs or {}).values()))
            raise PvaeError(
                "A batch is one tensor or more, (x,) or (x, y), with what else the programs take; "
                f"this one holds {kinds or 'nothing'}."
            )
        for name, leaf in held:
            if leaf.is_nested or len(leaf) == len(held[0][1]):
                check_tensor(f"Argument {name} of the batch", leaf)
        self.size = len(held[0][1])
        self.names = [name for name, leaf in held if len(leaf) == self.size]
        self.batch = tuple(leaf for _, leaf in held if len(leaf) == self.size)
        self.aside = [f"{name} {list(leaf.shape)}" for name, leaf in held if len(leaf) != self.size]
        self._whole = not kwargs and len(self.batch) == len(args) == sum(map(_has_rows, args))
        self._counts = any(type(leaf) is int and leaf == self.size for _, leaf in leaves)

    def bind(self, *programs: Program) -> tuple[Program, ...]:
        """Returns programs of the batch alone, of any number of data; the rest is filled in.

        An integer equal to B counts the batch if only then the programs run with another number
        of data: it is the number of data of each call then.

        Args:
            *programs: The pair, guide last, or one of it. Where the arguments are the batch and
                nothing else, they are returned as they are.
        """
        if self._whole:
            return programs
        if self.counting is None:
            self.counting = self._counts and self._must_count(programs)
        return tuple(functools.partial(_call, self, program) for program in programs)

    def check_finite(self) -> None:
        """Raises a PvaeError if a value is not finite, but for NaN after the first tensor.

        NaN there may stand for what is missing, such as a label.
        """
        for name, tensor in zip(self.names, self.batch, strict=True):
            if not tensor.is_floating_point():
                continue
            broken = torch.isinf if name != self.names[0] else lambda t: ~t.isfinite()
            # In slabs: isfinite makes a copy of what it looks at.
            slabs = [broken(s).reshape(len(s), -1).any(1) for s in tensor.split(4096)]
            bad = torch.cat(slabs).nonzero()[:, 0]
            if len(bad):
                raise PvaeError(
                    f"Argument {name} of the batch holds NaN or infinite values in {len(bad)} of "
                    f"{len(tensor)} rows, the first of them row {int(bad[0])}. Remove or replace "
                    "them."
                )

    def constants(self) -> list[Any]:
        """Returns what is passed through and decides numbers: tensors, numbers and strings."""
        plain = bool | int | float | complex | str | Tensor | None
        rest = (leaf for name, leaf in self._leaves() if name not in self.names)
        return [leaf for leaf in rest if isinstance(leaf, plain)]

    def to(self, device: str | torch.device) -> "Arguments":
        """Returns the same arguments with every tensor on a device."""
        move = lambda _, leaf: _moved(leaf, device) if isinstance(leaf, Tensor) else leaf  # noqa: E731
        moved = Arguments(*self._map(move))
        moved.counting = self.counting
        return moved

    def filled(self, batch: Iterable[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns positional and named arguments with other data in place of the batch."""
        batch = tuple(batch)
        rest, size = iter(batch), len(batch[0])

        def fill(_: str, leaf: Any) -> Any:
            if _has_rows(leaf) and len(leaf) == self.size:
                return next(rest)
            return size if self.counting and type(leaf) is int and leaf == self.size else leaf

        return self._map(fill)

    def shorter(self, batch: Sequence[Tensor]) -> str | None:
        """Says which PackedSequence has fewer steps in a batch than in all data, if any has."""
        for name, whole, part in zip(self.names, self.batch, batch, strict=True):
            if not name.endswith(".lengths") or int(part.max()) == int(whole.max()):
                continue
            return (
                f"These {len(part)} data lack the longest sequence: the PackedSequence of argument "
                f"{name.removesuffix('.lengths')} has {int(part.max())} steps here and "
                f"{int(whole.max())} with all data, while tensors that were padded before keep "
                f"{int(whole.max())}. Let the programs take the number of steps from one of the "
                "two: pad_packed_sequence(…, total_length=x.size(1)), or a loop of lengths.max() "
                f"steps; or train with all data in each batch (batch_size={len(whole)})."
            )
        return None

    def _leaves(self) -> list[tuple[str, Any]]:
        leaves: list[tuple[str, Any]] = []

        def note(name: str, leaf: Any) -> Any:
            leaves.append((name, leaf))
            return leaf

        self._map(note)
        return leaves

    def _map(self, visit: Visit) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = self._call
        return (
            tuple(_map(visit, str(i), value) for i, value in enumerate(args)),
            {name: _map(visit, name, value) for name, value in kwargs.items()},
        )

    def _must_count(self, programs: Sequence[Program]) -> bool:
        """Whether the programs run with twice the data only if integers of size B double too."""
        twice, ends = [torch.cat([t, t]) for t in self.batch], (programs[0], programs[-1])
        devices = [self.batch[0].device] if self.batch[0].is_cuda else []
        for self.counting in (False, True):
            args, kwargs = self.filled(twice)
            try:
                with poutine.block(), quiet(*ends), torch.random.fork_rng(devices):
                    trace = poutine.trace(ends[1]).get_trace(*args, **kwargs)
                    replayed = poutine.replay(ends[0], trace=trace)
                    trace = poutine.trace(replayed).get_trace(*args, **kwargs)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                continue
            frames = {f.size for s in trace.nodes.values() for f in s.get("cond_indep_stack", ())}
            if frames & {-1, len(twice[0])}:  # else a plate has taken B of them
                return self.counting
        return False


def check_tensor(what: str, tensor: Tensor) -> None:
    """Raises a PvaeError if a tensor is not dense and real, or does not fit in memory.

    Args:
        what: What to call it, as the beginning of a sentence.
        tensor: Any tensor.

    Raises:
        PvaeError: If it is nested, sparse, masked or quantised, on the meta device, 8-bit floats,
            without its memory, or a view that would not fit in memory.
    """
    if tensor.is_nested:
        kind, cure = "is a nested tensor", "Pad it, torch.nested.to_padded_tensor(x, 0.0)"
    elif tensor.layout is not torch.strided:
        kind, cure = f"has the layout {tensor.layout}", "Make it dense, x.to_dense()"
    elif isinstance(tensor, torch.masked.MaskedTensor):
        kind, cure = (
            "is a MaskedTensor",
            "Hand in its data and its mask, x.get_data() and x.get_mask()",
        )
    elif tensor.is_meta or isinstance(tensor, FakeTensor) or torch._is_functional_tensor(tensor):
        where = "is on the meta device" if tensor.is_meta else "stands for another in a trace"
        kind, cure = f"{where} and has no values", "Make it on a device that holds data"
    elif tensor.is_quantized:
        kind, cure = "is quantised", "Take its values, x.dequantize()"
    elif tensor.is_floating_point() and tensor.element_size() == 1:
        kind, cure = f"has the type {tensor.dtype}", "Give it one to compute in, x.float()"
    elif tensor.numel() > 0 == tensor.untyped_storage().nbytes():
        kind, cure = "has lost its memory", "Make it anew"
    elif _is_wide_view(tensor):
        kind = (
            f"is a view of shape {list(tensor.shape)}, {tensor.nbytes / 1e9:,.0f} GB if written out"
        )
        cure = "Hand in fewer data, or the values that are expanded and expand them in the programs"
    else:
        return
    raise PvaeError(f"{what} {kind}: the programs could not compute with its rows. {cure}.")


def _is_wide_view(tensor: Tensor) -> bool:
    """Whether a tensor is an expanded view too large for memory."""
    return (
        tensor.untyped_storage().nbytes() < tensor.nbytes > _LARGE
        and tensor.nbytes > free_memory(tensor.device)
    )


def _moved(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Returns a tensor on a device, detached: its graph would be freed by the first step."""
    return (tensor if tensor.is_leaf else tensor.detach()).to(device)


def _call(arguments: Arguments, program: Program, *batch: Tensor) -> Any:
    args, kwargs = arguments.filled(batch)
    try:
        return program(*args, **kwargs)
    except Exception as error:
        if arguments.aside:
            error.add_note(
                f"Passed through whole, for its leading size is not the number of data "
                f"({arguments.size}): argument {', '.join(arguments.aside)}."
            )
        shorter = arguments.shorter(batch)
        if shorter is None or isinstance(error, PvaeError) or is_out_of_memory(error):
            raise
        raise PvaeError(f"{type(error).__name__}: {first_line(error)}. {shorter}") from error


def _map(visit: Visit, name: str, value: Any) -> Any:
    """Rebuilds a value with `visit` applied to each leaf of its containers."""
    if isinstance(value, PackedSequence):
        padded, lengths = _padded(name, value)
        padded, lengths = visit(f"{name}.data", padded), visit(f"{name}.lengths", lengths)
        return _packed(value, padded, lengths)
    if isinstance(value, dict):
        items = {key: _map(visit, f"{name}[{key!r}]", each) for key, each in value.items()}
        return items if type(value) is dict else _like(value, items)
    if type(value) in (list, tuple) or hasattr(value, "_fields"):
        parts = [_map(visit, f"{name}[{i}]", each) for i, each in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return visit(name, value)


def _padded(name: str, value: PackedSequence) -> tuple[Tensor, Tensor]:
    """Returns the sequences [B, T, ...] of a PackedSequence, and their lengths [B]."""
    data, sizes = value.data, value.batch_sizes
    check_tensor(f"The data of the PackedSequence {name}", data)
    if not len(sizes):
        raise PvaeError(
            f"Argument {name} is a PackedSequence without a sequence: there is no datum in it."
        )
    shape = (int(sizes[0]), len(sizes), *data.shape[1:])
    size = math.prod(shape) * data.element_size()
    if size > _LARGE and size > free_memory(data.device):
        raise PvaeError(
            f"The sequences of the PackedSequence {name} have the shape {list(shape)} when they "
            f"are padded, {size / 1e9:,.0f} GB, more than there is memory. Hand in fewer of them, "
            "or cut the longest."
        )
    try:
        if int(sizes.sum()) != len(data) or (sizes <= 0).any() or (sizes.diff() > 0).any():
            raise ValueError(
                f"its batch_sizes {sizes[:5].tolist()} … do not count its {len(data)} rows"
            )
        return pad_packed_sequence(value, batch_first=True)
    except (RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise PvaeError(
            f"Argument {name} is a PackedSequence that cannot be padded: {first_line(error)}. Make "
            "it by torch.nn.utils.rnn.pack_sequence or pack_padded_sequence."
        ) from error


def _like(value: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    made = value.copy()  # keeps what a defaultdict or a batch of tokens knows beside its items
    made.update(items)
    return made


def _packed(like: PackedSequence, padded: Tensor, lengths: Tensor) -> PackedSequence:
    lengths = lengths.cpu()
    in_order = bool((lengths[1:] <= lengths[:-1]).all()) and like.sorted_indices is None
    return pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=in_order)


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_nested or leaf.ndim > 0)
