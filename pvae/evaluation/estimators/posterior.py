"""KL(q(z|x) ‖ p(z)), site by site and dimension by dimension, in closed form if there is one."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pvae.distributions import log_prob
from pvae.importance import Particles, Sampler, expect
from pvae.pair import gives_one_code, latent_sites

__all__ = ["SiteKL", "site_kl"]

_NUM_SAMPLES = 16  # of the sites that the distribution of a site may depend on


@dataclass(frozen=True)
class SiteKL:
    """The KL divergence of one latent site, in nats, averaged over its parents.

    Attributes:
        total: KL of the site, [B]; None if there is no closed form, or only one given samples of
            other sites, for which the more numerous samples of the weights are more accurate.
        dims: KL of each dimension, [B, D], in closed form or by samples; None if the dimensions
            of the site are not independent in guide and model.
    """

    total: Tensor | None
    dims: Tensor | None


def site_kl(sampler: Sampler, batch: tuple[Tensor, ...]) -> dict[str, SiteKL]:
    r"""Returns the KL divergence of each latent site, given a few samples of the sites before it.

    .. math:: \mathrm{KL}_s = E_{q(z_{<s}|x)} \left[
        \mathrm{KL}\big( q(z_s | z_{<s}, x) \,\|\, p(z_s | z_{<s}) \big) \right]

    The samples are drawn by torch's global generator.

    Args:
        sampler: Samples the pair; its context must be entered.
        batch: The data, tensors of leading size B.
    """
    parts = [_once(sampler, batch, num) for num in _calls(sampler, len(batch[0]))]
    found = {}
    for name in parts[0]:
        totals, dims = zip(*(part[name] for part in parts), strict=True)
        total = None if totals[0] is None else torch.cat(totals).double()
        exact = total is not None and torch.allclose(total, total[:1], 1e-5, 1e-6)
        found[name] = SiteKL(
            total.mean(0) if exact else None,
            None if dims[0] is None else torch.cat(dims).double().mean(0),
        )
    return found


def _calls(sampler: Sampler, size: int) -> list[int]:
    """The number of samples in each call of the pair: at most the rows of a chunk of weights."""
    number = 1 if gives_one_code(sampler.structure) else _NUM_SAMPLES  # all would be the same
    most = 1 if sampler.strategy == "loop" else max(1, sampler.usual_rows // size)
    return [min(most, number - start) for start in range(0, number, most)]


def _once(
    sampler: Sampler, batch: tuple[Tensor, ...], num: int
) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    particles, size = sampler.particles, len(batch[0])
    guide_trace = particles.guide(batch, num)
    model_trace = particles.model(batch, num, guide_trace)
    sites = {n: s for n, s in latent_sites(guide_trace).items() if n in model_trace.nodes}
    terms = particles.log_terms(guide_trace, num, size, observed=False)
    inside = [terms[name] for name in sampler.structure.enumerated if name in terms]
    return {
        name: _of_site(particles, site, model_trace, inside, num, size)
        for name, site in sites.items()
    }


def _of_site(
    particles: Particles,
    site: dict[str, Any],
    model_trace: Trace,
    log_q: list[Tensor],
    num: int,
    size: int,
) -> tuple[Tensor | None, Tensor | None]:
    other = model_trace.nodes[site["name"]]
    if site["mask"] is not None or other["mask"] is not None:
        return None, None
    q, p = _peel(site["fn"]), _peel(other["fn"])
    if q.event_dim != p.event_dim:
        return None, None
    # A subclass may have its own density, for which the formula of its parent is wrong.
    closed = all(type(fn).__module__.startswith(("torch.", "pyro.")) for fn in (q, p))
    try:
        if not closed:
            raise NotImplementedError
        # Some formulas of torch index by masks, which do not broadcast.
        shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        each = kl_divergence(q.expand(shape), p.expand(shape))
    except NotImplementedError:
        closed = False
        each = log_prob(q, site["value"]) - log_prob(p, site["value"])
    event_dim = site["fn"].event_dim - q.event_dim
    rows = particles.rows(each, event_dim, num, size)
    used = 2 if particles.how == "plate" else 1  # dimensions of plates that samples and data take
    lead = rows.ndim - 2 - (particles.wide - used + event_dim)
    inner = len(particles.inner)
    most = max((term.ndim for term in log_q), default=2 + inner) - 2 - inner
    if lead > most or (lead and inner):
        return None, None  # p(z|y) with y summed out in the model, or in an inner plate
    lead = (*(1,) * (most - lead), *rows.shape[:lead], *(1,) * inner)
    rows = rows.reshape(*lead, num, size, -1)
    rows = expect(log_q, rows.movedim(-1, 0), inner).movedim(0, -1)
    single = q.event_dim == 0 or each.ndim == 0
    return rows.sum(-1) if closed else None, rows if single else None


def _peel(fn: Any) -> Any:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn
