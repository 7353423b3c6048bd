"""Comparison of two calls of a pair: their log density terms, site by site."""

import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError
from pvae.importance.particles import Particles

__all__ = ["FAILURES", "agree", "few", "rows_at", "terms_of"]

FAILURES = (PvaeError, RuntimeError, IndexError)
"""What a program raises if it does not allow a call."""

_FEW = 6


def few(size: int) -> Tensor:
    """Returns positions of a few of B data; fewer than 4 are repeated, because one broadcasts."""
    return torch.arange(min(size, _FEW)) if size >= 4 else torch.arange(4) % size


def rows_at(batch: tuple[Tensor, ...], index: Tensor) -> tuple[Tensor, ...]:
    """Returns the data at these positions."""
    return tuple(t.index_select(0, index.to(t.device)) for t in batch)


def terms_of(
    particles: Particles, batch: tuple[Tensor, ...], num: int, values: Trace | None = None
) -> tuple[dict[str, Tensor], Trace]:
    """Returns per-site terms [*enumerated, num, B], and the guide's trace.

    `values` take the place of the guide's samples. The guide's terms are left out if its density
    cannot be evaluated there.
    """
    size = len(batch[0])
    guide_trace = particles.guide(batch, num, values)
    model_trace = particles.model(batch, num, guide_trace)
    p = particles.log_terms(model_trace, num, size)
    try:
        q = particles.log_terms(guide_trace, num, size, observed=False)
    except PvaeError:
        if values is None:
            raise
        q = {}  # a flow without an inverse: nothing to compare with
    terms = {f"q({name})": term for name, term in q.items()}
    return terms | {f"p({name})": term for name, term in p.items()}, guide_trace


def agree(ours: Tensor, expected: Tensor) -> bool:
    """Whether terms are equal up to rounding."""
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-4
    ours, expected = torch.broadcast_tensors(ours, expected)
    return torch.allclose(ours, expected, tolerance, 10 * tolerance, equal_nan=True)
