"""Checks that sites are summed out correctly when all their values are computed together."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.importance.compared import FAILURES, agree, terms_of
from pvae.importance.particles import Particles
from pvae.pair import latent_sites, trace_of
from pvae.runtime import is_out_of_memory

_CALLS = 32  # most calls of a program for a comparison


def find_enumeration_fault(
    parallel: Particles, one_by_one: Particles, batch: tuple[Tensor, ...]
) -> str | None:
    """Returns how summing sites out together differs from doing it one value at a time.

    None if they agree, or if a program only runs for all values together.
    """
    try:
        together, trace = terms_of(parallel, batch, 1)
        calls = _calls(together.values(), parallel)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        failure = error
    else:
        if calls > _CALLS:
            return None
        failure = None
    try:
        apart, trace = terms_of(one_by_one, batch, 1)
    except FAILURES as error:
        if failure is not None and not is_out_of_memory(error):
            raise failure from None
        return None
    if failure is not None:
        return f"together it fails ({first_line(failure.__cause__ or failure)[:200]})"
    enumerated = parallel.structure.enumerated
    values = {n: s["value"] for n, s in latent_sites(trace).items() if n not in enumerated}
    together, _ = terms_of(parallel, batch, 1, trace_of(values))
    for name, value in apart.items():
        if name in together and not agree(together[name], value):
            return f"together it changes log {name}"
    return None


def broadcasts_given(parallel: Particles, one_by_one: Particles, batch: tuple[Tensor, ...]) -> bool:
    """Whether sites are summed out correctly together when the model draws the other latents.

    The model's latents lack the dimensions of the summed sites, which the guide's may have. True
    also if the programs only run for all values together.
    """
    size = len(batch[0])

    def terms(particles: Particles, role: str) -> dict[str, Tensor] | None:
        run = particles.model if role == "model" else particles.guide
        try:
            return particles.log_terms(run(batch, 1, rows), 1, size, observed=role == "model")
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            return None

    try:
        rows = parallel.rows_of(parallel.prior(batch, 1), 1, size)
    except PvaeError:
        return True
    for role in ("model", "guide"):
        together = terms(parallel, role)
        if together is not None and _calls(together.values(), parallel) > _CALLS:
            continue
        apart = terms(one_by_one, role)
        if apart is None:
            continue
        if together is None or not all(agree(together[name], t) for name, t in apart.items()):
            return False
    return True


def _calls(terms: Iterable[Tensor], particles: Particles) -> int:
    """Returns the number of combinations of enumerated values in the terms of a call."""
    own = 2 + len(particles.inner)
    return math.prod(torch.broadcast_shapes(*(t.shape[:-own] for t in terms)))
