"""compare_bounds(): checks that densities match their draws, and that the ELBO is a bound."""

import math
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.errors import PvaeError
from pvae.importance import Density, Sampler
from pvae.pair import (
    Inspection,
    OwnParameters,
    Program,
    Structure,
    gives_a_point,
    latent_sites,
    mask_of,
    observed_sites,
)

__all__ = ["compare_bounds"]

_DRAWS = 1024
_CODES = 50  # coordinates beyond which a covariance of so many draws says nothing
_NUMBERS = 2**24  # coordinates of all draws together: 128 MiB in double precision
_SECONDS = 60.0  # for drawing them
_SATURATED = 0.05  # share of draws without coordinates beyond which the others say too little


def compare_bounds(
    inspection: Inspection, elbo: ELBO, few: tuple[Tensor, ...]
) -> tuple[list[str], list[str], list[str]]:
    r"""Draws weights, and compares the densities with their draws.

    No ELBO is above the importance-weighted bound, :math:`E[\mathrm{ELBO}] \le L_K`; and a
    density that is not that of the draws, as after a transform whose Jacobian was forgotten, makes
    every bound wrong: see `_excess` for what of this can be seen.

    Args:
        inspection: The pair, on some 64 data.
        elbo: What is to train it.
        few: Some of the data, for which densities are looked at closely.

    Returns:
        Facts, notes and faults.

    Raises:
        PvaeError: If the pair has no weights, and why.
    """
    structure, batch = inspection.structure, inspection.batch
    if gives_a_point(structure):
        note = (
            "The guide gives a point, which has no density: there is no bound on log p(x). "
            "`pvae evaluate RUN --ais 100` estimates it from the prior; a guide with a density "
            "(MeanField) has a bound."
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
            f"log w is NaN or +inf for {bad} of {len(batch[0])} data: a density is not one there. "
            "Keep scales positive (softplus(…) + 1e-6) and logarithms off zero."
        )
        return facts, [], [fault]
    l_50 = float((log_w.logsumexp(0) - math.log(len(log_w))).mean())
    facts.append(
        f"before training: ELBO {float(log_w.mean()):.2f}, L_50 {l_50:.2f} nats for each datum"
    )
    facts += [f"densities were not compared with their draws: {why_not}"] if why_not else []
    weighed, notes, wrong = _scales(structure)
    if not faults + wrong:
        wrong = _above(elbo, inspection.model, inspection.guide, batch, log_w, l_50)
    return facts + weighed, notes, faults + wrong


def _scales(structure: Structure) -> tuple[list[str], list[str], list[str]]:
    """Returns facts, notes and faults about the scales of sites."""
    guide, model = map(_own_scales, (structure.guide_trace, structure.model_trace))
    for name in guide.keys() & model.keys():
        if not _same(guide[name], model[name]):
            fault = (
                f"Site {name!r} has the scale {_number(guide[name])} in the guide and "
                f"{_number(model[name])} in the model, so that log p(z) and log q(z|x) are weighed "
                "differently and their difference is no KL. Put the same poutine.scale (a plate's "
                "subsample_size counts too) around the site in both programs."
            )
            return [], [], [fault]
    scales = model | guide
    first = next(iter(scales.values()))
    if not all(_same(scale, first) for scale in scales.values()):
        text = ", ".join(f"{_number(scale)} on {name!r}" for name, scale in scales.items())
        note = (
            f"poutine.scale weighs the sites differently ({text}), as a KL weight does. Training "
            "maximises the weighed sum, which need not be a bound on log p(x); evaluation leaves "
            "scales out."
        )
        return [], [note], []
    if _same(first, 1.0):
        return [], [], []
    return [f"scale: {_number(first)} on every site, so that the loss is that times −ELBO"], [], []


def _own_scales(trace: Trace) -> dict[str, float | Tensor]:
    """Returns the scale of each site without the share of subsampling plates."""
    scales = {}
    for name, site in {**latent_sites(trace), **observed_sites(trace)}.items():
        scales[name] = site["scale"]
        for frame in site["cond_indep_stack"]:
            if frame.size > 0 and (frame.full_size or -1) > frame.size:
                scales[name] = scales[name] / (frame.full_size / frame.size)
    return scales


