"""Compares a compiled step with an eager one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.compile import Recorded, Snapshot
from pvae.runtime import rounding

__all__ = ["EagerStep", "differ", "same"]

# Relative errors of the loss, and of a gradient in norm, that rounding explains.
_TOLERANCE = {"bf16": (1e-3, 0.1), torch.float64: (1e-9, 1e-7), torch.float32: (1e-5, 2e-3)}
# TF32 has three bits more than bf16. On an H200 the bias of a convolution differed by 1.4e-2; see
# benchmarks/results/README.md.
_TOLERANCE["tf32"] = (1.25e-4, 2.5e-2)


@dataclass
class EagerStep:
    """The results of an eager step and the state after it."""

    loss: float | Tensor
    norm: Tensor
    trained: list[Tensor]
    gradients: list[Tensor]
    used: frozenset[int]
    after: Snapshot


def differ(
    eager: EagerStep,
    recorded: Recorded,
    found: Sequence[Tensor],
    after: Sequence[Tensor],
    values: int,
    precision: str,
    names: dict[int, str],
) -> str | None:
    """Says how a graph's loss and gradients differ beyond rounding; None if they do not.

    A loss that is near zero by chance is compared relative to `values`, the number of values in
    the minibatch. `found` has the graph's loss and gradients, `after` the buffers after it, and
    `names` the parameters' names by id.
    """
    if not same(eager.trained, recorded.trained):
        return "other parameters have a gradient"
    expected = [torch.tensor(float(eager.loss), dtype=torch.float64), *eager.gradients]
    # A gradient that is rounding alone, as of a bias before batch normalisation, has no size.
    total = float(torch.nn.utils.get_total_norm(eager.gradients))
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        kind: Any = "bf16"
        if precision != "bf16":
            kind = rounding(theirs.dtype if i else ours.dtype, recorded.products, ours.device)
        least, most = _TOLERANCE.get(kind, _TOLERANCE["bf16"])
        ours, theirs = ours.double(), theirs.to(ours.device).double()
        size, error = float(theirs.norm()), float((ours - theirs).norm())
        bound = max(most * size, least * total) if i else least * max(size, values)
        if not error <= bound:
            name = f"the gradient of {names[id(eager.trained[i - 1])]}" if i else "the loss"
            return f"{name} differs by {error / (size or 1):.1e} of its size"
    for ours, theirs in zip(after, eager.after.values, strict=True):
        _, most = _TOLERANCE.get(theirs.dtype, (0, 0))
        ours, theirs = ours.double(), theirs.double()
        if not (ours - theirs).norm() <= most * theirs.norm():
            return "a buffer differs"
    return None


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether two lists hold the same tensors."""
    return list(map(id, ours)) == list(map(id, theirs))
