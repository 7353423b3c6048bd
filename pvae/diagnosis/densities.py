"""compare_bounds(): checks that densities match their samples, and that the ELBO is a bound."""

import math
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.diagnosis.scales import compare_scales
from pvae.errors import PvaeError
from pvae.importance import Density, Sampler
from pvae.pair import (
    Inspection,
    OwnParameters,
    Program,
    gives_a_point,
    latent_sites,
    mask_of,
)

__all__ = ["compare_bounds"]

_DRAWS = 1024
_CODES = 50  # beyond so many coordinates, the covariance of _DRAWS samples says nothing
_NUMBERS = 2**24  # coordinates of all samples together: 128 MiB in double precision
_SECONDS = 60.0  # for drawing them
_SATURATED = 0.05  # beyond this share of samples without coordinates, the others say too little


def compare_bounds(
    inspection: Inspection, elbo: ELBO, few: tuple[Tensor, ...]
) -> tuple[list[str], list[str], list[str]]:
    r"""Draws weights, and compares the densities with their samples.

    No ELBO is above the importance-weighted bound, :math:`E[\mathrm{ELBO}] \le L_K`. And every
    bound is wrong if a density is not that of its samples, as after a transform without its
    Jacobian. `_excess` says what can be found of this.

    Args:
        inspection: The pair, on about 64 data.
        elbo: The objective that is to train it.
        few: Some of the data, on which the densities are compared.

    Returns:
        Facts, notes and faults.

    Raises:
        PvaeError: If the pair has no weights.
    """
    structure, batch = inspection.structure, inspection.batch
    if gives_a_point(structure):
        note = (
            "The guide gives a point, which has no density: there is no bound on log p(x). "
            "`pvae evaluate RUN --ais 100` estimates log p(x) from the prior. A guide with a "
            "density (MeanField) gives a bound."
        )
        return [], [note], []
    sampler = Sampler(inspection)
    facts = [f"particles: by {sampler.strategy}, data counted by {sampler.plate!r}"]
    with sampler:
        start = time.perf_counter()
        log_w = torch.cat([d.log_w for d in sampler.stream(batch, 50, seed=0)]).double()
        seconds = (time.perf_counter() - start) / log_w.numel()
        why_not, faults = _densities(sampler, few, seconds)
    bad = int((log_w.isnan() | (log_w == math.inf)).any(0).sum())
    if bad:
        fault = (
            f"log w is NaN or +inf for {bad} of {len(batch[0])} data: log p(x, z) or log q(z|x) is "
            "not finite there. Keep scales positive (softplus(…) + 1e-6) and logarithms off zero."
        )
        return facts, [], [fault]
    l_50 = float((log_w.logsumexp(0) - math.log(len(log_w))).mean())
    facts.append(
        f"before training: ELBO {float(log_w.mean()):.2f}, L_50 {l_50:.2f} nats for each datum"
    )
    facts += [f"densities were not compared with their samples: {why_not}"] if why_not else []
    scaled, notes, wrong = compare_scales(structure)
    if not faults + wrong:
        wrong = _above(elbo, inspection.model, inspection.guide, batch, log_w, l_50)
    return facts + scaled, notes, faults + wrong


