"""Checks that sites in inner plates can be summed out at each index of a plate by itself."""

import copy
import dataclasses
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError
from pvae.importance.compared import agree, terms_of
from pvae.importance.particles import Particles
from pvae.importance.terms import plate_terms
from pvae.pair import latent_sites, observed_sites, sample_instead, trace_of

__all__ = ["find_dependent", "numel_of_terms", "refuse_dependent"]

Sites = dict[str, dict[str, dict[str, Any]]]  # of guide and model


def refuse_dependent(particles: Particles, batch: tuple[Tensor, ...]) -> None:
    """Raises a PvaeError if `find_dependent` finds a fault."""
    if (fault := find_dependent(particles, batch)) is not None:
        raise PvaeError(fault)


def find_dependent(particles: Particles, batch: tuple[Tensor, ...]) -> str | None:
    """Says which density depends on a site's values at several indices of a plate, if one does.

    The sum over the values at all indices is then no product of sums over the values at each. All
    densities are compared with those of calls in which the values differ from index to index.

    Args:
        particles: Runs the pair for one sample.
        batch: B data.
    """
    if not particles.inner:
        return None
    draws = particles.guide(batch, 1)
    sites = _sites(draws, particles.model(batch, 1, draws))
    terms = {role: plate_terms(found, wide=particles.wide) for role, found in sites.items()}
    summed = _Summed(particles, sites)
    for role, found in terms.items():
        for name, term in found.items():
            dims = {f.dim for f in sites[role][name]["cond_indep_stack"] if f.vectorized}
            for other, plates in summed.plates.items():
                if summed.depends(term, other) and not plates.keys() <= dims:
                    return summed.fault(role, name, other)
    for random in () if particles.structure.together_only else (False, True):
        values = summed.values(sites, random)
        found, again = (_given(particles, batch, values, sites) for _ in range(2))
        for role, given in found.items():
            for name, term in given.items():
                expected = terms[role][name]
                if agree(term, summed.take(expected)) or not agree(term, again[role][name]):
                    continue
                for other in summed.inner:
                    if summed.depends(expected, other):
                        return summed.fault(role, name, other)
    return None


def numel_of_terms(particles: Particles, batch: tuple[Tensor, ...]) -> int:
    """Returns the values of one datum in the largest term that is not yet summed over a plate."""
    if not particles.inner:
        return 1
    terms, _ = terms_of(particles, batch, 1)
    return max(term.numel() for term in terms.values()) // len(batch[0])


def _sites(guide_trace: Trace, model_trace: Trace) -> Sites:
    traces = {"guide": guide_trace, "model": model_trace}
    return {role: {**latent_sites(t), **observed_sites(t)} for role, t in traces.items()}


def _given(
    particles: Particles, batch: tuple[Tensor, ...], values: Trace, sites: Sites
) -> dict[str, dict[str, Tensor]]:
    """Returns the log densities [*plates] of a call in which no site is enumerated."""
    single = copy.copy(particles)
    single.structure = dataclasses.replace(particles.structure, enumerated=())
    draws = single.guide(batch, 1, values, enumerate=False)
    found = _sites(draws, single.model(batch, 1, values))
    return {
        role: plate_terms(
            {n: {**s, "infer": sites[role][n]["infer"]} for n, s in found[role].items()},
            wide=particles.wide,
        )
        for role in found
    }


class _Summed:
    """The enumerated sites of a call, and one value of them at each index of their plates.

    Attributes:
        plates: For each site the names of its inner plates, by dimension.
        inner: The sites that have inner plates.
    """

    def __init__(self, particles: Particles, sites: Sites) -> None:
        self._wide, self._sizes = particles.wide, dict(particles.inner)
        self._axes: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._num: dict[str, int] = {}
        self._index: dict[str, Tensor] = {}
        self.plates: dict[str, dict[int, str]] = {}
        for name, site in {**sites["model"], **sites["guide"]}.items():
            fn, axis = site["fn"], site["infer"].get("_enumerate_dim")
            if axis is None:
                continue
            frames = [f for f in site["cond_indep_stack"] if f.vectorized]
            self._axes[name] = axis
            self._shapes[name] = fn.batch_shape[max(0, len(fn.batch_shape) - self._wide) :]
            self._num[name] = site["value"].shape[axis - fn.event_dim]
            self.plates[name] = {f.dim: f.name for f in frames if f.dim != particles.dim}
        self.inner = [name for name, plates in self.plates.items() if plates]

    def depends(self, term: Tensor, name: str) -> bool:
        """Whether a tensor [*enumerated, *plates] depends on a site."""
        axis = self._axes[name]
        return term.ndim >= -axis and term.shape[axis] > 1

    def take(self, value: Tensor, event_dim: int = 0) -> Tensor:
        """Takes each site's value from a tensor [*enumerated, *plates, *event]."""
        for name, axis in self._axes.items():
            at = axis - event_dim
            if value.ndim >= -at and value.shape[at] > 1:
                index = self._index[name].to(value.device)[(...,) + (None,) * event_dim]
                index = index.reshape((1,) * (value.ndim - index.ndim) + index.shape)
                value = torch.take_along_dim(value, index, at)
        return value.reshape(value.shape[max(0, value.ndim - self._wide - event_dim) :])

    def values(self, sites: Sites, random: bool) -> Trace:
        """Returns values of all latent sites, after choosing those of the enumerated ones."""
        for name, shape in self._shapes.items():
            at = torch.zeros(shape, dtype=torch.long)
            for dim, size in enumerate(shape):
                at = at + torch.arange(size).reshape(-1, *(1,) * (len(shape) - dim - 1))
            num = self._num[name]
            self._index[name] = torch.randint(num, shape) if random else at % num
        latent = {**sites["model"], **sites["guide"]}
        return trace_of({
            name: self.take(site["value"], site["fn"].event_dim)
            for name, site in latent.items()
            if not site["is_observed"]
        })  # fmt: skip

    def fault(self, role: str, name: str, other: str) -> str:
        """Says that a density depends on several values of a site in an inner plate."""
        dim, plate = next(iter(self.plates[other].items()))
        size, letter = self._sizes.get(dim, 1), "q" if role == "guide" else "p"
        return (
            f"Log {letter}({name}) depends on the values of {other!r} at several of the {size:,} "
            f"indices of plate {plate!r}: their sum has {self._num[other]:,}^{size:,} terms, "
            "because in a plate only the values of one index at a time can be summed out. "
            f"{sample_instead(repr(other))} Or give a few elements their own sites in place of the "
            "plate."
        )
