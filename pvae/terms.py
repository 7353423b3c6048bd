"""From the traces of a pair to its log weights: per-site terms, and how they add up."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError
from pvae.pair import latent_sites, observed_sites

__all__ = ["Draws", "add_up", "site_terms"]


@dataclass
class Draws:
    """K samples for each of B data, in nats.

    Attributes:
        log_w: Log weights, [K, B].
        elbo: Terms whose mean is the ELBO, [K, B]: log_w, but for sites enumerated in the guide.
        kl: For each latent site of the guide, log q(z|x) - log p(z), [K, B].
        means: For each continuous latent site, E[z] given its parents, [K, B, numel].
    """

    log_w: Tensor
    elbo: Tensor
    kl: dict[str, Tensor]
    means: dict[str, Tensor]


def site_terms(
    guide_trace: Trace, model_trace: Trace, *, dim: int, wide: int, shape: tuple[int, ...]
) -> dict[str, Tensor]:
    """Returns the log density of every site, summed over all plates but samples and data.

    Scales do not enter; masks do. An observed site of the guide (a penalty) is left out.

    Args:
        guide_trace: A call of the guide.
        model_trace: The call of the model with the guide's draws.
        dim: The batch plate's dimension (negative).
        wide: Number of dimensions that plates take up; the particle plate is the leftmost.
        shape: `(K, B)` with a particle plate, else `(B,)`.

    Returns:
        `"p(name)"` for the model's sites and `"q(name)"` for the guide's, each of shape
        [*enumerated, *shape], in nats.
    """
    keep = {dim} if len(shape) == 1 else {dim, -wide}
    summed = [d for d in range(-wide, 0) if d not in keep]
    terms = {}
    for letter, sites in (
        ("q", latent_sites(guide_trace)),
        ("p", {**latent_sites(model_trace), **observed_sites(model_trace)}),
    ):
        for name, site in sites.items():
            log_p = _log_prob(name, site)
            log_p = log_p.reshape((1,) * (wide - log_p.ndim) + log_p.shape)
            log_p = log_p.sum(summed) if summed else log_p
            try:
                log_p = log_p.expand(*log_p.shape[: -len(shape)], *shape)
            except RuntimeError as error:
                raise PvaeError(
                    f"site {name!r} has log densities of shape {tuple(log_p.shape)} where "
                    f"{shape} was due"
                ) from error
            terms[f"{letter}({name})"] = log_p
    return terms


def _log_prob(name: str, site: dict[str, Any]) -> Tensor:
    try:
        log_p = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        return torch.as_tensor(scale_and_mask(log_p, 1.0, site["mask"]))
    except (RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise PvaeError(
            f"Site {name!r}: a value of shape {tuple(site['value'].shape)} does not fit its "
            f"distribution of shape {tuple(site['fn'].batch_shape)} + "
            f"{tuple(site['fn'].event_shape)}: {error}"
        ) from error


def add_up(
    terms: dict[str, Tensor],
    enumerated: tuple[str, ...],
    means: dict[str, Tensor],
    first: int = 0,
) -> Draws:
    r"""Adds per-site terms [*enumerated, K, B] up to log weights, summing enumerated sites out.

    With y enumerated in the guide, :math:`\log w = \log \sum_y p(x, y, z_y) / q(z_y | x, y)`,
    and the ELBO's terms are :math:`\sum_y q(y|x) [\log p(x, y, z_y) - \log q(y, z_y | x)]`.

    Raises:
        PvaeError: If a weight is NaN or +inf, naming datum (counted from `first`) and site.
    """
    q = {name[2:-1]: term for name, term in terms.items() if name[0] == "q"}
    p = {name[2:-1]: term for name, term in terms.items() if name[0] == "p"}
    log_ratio = sum(p.values()) - sum(t for name, t in q.items() if name not in enumerated)
    kl = {name: term - p[name] if name in p else term for name, term in q.items()}
    log_w = _logsumexp(log_ratio)
    bad = log_w.isnan() | (log_w == math.inf)
    if bad.any():
        sample, datum = (int(i) for i in bad.nonzero()[0])
        value = "NaN" if log_w[sample, datum].isnan() else "+inf"
        sites = [
            f"log {name}"
            for name, term in terms.items()
            if not term[..., sample, datum].isfinite().all()
        ]
        raise PvaeError(
            f"The log weight of datum {first + datum} is {value} (sample {sample}, and "
            f"{int(bad.sum())} of {bad.numel()} weights of its chunk); not finite is "
            f"{' and '.join(sites) or 'their sum'}. Check the parameters and this datum for NaN, "
            "and the distributions for scales that reach zero."
        )
    inside = [q[name] for name in enumerated if name in q]
    if not inside:
        return Draws(log_w, log_w, {name: _logsumexp(t) for name, t in kl.items()}, means)
    log_q = sum(inside)
    model_only = tuple(range(log_ratio.ndim - log_q.ndim))
    elbo = log_ratio.logsumexp(model_only) if model_only else log_ratio
    kl = {name: _expect(log_q, term) for name, term in kl.items()}
    return Draws(log_w, _expect(log_q, elbo - log_q), kl, means)


def _logsumexp(term: Tensor) -> Tensor:
    axes = tuple(range(term.ndim - 2))
    return term.logsumexp(axes) if axes else term


def _expect(log_q: Tensor, value: Tensor) -> Tensor:
    """Sums q * value over the enumerated dimensions; a value of infinity counts 0 where q is 0."""
    log_q, value = torch.broadcast_tensors(log_q, value)
    product = torch.where(log_q.isneginf(), 0.0, log_q.exp() * value)
    return product.sum(tuple(range(product.ndim - 2)))