def _same(a: float | Tensor, b: float | Tensor) -> bool:
    a, b = (torch.as_tensor(scale, dtype=torch.float64).cpu() for scale in (a, b))
    shapes = zip(reversed(a.shape), reversed(b.shape), strict=False)
    if not all(m == n or 1 in (m, n) for m, n in shapes):
        return False
    return torch.allclose(*torch.broadcast_tensors(a, b), rtol=1e-5)


def _number(scale: float | Tensor) -> str:
    if isinstance(scale, Tensor) and scale.numel() > 1:
        return f"{float(scale.min()):g} … {float(scale.max()):g}"
    return f"{float(scale):g}"


class _Unscaled(Messenger):
    """Removes all scales from an objective, also those of plates."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["scale"] = 1.0  # the outermost handler comes last


def _densities(
    sampler: Sampler, batch: tuple[Tensor, ...], seconds: float
) -> tuple[str | None, list[str]]:
    """Compares densities with draws of at most `_NUMBERS` coordinates, in about `_SECONDS`.

    Args:
        sampler: Draws of the pair.
        batch: Some data.
        seconds: What one draw and its weight take.

    Returns:
        Why nothing was compared, else None; and the faults.
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
            else f"{_DRAWS} draws of one datum would take about {4 * _DRAWS * seconds:.0f} s"
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
            f"{type(elbo).__name__} says {float(values.mean()):.2f} nats for each datum, above the "
            f"importance-weighted bound L_50 = {l_50:.2f}, which no ELBO can be (scales are left "
            "out of both). A closed-form KL does not fit the sites, or a term is counted in the "
            "objective and not in the weights: use Trace_ELBO."
        ]
    return []


def _normalised(
    sampler: Sampler, density: Density, batch: tuple[Tensor, ...]
) -> tuple[str | None, list[str]]:
    """Returns faults of latent densities that do not match their draws, in guide and model."""
    why_not, faults = None, []
    programs = {
        "guide": ("q(z|x)", sampler.posterior, density.log_guide),
        "model": ("p(z)", sampler.prior, lambda u, batch: density.log_joint(u, batch)[0]),
    }
    # The networks run with every draw: as many at once as evaluation takes.
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
                f"too many draws of the {role} lie so close to the edge of their support that "
                "floating-point numbers do not tell them from it"
            )
            continue
        counted = _counted(sampler, density, batch, role)
        low, high = _excess(u, in_pieces(log_density), counted, known)
        if max(low, high) > 0.5:
            way = "low" if low > high else "high"
            bound = "high" if (way == "low") == (role == "guide") else "low"
            faults.append(
                f"The density of the {role}'s latent sites is not that of its draws: log {what} is "
                f"about {max(low, high):.1f} nats too {way} at them, and every bound too {bound}. "
                "Where a draw is transformed, write TransformedDistribution (it counts "
                "log |det J|), and check log_abs_det_jacobian and log_prob of your own classes."
            )
    return why_not, faults


def _has_coordinates(density: Density, values: dict[str, Tensor], u: Tensor) -> Tensor:
    """Returns which draws are recovered from their coordinates, [K, B]."""
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
    r"""Returns how much log q is too low and too high at draws u [K, B, D], in nats.

    With a Gaussian r fitted to half of the draws,

    .. math:: E_{u \sim q}[r(u) / q(u)] \le 1, \qquad E_{u \sim r}[q(u) / r(u)] \le 1.

    The first mean is over the other half; it exceeds 1 where log q is too low at its draws, or has
    another shape than they. The second does where log q is too high. Both are about 1 for a q that
    is right and nearly Gaussian; where it is far from that, less, and less is found. So that the
    ratios keep a variance, r is somewhat narrower in the first and wider in the second.

    Args:
        u: Draws.
        log_q: Their log density.
        counted: Coordinates whose density log q counts, [B, D]; r leaves the others out. All.
        known: Draws that can be compared, [K, B]; the others count 0 in the first mean. All.
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
