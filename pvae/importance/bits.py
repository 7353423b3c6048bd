"""Digests of tensors: one number that changes with any bit, and with the order of the values."""

import functools

import torch
from torch import Tensor

__all__ = ["digest"]

_SLAB = 1 << 18
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest(tensor: Tensor) -> Tensor:
    """Returns a number, int64, of a tensor's bits: a sum with odd weights, modulo 2^64.

    A norm would not change with a sign or the order of the values, and NaN equals nothing.

    Example:
        >>> x = torch.tensor([1.0, -2.0, float("nan")])
        >>> bool(digest(x) == digest(x.clone())), bool(digest(x) == digest(-x))
        (True, False)
    """
    values = tensor.detach().resolve_conj().resolve_neg()
    values = torch.view_as_real(values) if values.is_complex() else values
    bits = values.contiguous().reshape(-1).view(_INTEGERS[values.element_size()])
    found = torch.zeros((), dtype=torch.int64, device=bits.device)
    for slab in bits.split(_SLAB):
        weights = _weights(len(slab), bits.device)
        found = 31 * found + (slab.long() * weights).sum()
    return found


@functools.lru_cache(64)
def _weights(size: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    options = {"dtype": torch.int64, "device": "cpu", "generator": generator}
    weights = torch.randint(2**62, (size,), **options)
    return weights.mul_(2).add_(1).to(device)
