"""Computes log weights from traces: the terms of each site, and their sum."""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Bernoulli, Independent, Normal
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._pytree import tree_map

from pvae.distributions import log_prob
from pvae.errors import PvaeError, first_line
from pvae.importance.summed import expect, sum_beyond, sum_out
from pvae.pair import unmasked
from pvae.runtime import is_out_of_memory

__all__ = ["Draws", "add_up", "elbo_of", "log_terms", "plate_terms"]

_FACTORS = 28
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass
class Draws:
    """K samples for each of B data, in nats.

    Attributes:
        log_w: Log weights, [K, B].
        elbo: Terms whose mean is the ELBO, [K, B]: log_w, except if the guide enumerates sites.
        kl: For each latent site of the guide, log q(z|x) - log p(z), [K, B].
        rate: Terms whose mean is KL(q(z|x) ‖ p(z)) of all latent sites together, [K, B]: the sum
            of `kl`, except with sites that share a parent which only the model enumerates.
        means: For each continuous latent site, E[z] given its parents, [K, B, numel].
    """

    log_w: Tensor
    elbo: Tensor
    kl: dict[str, Tensor]
    rate: Tensor
    means: dict[str, Tensor]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Draws":
        """Returns the draws with a function applied to each tensor."""
        return Draws(*(tree_map(function, part) for part in vars(self).values()))

    @staticmethod
    def cat(parts: list["Draws"]) -> "Draws":
        """Returns draws with the samples of all parts."""
        first, *rest = (vars(part) for part in parts)
        return Draws(**tree_map(lambda *tensors: torch.cat(tensors), first, *rest))


def log_terms(
    sites: dict[str, dict[str, Any]],
    *,
    dim: int,
    wide: int,
    shape: tuple[int, ...],
    bounded: Container[str] = (),
    inner: Sequence[tuple[int, int]] = (),
) -> dict[str, Tensor]:
    """Returns the log density of each site, summed over plates except samples and data.

    Scales do not enter. Masks do, except for sites that this call enumerates: the sum over the
    values of a masked site weighs them by their probabilities, which sum to one.

    Args:
        sites: Sample sites of one call of a program, by name.
        dim: The batch plate's dimension (negative).
        wide: Number of dimensions that plates take up; the particle plate is the leftmost.
        shape: `(K, B)` with a particle plate, else `(B,)`.
        bounded: Sites whose values may lie outside their support, where log p is -inf.
        inner: Dimension and size of each plate of enumerated sites, except samples and data.

    Returns:
        For each site a tensor [*shape], or [*enumerated, *inner, *shape] if it depends on an
        enumerated site, in nats.
    """
    keep = {dim} if len(shape) == 1 else {dim, -wide}
    terms = {}
    for name, log_p in plate_terms(sites, wide=wide, bounded=bounded).items():
        apart = inner if log_p.ndim > wide else ()
        places = {d: at for at, (d, size) in enumerate(apart) if log_p.shape[d] == size}
        summed = [d for d in range(-wide, 0) if d not in keep and d not in places]
        log_p = log_p.sum(summed) if summed else log_p
        if apart:
            left = sorted({*keep, *places})
            order = [*sorted(places, key=places.get), *sorted(keep)]
            lead = log_p.ndim - len(left)
            log_p = log_p.permute(*range(lead), *(lead + left.index(d) for d in order))
            for at in set(range(len(apart))) - {*places.values()}:
                log_p = log_p.unsqueeze(lead + at)
        try:
            terms[name] = log_p.expand(*log_p.shape[: -len(shape)], *shape)
        except RuntimeError as error:
            raise PvaeError(
                f"Site {name!r} has log densities of shape {tuple(log_p.shape)} instead of {shape}."
            ) from error
    return terms