class _Unscaled(Messenger):
    """Removes all scales from an objective, also those of plates."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["scale"] = 1.0  # as the outermost handler, it acts last


def _densities(
    sampler: Sampler, batch: tuple[Tensor, ...], seconds: float
) -> tuple[str | None, list[str]]:
    """Compares densities with samples of at most `_NUMBERS` coordinates, in about `_SECONDS`.

    `seconds` is the time of one sample and its weight. Returns why nothing was compared (or None),
    and the faults.
    """
    if set(sampler.structure.latent) <= set(sampler.structure.enumerated):
        return None, []
    try:
        density = Density(sampler, batch)
    except PvaeError as error:
        return str(error), []
    size = len(batch[0])
    most = min(_NUMBERS // (_DRAWS * density.dim), int(_SECONDS / (4 * _DRAWS * seconds)))
    if most < 1:
        cost = (
            f"a datum has {density.dim:,} latent coordinates, more than {_NUMBERS // _DRAWS:,}"
            if density.dim * _DRAWS > _NUMBERS
            else f"{_DRAWS} samples of one datum would take about {4 * _DRAWS * seconds:.0f} s"
        )
        return cost, []
    if most < size:
        batch = tuple(t[:most] for t in batch)
    return _normalised(sampler, density, batch)


def _above(
    elbo: ELBO,
    model: Program,
    guide: Program,
    batch: tuple[Tensor, ...],
    log_w: Tensor,
    l_50: float,
) -> list[str]:
    """Returns a fault if the ELBO is above the importance-weighted bound by more than noise."""
    if elbo.num_particles > 1 or type(elbo).__module__.partition(".")[0] != "pyro":
        return []
    own = OwnParameters(model, guide)
    with _Unscaled(), own, torch.no_grad(), pyro.validation_enabled(False):
        values = torch.tensor([-float(elbo.loss(model, guide, *batch)) for _ in range(20)])
    values = values.double() / len(batch[0])
    error = float(values.std() / len(values) ** 0.5 + log_w.mean(1).std())
    if float(values.mean()) > l_50 + 4 * error + 1e-3 * abs(l_50):
        return [
            f"{type(elbo).__name__} is {float(values.mean()):.2f} nats for each datum, above the "
            f"importance-weighted bound L_50 = {l_50:.2f} (scales are left out of both). No ELBO "
            "can be above it: a closed-form KL does not fit the sites, or a term is counted in the "
            "objective and not in the weights. Use Trace_ELBO."
        ]
    return []


def _normalised(
    sampler: Sampler, density: Density, batch: tuple[Tensor, ...]
) -> tuple[str | None, list[str]]:
    """Finds latent densities of guide and model that do not match their samples."""
    why_not, faults = None, []
    programs = {
        "guide": ("q(z|x)", sampler.posterior, density.log_guide),
        "model": ("p(z)", sampler.prior, lambda u, batch: density.log_joint(u, batch)[0]),
    }
    # The networks run with every sample: as many at once as evaluation takes.
    step = max(1, sampler.usual_rows // len(batch[0]))

    def in_pieces(log_density: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda u: torch.cat([log_density(part, batch) for part in u.split(step)])

    for role, (what, draw, log_density) in programs.items():
        if role == "guide" and density.no_guide:
            continue
        parts = [draw(batch, min(step, _DRAWS - start)) for start in range(0, _DRAWS, step)]
        values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        u = density.flatten(values)
        known = _has_coordinates(density, values, u)
        if float(known.double().mean()) < 1 - _SATURATED:
            why_not = (
                f"too many samples of the {role} are so close to the edge of their support that "
                "floating-point numbers cannot tell them from it"
            )
            continue
        counted = _counted(sampler, density, batch, role)
        low, high = _excess(u, in_pieces(log_density), counted, known)
        if max(low, high) > 0.5:
            way = "low" if low > high else "high"
            bound = "high" if (way == "low") == (role == "guide") else "low"
            faults.append(
                f"The density of the {role}'s latent sites is not that of its samples: log {what} "
                f"is about {max(low, high):.1f} nats too {way} at them, and every bound too "
                f"{bound}. Transform samples with TransformedDistribution, which counts "
                "log |det J|, and check log_abs_det_jacobian and log_prob of your own classes."
            )
    return why_not, faults


def _has_coordinates(density: Density, values: dict[str, Tensor], u: Tensor) -> Tensor:
    """Returns which samples are recovered from their coordinates, [K, B]."""
    back, _ = density.constrain(u)
    known = density.is_exact(u) & u.isfinite().all(-1)
    for name, value in back.items():
        close = (value - values[name]).abs() <= 1e-3 * values[name].abs() + 1e-30
        known = known & close.reshape(*known.shape, -1).all(-1)
    return known


def _counted(sampler: Sampler, density: Density, batch: tuple[Tensor, ...], role: str) -> Tensor:
    """Returns which coordinates the log density counts, [B, D]: not those of masked sites."""
    particles = sampler.particles
    ours = role == "guide"
    trace = particles.guide(batch, 1, enumerate=False) if ours else particles.prior(batch, 1)
    sites, parts, size = latent_sites(trace), [], len(batch[0])
    for name, shape in density.shapes.items():
        fn, value, mask = sites[name]["fn"], sites[name]["value"], mask_of(sites[name])
        mask = torch.ones_like(value, dtype=torch.bool) if mask is None else mask
        mask = particles.rows(mask.expand(value.shape), fn.event_dim, 1, size)[0]
        if mask.shape[1:] != shape:  # a transform of the whole event, which has one mask
            mask = mask[(...,) + (0,) * fn.event_dim]
            mask = mask.reshape(*mask.shape, *(1,) * (1 + len(shape) - mask.ndim))
        parts.append(mask.expand(size, *shape).reshape(size, -1))
    return torch.cat(parts, -1)


def _excess(
    u: Tensor,
    log_q: Callable[[Tensor], Tensor],
    counted: Tensor | None = None,
    known: Tensor | None = None,
) -> tuple[float, float]:
    r"""Returns how much log q is too low and too high at samples u [K, B, D], in nats.

    With a Gaussian r fitted to half of the samples,

    .. math:: E_{u \sim q}[r(u) / q(u)] \le 1, \qquad E_{u \sim r}[q(u) / r(u)] \le 1.

    The first mean, over the other half, exceeds 1 if log q is too low at its samples, or has a
    different shape. The second exceeds 1 if log q is too high. Both are about 1 for a q that is
    right and nearly Gaussian. They are lower for a q far from Gaussian, and less is found. So that
    the ratios have a variance, r is somewhat narrower in the first and wider in the second.

    Args:
        u: Samples.
        log_q: Their log density.
        counted: Coordinates that log q counts, [B, D]; r leaves the others out. All if None.
        known: Samples to compare, [K, B]; the others count 0 in the first mean. All if None.
    """
    half, dim = len(u) // 2, u.shape[-1]
    counted = torch.ones_like(u[0], dtype=torch.bool) if counted is None else counted
    known = torch.ones_like(u[..., 0], dtype=torch.bool) if known is None else known
    first = u[:half].double() * known[:half, :, None]
    share = known[:half].sum(0).clamp(min=1)[:, None]
    loc = first.sum(0) / share
    apart = (first - loc) * known[:half, :, None]
    variance = apart.square().sum(0) / share
    least = 1e-6 * variance.mean(-1, keepdim=True) + 1e-12
    whole = dim <= _CODES
    if whole:
        covariance = torch.einsum("kbi,kbj->bij", apart, apart) / share[..., None]
        covariance = covariance * (counted[:, :, None] == counted[:, None, :])
        covariance.diagonal(0, -2, -1).add_(least)
        root = torch.linalg.cholesky_ex(covariance).L  # NaN where there is none
        scale = root.diagonal(0, -2, -1)
    else:
        scale = (variance + least).sqrt()
    log_det = (scale.log() * counted).sum(-1)

    def log_r(u: Tensor, width: float) -> Tensor:
        apart = u - loc
        if whole:
            apart = torch.linalg.solve_triangular(root, apart.permute(1, 2, 0), upper=False)
            apart = apart.permute(2, 0, 1)
        else:
            apart = apart / scale
        square = (apart.square() * counted).sum(-1) / width
        return -0.5 * (square + counted.sum(-1) * math.log(2 * math.pi * width)) - log_det

    noise = 1.25**0.5 * torch.randn_like(first)
    noise = torch.einsum("bij,kbj->kbi", root, noise) if whole else scale * noise
    v = (loc + noise).to(u.dtype)
    low = log_r(u[half:].double(), 0.8) - log_q(u[half:]).double()
    low = low.masked_fill(~known[half:], -math.inf)
    high = log_q(v).double() - log_r(v.double(), 1.25)
    return tuple(
        float((ratio.nan_to_num(-math.inf, -math.inf).logsumexp(0) - math.log(len(ratio))).median())
        for ratio in (low, high)
    )
