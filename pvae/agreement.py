"""Whether a way to draw many samples computes what one sample at a time computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.pair import latent_sites

if TYPE_CHECKING:
    from pvae.importance import Sampler

__all__ = ["counts_data", "find_fault", "refuse_mixing"]


def find_fault(sampler: Sampler, how: str, batch: tuple[Tensor, ...]) -> str | None:
    """Says how a strategy's per-site terms differ from single replays of the same draws."""
    num, size = (4 if len(batch[0]) == 3 else 3), len(batch[0])
    try:
        terms, guide_trace = sampler.run(how, batch, num)
        for k in range(num):
            values = {}
            for name, site in latent_sites(guide_trace).items():
                if name in sampler.structure.enumerated:
                    continue
                value = site["value"]
                plates = value.ndim - site["fn"].event_dim
                if how == "plate":
                    lead = plates - sampler.structure.max_plate_nesting - 1
                    values[name] = value.select(lead, k)
                else:
                    values[name] = value.narrow(plates + sampler.dim, k * size, size)
            for name, expected in _replay(sampler, batch, values).items():
                if not _agree(terms[name].select(-2, k), expected):
                    return f"changes log {name}"
    except (PvaeError, RuntimeError, IndexError) as error:
        return f"fails ({first_line(error.__cause__ or error)[:200]})"
    return None


def _replay(
    sampler: Sampler, batch: tuple[Tensor, ...], values: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Per-site terms [*enumerated, B] of one plain call with its latent values given."""
    template, _ = sampler.traces(batch)
    for name, value in values.items():
        site = template.nodes[name]
        site["value"] = value.reshape(site["value"].shape)
    return sampler.single(batch, len(batch[0]), template)[0]


def refuse_mixing(sampler: Sampler, batch: tuple[Tensor, ...]) -> None:
    """Raises a PvaeError if the terms of one datum change with the data beside it."""
    size = len(batch[0])
    half = size // 2
    terms, guide_trace = sampler.single(batch, size)
    try:
        values = {
            name: site["value"].narrow(
                site["value"].ndim - site["fn"].event_dim + sampler.dim, 0, half
            )
            for name, site in latent_sites(guide_trace).items()
            if name not in sampler.structure.enumerated
        }
        part = _replay(
            sampler, tuple(t[:half] if counts_data(t, size) else t for t in batch), values
        )
    except (PvaeError, RuntimeError, IndexError):
        return  # bound to the size of its batch: nothing to compare with
    for name, expected in terms.items():
        if not _agree(part[name], expected[..., :half]):
            raise PvaeError(
                f"A module mixes data across the batch: log {name} of one datum changes with "
                "the other data beside it, also in eval mode (batch normalisation without "
                "running statistics does this). Such a pair has no density of one datum; "
                "normalise within each datum, or keep running statistics."
            )


def counts_data(tensor: Tensor, size: int) -> bool:
    """Whether a tensor's leading size is the number of data."""
    return tensor.ndim > 0 and len(tensor) == size


def _agree(ours: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-4
    ours, expected = torch.broadcast_tensors(ours, expected)
    return torch.allclose(ours, expected, tolerance, 10 * tolerance, equal_nan=True)
