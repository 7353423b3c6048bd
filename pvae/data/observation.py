"""Turns stored values into the x of a model, and seeds what is drawn once."""

import hashlib
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["BINARY", "OBSERVATIONS", "Observation", "draw", "mean_of", "observe", "stream"]

Observation = Literal["dynamic", "fixed", "threshold", "grey", "dequantize", "counts", "as_given"]
OBSERVATIONS: tuple[str, ...] = get_args(Observation)
BINARY = ("dynamic", "fixed", "threshold")

_SLAB = 1 << 22


def stream(seed: int, purpose: str) -> torch.Generator:
    """Returns a separate CPU generator for each purpose, so that no draw shifts another.

    Args:
        seed: The data seed, any integer.
        purpose: What is drawn, such as `"test"`.
    """
    digest = hashlib.sha256(f"pvae.data {seed} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def observe(
    raw: Tensor,
    observation: str,
    levels: int | None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns x, float32 except for "as_given", from stored values; draws noise on their device.

    With p = raw / (levels − 1) for integers and p = raw for floats, x is

    - dynamic, fixed: 1 with probability p, else 0;
    - threshold: 1 where p > 0.5, else 0 (p = 0.5 exactly gives 0);
    - grey: p;
    - dequantize: (raw + u) / levels with u uniform on [0, 1);
    - counts: raw;
    - as_given: raw, of any type.

    Args:
        raw: Stored values [B, *event], uint8, or float32 if `levels` is None.
        observation: One of `OBSERVATIONS`.
        levels: The number of integer levels, or None for floats.
        generator: Draws the noise; None is the device's global generator.
    """
    if observation == "as_given":
        return raw
    if observation == "threshold":
        return raw.gt(0.5 if levels is None else (levels - 1) / 2).float()
    x = raw.float()
    if observation == "counts":
        return x
    if observation == "grey":
        return x if levels in (None, 2) else x.div_(levels - 1)
    u = torch.rand(x.shape, device=x.device, generator=generator)
    if observation == "dequantize":
        # raw + u must not round up to the next integer: x could be 1, with an infinite logit.
        return u.mul_(1 - 2**-16).add_(x).div_(levels)
    # Four times as fast on the CPU as torch.bernoulli.
    return (u if levels in (None, 2) else u.mul_(levels - 1)).lt_(x)


def mean_of(raw: Tensor, observation: str, levels: int | None) -> Tensor:
    """Returns E[x] of stored values, without noise; see `observe`."""
    if observation == "dequantize":
        return (raw.float() + 0.5) / levels
    how = "grey" if observation in ("dynamic", "fixed") else observation
    return observe(raw, how, levels)


def draw(raw: Tensor, observation: str, levels: int | None, generator: torch.Generator) -> Tensor:
    """Draws the x of a part once: uint8 if it is binary, float32 if it is dequantised.

    Args:
        raw: Stored values [N, *event] on the CPU.
        observation: "dynamic", "fixed" or "dequantize".
        levels: The number of integer levels, or None for floats.
        generator: From `stream`.
    """
    dtype = torch.uint8 if observation in BINARY else torch.float32
    x = torch.empty(raw.shape, dtype=dtype)
    # The size of a slab depends only on the shape of an event, so the numbers drawn do too.
    rows = max(1, _SLAB // max(1, raw[0].numel()))
    for i in range(0, len(raw), rows):
        x[i : i + rows] = observe(raw[i : i + rows], observation, levels, generator)
    return x
