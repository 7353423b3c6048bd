"""Leaves of nested containers: lists, tuples, dicts and PackedSequences."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pvae.errors import PvaeError, first_line
from pvae.pair.bounded import too_large
from pvae.pair.dense import check_tensor
from pvae.runtime import is_out_of_memory

__all__ = ["rebuilt"]


def rebuilt(visit: Callable[[str, Any], Any], name: str, value: Any) -> Any:
    """Returns a value with `visit(name, leaf)` in place of each leaf of its containers.

    A PackedSequence has two leaves: its padded sequences [B, T, ...] and their lengths [B].
    """
    if isinstance(value, PackedSequence):
        padded, lengths = _padded(name, value)
        return _packed(value, visit(f"{name}.data", padded), visit(f"{name}.lengths", lengths))
    if isinstance(value, dict):
        items = {key: rebuilt(visit, f"{name}[{key!r}]", each) for key, each in value.items()}
        if type(value) is dict:
            return items
        made = value.copy()  # keeps what a defaultdict or a batch of tokens has besides its items
        made.update(items)
        return made
    if type(value) in (list, tuple) or hasattr(value, "_fields"):
        parts = [rebuilt(visit, f"{name}[{i}]", each) for i, each in enumerate(value)]
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
    if too_large(size, data.device):
        raise PvaeError(
            f"The sequences of the PackedSequence {name} have the shape {list(shape)} when they "
            f"are padded, {size / 1e9:,.0f} GB. That is more than the free memory. Give fewer "
            "sequences, or cut the longest."
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
            "it with torch.nn.utils.rnn.pack_sequence or pack_padded_sequence."
        ) from error


def _packed(like: PackedSequence, padded: Tensor, lengths: Tensor) -> PackedSequence:
    lengths = lengths.cpu()
    in_order = bool((lengths[1:] <= lengths[:-1]).all()) and like.sorted_indices is None
    return pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=in_order)
