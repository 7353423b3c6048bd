"""Arguments: how a pair is called, split into the data and what is passed through."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.pair.containers import rebuilt
from pvae.pair.dense import check_tensor
from pvae.pair.parameters import quiet
from pvae.pair.program import Program
from pvae.runtime import is_out_of_memory

__all__ = ["Arguments"]


class Arguments:
    """The arguments of a call of a pair: the tensors that hold data, and the rest.

    The leading size of the first tensor with a dimension is B, the number of data. Every tensor
    of this leading size holds data, also inside lists, tuples and dicts. A PackedSequence of B
    sequences holds data too: its padded sequences [B, T, ...] and their lengths [B]. So does an
    integer that is the size of the batch (see `bind`). Everything else is passed through
    unchanged: numbers, strings, None, functions, tensors without a dimension or of another
    leading size.

    Args:
        args: Positional arguments.
        kwargs: Arguments by name.

    Attributes:
        batch: The tensors that hold data, in the order of the arguments.
        names: Their names in messages: `0`, `1['x']`, `beta`.
        size: B.
        aside: Names and shapes of the tensors with a dimension that are passed through.
        counting: Whether integers equal to B count the batch; None until `bind` has found out.

    Raises:
        PvaeError: If no argument is a tensor with a dimension, or the programs cannot compute with
            one that holds data (see `check_tensor`).

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
                f"The batch has no tensor with a dimension; it holds {kinds or 'nothing'}. Give "
                "one or more tensors, (x,) or (x, y), and any other arguments of the programs."
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
        """Returns programs that take the batch alone, of any number of data.

        The other arguments are filled in. An integer equal to B counts the batch if the programs
        run with another number of data only when it changes too. It is the number of data of each
        call then.

        Args:
            *programs: The pair, guide last, or one of it. They are returned unchanged if the
                arguments are the batch and nothing else.
        """
        if self._whole:
            return programs
        if self.counting is None:
            self.counting = self._counts and self._must_count(programs)
        return tuple(functools.partial(_call, self, program) for program in programs)

    def check_finite(self) -> None:
        """Raises a PvaeError if a value is not finite, except NaN after the first tensor.

        NaN may stand for a missing value there, such as a label.
        """
        for name, tensor in zip(self.names, self.batch, strict=True):
            if not tensor.is_floating_point():
                continue
            broken = torch.isinf if name != self.names[0] else lambda t: ~t.isfinite()
            # In slabs, because isfinite makes a copy.
            slabs = [broken(s).reshape(len(s), -1).any(1) for s in tensor.split(4096)]
            bad = torch.cat(slabs).nonzero()[:, 0]
            if len(bad):
                raise PvaeError(
                    f"Argument {name} of the batch holds NaN or infinite values in {len(bad)} of "
                    f"{len(tensor)} rows, the first of them row {int(bad[0])}. Remove or replace "
                    "them."
                )

    def constants(self) -> list[Any]:
        """Returns what is passed through and may change numbers: tensors, numbers and strings."""
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
        """Returns a message if a PackedSequence has fewer steps in a batch than in all data."""
        for name, whole, part in zip(self.names, self.batch, batch, strict=True):
            if not name.endswith(".lengths") or int(part.max()) == int(whole.max()):
                continue
            return (
                f"These {len(part)} data lack the longest sequence: the PackedSequence of argument "
                f"{name.removesuffix('.lengths')} has {int(part.max())} steps here and "
                f"{int(whole.max())} with all data, while tensors that were padded before keep "
                f"{int(whole.max())}. Let the programs take the number of steps from one of the "
                "two, with pad_packed_sequence(…, total_length=x.size(1)) or a loop of "
                "lengths.max() steps, or train with all data in each batch "
                f"(batch_size={len(whole)})."
            )
        return None

    def _leaves(self) -> list[tuple[str, Any]]:
        leaves: list[tuple[str, Any]] = []

        def note(name: str, leaf: Any) -> Any:
            leaves.append((name, leaf))
            return leaf

        self._map(note)
        return leaves

    def _map(self, visit: Callable[[str, Any], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = self._call
        return (
            tuple(rebuilt(visit, str(i), value) for i, value in enumerate(args)),
            {name: rebuilt(visit, name, value) for name, value in kwargs.items()},
        )

    def _must_count(self, programs: Sequence[Program]) -> bool:
        """Whether the programs run with twice the data only if integers equal to B double too."""
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
            if frames & {-1, len(twice[0])}:  # else a plate has taken only B of them
                return self.counting
        return False


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
                "Not cut into minibatches, because its leading size is not the number of data "
                f"({arguments.size}): argument {', '.join(arguments.aside)}."
            )
        shorter = arguments.shorter(batch)
        if shorter is None or isinstance(error, PvaeError) or is_out_of_memory(error):
            raise
        raise PvaeError(f"{type(error).__name__}: {first_line(error)}. {shorter}") from error


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_nested or leaf.ndim > 0)