def plate_terms(
    sites: dict[str, dict[str, Any]], *, wide: int, bounded: Container[str] = ()
) -> dict[str, Tensor]:
    """Returns the log density of each site, [*enumerated, *plates]; see `log_terms`."""
    terms = {}
    for name, site in sites.items():
        if "_enumerate_dim" in site["infer"]:
            site = {**site, "fn": unmasked(site["fn"]), "mask": None}
        log_p = _log_prob(name, site, bounded=name in bounded)
        terms[name] = log_p.reshape((1,) * (wide - log_p.ndim) + log_p.shape)
    return terms


def _log_prob(name: str, site: dict[str, Any], *, bounded: bool) -> Tensor:
    try:
        fn, value = site["fn"], site["value"]
        if bounded:
            log_p = log_prob(
                fn, value, *site["args"], observed=site["is_observed"], **site["kwargs"]
            )
        elif (log_p := _fast(fn, value)) is None:
            log_p = fn.log_prob(value, *site["args"], **site["kwargs"])
        return torch.as_tensor(scale_and_mask(log_p, 1.0, site["mask"]))
    except (KeyError, NotImplementedError) as error:
        # A flow without an inverse looks its input up among those that it has computed.
        raise PvaeError(
            f"Site {name!r}: the density of its {type(site['fn']).__name__} cannot be evaluated at "
            f"values that it did not draw itself ({first_line(error)})"
        ) from error
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise PvaeError(
            f"Site {name!r}: a value of shape {tuple(site['value'].shape)} does not fit its "
            f"distribution of shape {tuple(site['fn'].batch_shape)} + "
            f"{tuple(site['fn'].event_shape)}: {error}"
        ) from error


def _fast(fn: Any, value: Tensor) -> Tensor | None:
    r"""Returns the log density of independent bits or Normals with fewer passes over memory.

    .. math:: \sum_d x_d l_d - \log(1 + e^{l_d}), \qquad
        -\frac12 \sum_d \left( \frac{x_d - \mu_d}{\sigma_d} \right)^2 - \log \sigma_d
        - \frac12 \log 2 \pi

    Other distributions, and shapes that broadcast within the event, give None.
    """
    base = getattr(fn, "base_dist", None)
    if type(fn) is not Independent or not value.is_floating_point():
        return None
    n = fn.reinterpreted_batch_ndims
    if n == 0:
        return None  # a slice of the last 0 dimensions would be all of them
    if value.shape[-n:] != base.batch_shape[-n:]:
        return None
    if type(base) is Bernoulli and "logits" in base.__dict__:
        logits, value = base.logits.flatten(-n), value.flatten(-n)
        on_cpu = logits.device.type == "cpu" and logits.dtype == torch.float32
        if get_proxy_mode() and not torch.is_grad_enabled() and on_cpu and logits.shape[-1]:
            return _in_one_pass(logits, value.to(logits.dtype))
        return torch.linalg.vecdot(logits, value.to(logits.dtype)) - _SumOfSoftplus.apply(logits)
    if type(base) is Normal:
        z = ((value - base.loc) / base.scale).flatten(-n)
        scale = base.scale
        for dim in range(scale.ndim - n):  # what a plate has repeated needs one logarithm
            if scale.stride(dim) == 0:
                scale = scale.narrow(dim, 0, 1)
        log_scale = scale.log().flatten(-n).sum(-1)
        return -0.5 * torch.linalg.vecdot(z, z) - log_scale - z.shape[-1] * _HALF_LOG_2PI
    return None


def _in_one_pass(logits: Tensor, value: Tensor) -> Tensor:
    r"""Returns the log density of bits, for a graph on a CPU, which reads each logit once.

    .. math:: \sum_d \left( (x_d - \tfrac12) l_d - \tfrac12 |l_d| \right)
        - \log \prod_d \left( 1 + e^{-|l_d|} \right)

    One logarithm is taken for up to 28 factors, each between 1 and 2.
    """
    numel = logits.shape[-1]
    parts = next(n for n in range(min(numel, _FACTORS), 0, -1) if numel % n == 0)
    total, product = 0.0, 1.0
    for some, x in zip(logits.chunk(parts, -1), value.chunk(parts, -1), strict=True):
        size = some.abs()
        total = total + ((x - 0.5) * some - 0.5 * size)
        product = product * (1 + torch.exp(-size))
    return (total - product.log()).sum(-1)


