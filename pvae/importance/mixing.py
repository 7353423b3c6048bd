"""Checks that the terms of a datum do not depend on the other data in its batch."""

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.importance.compared import FAILURES, agree, rows_at, terms_of
from pvae.importance.particles import Particles
from pvae.importance.relaxed import with_noise
from pvae.pair import GLOBAL, latent_sites, observed_sites, plates_at, trace_of
from pvae.runtime import is_out_of_memory

__all__ = ["refuse_global", "refuse_mixing"]


def refuse_global(single: Particles, batch: tuple[Tensor, ...]) -> None:
    """Raises a PvaeError if a latent site's plate keeps its size while the batch gets smaller.

    A plate of topics, as many as the batch has documents, looks like the batch plate.

    Args:
        single: Runs the pair for one sample.
        batch: B data.
    """
    if len(plates_at(single.structure.model_trace, single.dim)) == 1:
        return  # one plate for all
    num = len(batch[0]) // 2
    try:
        trace = single.prior(rows_at(batch, torch.arange(num, device=batch[0].device)), 1)
    except FAILURES as error:
        _raise_if_out_of_memory(error)
        return  # it needs a batch of this size

    def size(site: dict[str, Any]) -> int:
        frames = [frame.size for frame in site["cond_indep_stack"] if frame.dim == single.dim]
        return frames[0] if frames else -1

    if any(size(site) not in (-1, num) for site in observed_sites(trace).values()):
        return  # the batch plate has a fixed size
    for name, site in latent_sites(trace).items():
        if name in single.structure.latent and size(site) not in (-1, num):
            there = f"in a plate of size {size(site)}, however many data there are"
            raise PvaeError(GLOBAL.format(there, name))


def refuse_mixing(single: Particles, batch: tuple[Tensor, ...]) -> None:
    """Raises a PvaeError if the terms of a datum change with the other data in its batch.

    Some data are kept and the others replaced, in turn, until for any two data the first was kept
    without the second. This needs no batch of another size, because some pairs only run with one.
    If the pair runs with fewer data, the first ones are compared without any others.

    Args:
        single: Runs the pair for one sample.
        batch: B data.

    Warns:
        UserWarning: If the check is not possible.
    """
    refuse_global(single, batch)
    size = len(batch[0])
    terms, trace = terms_of(single, batch, 1)
    sites = {n: s for n, s in latent_sites(trace).items() if n not in single.structure.enumerated}
    everything = torch.arange(size, device=batch[0].device)

    def compare(index: Tensor, kept: Tensor) -> str | None:
        """Compares the terms of the data `kept` with those that they have in a batch `index`."""
        values = {}
        for name, site in sites.items():
            axis = site["value"].ndim - site["fn"].event_dim + single.dim
            values[name] = with_noise(
                site["value"], lambda t, axis=axis: t.index_select(axis, index)
            )
        found, _ = terms_of(single, rows_at(batch, index), 1, trace_of(values))
        for name, value in found.items():
            if not agree(value[..., kept], terms[name][..., kept]):
                return _fault(single, batch, trace, terms, name)
        known = any(name.startswith("q(") for name in found)
        if sites and not known and not _same_draws(single, batch, index, kept):
            raise RuntimeError("the guide's density is known at its own draws only")
        return None

    def compare_all() -> str | None:
        for i, kept in enumerate(_splits(size)):
            kept = kept.to(everything.device)
            at = kept.nonzero()[:, 0]
            if i == 0 and len(at) > 1:
                try:
                    if fault := compare(at, at):  # without the others
                        return fault
                    continue
                except FAILURES as error:  # it does not run with so few
                    _raise_if_out_of_memory(error)
            if fault := compare(torch.where(kept, everything, everything.roll(-1)), at):
                return fault
        return None

    try:
        fault = compare_all()
    except FAILURES as error:
        _raise_if_out_of_memory(error)
        warnings.warn(
            "Whether a module mixes data across the batch could not be checked "
            f"({first_line(error)[:200]}). If one does, no number here is the density of a datum.",
            stacklevel=5,
        )
        return
    if fault:
        raise PvaeError(fault)


def _raise_if_out_of_memory(error: Exception) -> None:
    if is_out_of_memory(error):
        raise error


def _splits(size: int) -> Iterator[Tensor]:
    """Yields masks [B]: for any two data, some mask keeps the first without the second.

    Each datum is kept in its own k / 2 of k splits, none of which holds another's (Sperner 1928).
    """
    num = next(k for k in itertools.count(2) if math.comb(k, k // 2) >= size)
    codes = list(itertools.islice(itertools.combinations(range(num), num // 2), size))
    for split in range(num):
        kept = torch.tensor([split in code for code in codes])
        if kept.any() and not kept.all():
            yield kept


def _same_draws(single: Particles, batch: tuple[Tensor, ...], index: Tensor, kept: Tensor) -> bool:
    """Whether the same noise gives the kept data the same draws and densities.

    For a guide whose density is known at its own samples only.
    """
    devices, found = [batch[0].device] if batch[0].is_cuda else [], []
    for data in (batch, rows_at(batch, index)):
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            trace = single.guide(data, 1)
        rows = single.rows_of(trace, 1, len(data[0]))
        terms = single.log_terms(trace, 1, len(data[0]), observed=False)
        found.append(
            [*(v[:, kept] for v in rows.values()), *(t[..., kept] for t in terms.values())]
        )
    return all(agree(ours, theirs) for ours, theirs in zip(*found, strict=True))


def _fault(
    single: Particles, batch: tuple[Tensor, ...], trace: Trace, terms: dict[str, Tensor], name: str
) -> str:
    sites = latent_sites(trace).items()
    values = {n: s["value"] for n, s in sites if n not in single.structure.enumerated}
    again, _ = terms_of(single, batch, 1, trace_of(values))
    if not agree(again[name], terms[name]):
        return (
            f"Log {name} of the same data and the same z differs from call to call, in eval "
            "mode too: something in a network is random, such as the corruption of a denoising "
            "guide or dropout. Evaluation needs the clean x and one density: apply the noise "
            "only if self.training is true (see pvae.guides.DenoisingCode)."
        )
    return (
        f"A module mixes data across the batch: log {name} of one datum changes with "
        "the other data beside it, also in eval mode (batch normalisation without "
        "running statistics does this, and so does a convolution over a graph of data). Such a "
        "pair has no density of one datum; normalise within each datum, keep running statistics, "
        "or make one datum of what belongs together."
    )
