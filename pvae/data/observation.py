"""How stored values become the x that a model sees, and the seeds of what is drawn once."""

import hashlib
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["BINARY", "OBSERVATIONS", "Observation", "draw", "observe", "stream"]

Observation = Literal["dynamic", "fixed", "threshold", "grey", "dequantize", "counts", "as_given"]
OBSERVATIONS: tuple[str, ...] = get_args(Observation)
BINARY = ("dynamic", "fixed", "threshold")

_SLAB = 1 << 22


def stream(seed: int, purpose: str) -> torch.Generator:
    """Returns a CPU generator of its own for one purpose, so that no draw shifts another.

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
    """Returns x, float32 but for "as_given", from stored values; noise is drawn on their device.

    With p = raw / (levels − 1) for integers and p = raw for floats, x is

    - dynamic, fixed: 1 with probability p, else 0;
    - threshold: 1 where p > 0.5, else 0 (p = 0.5 exactly gives 0);
    - grey: p;
    - dequantize: (raw + u) / levels with u uniform on [0, 1);
    - counts: raw;
    - as_given: raw, of whatever type.

    Args:
        raw: Stored values [B, *event], uint8, or float32 where `levels` is None.
        observation: One of `OBSERVATIONS`.
        levels: The number of integer levels, or None for floats.
        generator: Where the noise comes from; None is the device's global generator.
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
        # raw + u must not round up to the next integer, or x could be 1 and its logit infinite.
        return u.mul_(1 - 2**-16).add_(x).div_(levels)
    # Four times as fast on the CPU as torch.bernoulli.
    return (u if levels in (None, 2) else u.mul_(levels - 1)).lt_(x)


def draw(raw: Tensor, observation: str, levels: int | None, generator: torch.Generator) -> Tensor:
    """Returns a part's one draw as it is stored: uint8 where binary, float32 where dequantised.

    Args:
        raw: Stored values [N, *event] on the CPU.
        observation: "dynamic", "fixed" or "dequantize".
        levels: The number of integer levels, or None for floats.
        generator: From `stream`.
    """
    dtype = torch.uint8 if observation in BINARY else torch.float32
    x = torch.empty(raw.shape, dtype=dtype)
    # The rows of a slab depend on the shape of an event alone: so does every number drawn.
    rows = max(1, _SLAB // max(1, raw[0].numel()))
    for i in range(0, len(raw), rows):
        x[i : i + rows] = observe(raw[i : i + rows], observation, levels, generator)
    return x