class _SumOfSoftplus(torch.autograd.Function):
    r"""The sum of log(1 + e^l) over the last dimension, as max(l, 0) + log(1 + e^-|l|).

    The last term is a logarithm of a number between 1 and 2, off by half a rounding error of 1
    at most (3e-8 in single precision), and is taken in place. `softplus` takes log1p, which is
    up to six times slower on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        work = logits.abs().neg_().exp_().add_(1).log_()
        total = work.sum(-1)
        return total.add_(torch.clamp(logits, min=0, out=work).sum(-1))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        return slope[..., None] * logits.sigmoid()


def add_up(
    p: dict[str, Tensor],
    q: dict[str, Tensor],
    enumerated: tuple[str, ...],
    means: dict[str, Tensor],
    first: int = 0,
    inner: int = 0,
) -> Draws:
    r"""Adds the terms of model and guide up to log weights, summing enumerated sites out.

    The terms are per site, [*enumerated, *inner, K, B] for a number of inner plates, and come
    without an observed site of the guide (a penalty).

    With y enumerated in the guide, :math:`\log w = \log \sum_y p(x, y, z_y) / q(z_y | x, y)`,
    and the ELBO's terms are :math:`\sum_y q(y|x) [\log p(x, y, z_y) - \log q(y, z_y | x)]`.

    Raises:
        PvaeError: If a weight is NaN or +inf, naming datum (counted from `first`) and site.
    """
    ratio = _ratio(p, q, enumerated)
    log_w = sum_out(ratio, inner)
    bad = log_w.isnan() | (log_w == math.inf)
    if bad.any():
        sample, datum = (int(i) for i in bad.nonzero()[0])
        value = "NaN" if log_w[sample, datum].isnan() else "+inf"
        sites = [
            f"log {letter}({name})"
            for letter, terms in (("q", q), ("p", p))
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
    outside = [p[name] for name in enumerated if name in p and name not in q]
    latent = {name: term for name, term in p.items() if name in q or name in enumerated}
    prior = [*_ratio(latent, q, enumerated), torch.zeros_like(log_w)]
    kl = {}
    for name, term in q.items():
        parts = [term]
        if name in p:
            priors = sum_beyond([p[name], *outside], len(inside), inner)
            # Terms in plates and outside them are not added before the sum over the plates.
            parts = [term, *(-t for t in priors)] if inner else [term - sum(priors)]
        kl[name] = sum(expect(inside, part, inner) for part in parts)
    if not inside:
        return Draws(log_w, log_w, kl, -sum_out(prior, inner), means)
    elbo, rate = (_expected(inside, terms, inner) for terms in (ratio, prior))
    return Draws(log_w, elbo, kl, -rate, means)


def elbo_of(
    p: dict[str, Tensor], q: dict[str, Tensor], enumerated: tuple[str, ...], inner: int = 0
) -> Tensor:
    """Returns the terms whose mean is the ELBO, [K, B], as `add_up` does; NaN may pass."""
    inside, ratio = [q[name] for name in enumerated if name in q], _ratio(p, q, enumerated)
    return _expected(inside, ratio, inner) if inside else sum_out(ratio, inner)


def _ratio(p: dict[str, Tensor], q: dict[str, Tensor], enumerated: tuple[str, ...]) -> list[Tensor]:
    """Returns terms that sum to log p minus log q of the sites that are drawn."""
    drawn = [term for name, term in q.items() if name not in enumerated]
    if not enumerated:
        return [sum(p.values()) - sum(drawn)] if p or q else []
    return [*p.values(), *(-term for term in drawn)]


def _expected(inside: list[Tensor], terms: list[Tensor], inner: int) -> Tensor:
    """E_q[log Σ exp Σ terms - log q], the sum over what only the model enumerates."""
    terms = [*sum_beyond(terms, len(inside), inner), *(-term for term in inside)]
    return sum(expect(inside, term, inner) for term in terms)
