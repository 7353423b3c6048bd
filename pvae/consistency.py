"""compare_bounds(): whether a pair's densities are those of its draws, and its ELBO a bound."""

import math
from collections.abc import Callable

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pvae.agreement import gives_a_point
from pvae.density import Density
from pvae.errors import PvaeError
from pvae.pair import OwnParameters, Program, observed_sites
from pvae.sampler import Sampler
from pvae.structure import Structure

__all__ = ["compare_bounds"]

_DRAWS = 1024
_CODES = 50  # coordinates beyond which a covariance of so many draws says nothing


def compare_bounds(
    structure: Structure,
    model: Program,
    guide: Program,
    elbo: ELBO,
    batch: tuple[Tensor, ...],
    few: tuple[Tensor, ...],
) -> tuple[list[str], list[str], list[str]]:
    r"""Draws weights, and compares densities with the draws they should be those of.

    No ELBO is above the importance-weighted bound, :math:`E[\mathrm{ELBO}] \le L_K`; and a
    density that is not that of the draws, as after a transform whose Jacobian was forgotten, makes
    every bound wrong: see `_excess` for what of this can be seen.

    Args:
        structure: What `pvae.check` found.
        model: Pyro program.
        guide: Pyro program.
        elbo: What is to train them.
        batch: Some 64 data.
        few: Some of them, for which densities are looked at closely.

    Returns:
        Facts, notes and faults.
    """
    if gives_a_point(structure):
        note = (
            "The guide gives a point, which has no density: there is no bound on log p(x). "
            "`pvae evaluate RUN --ais 100` estimates it from the prior; a guide with a density "
            "(MeanField) has a bound."
        )
        return [], [note], []
    facts = []
    try:
        sampler = Sampler(model, guide, *batch)
        facts.append(f"particles: by {sampler.strategy}, data counted by {sampler.plate!r}")
        with sampler:
            log_w = torch.cat([d.log_w for d in sampler.stream(batch, 50, seed=0)]).double()
            faults = _densities(sampler, few)
    except PvaeError as error:
        return facts, [], [str(error)]
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
    if not faults:
        data = len(batch[0]) * _weight(structure, sampler.plate)
        faults = _above(elbo, model, guide, batch, data, log_w, l_50)
    return facts, [], faults


def _weight(structure: Structure, plate: str) -> float:
    """How often a plate that subsamples counts each datum of a minibatch."""
    for site in observed_sites(structure.model_trace).values():
        for frame in site["cond_indep_stack"]:
            if frame.name == plate and frame.size > 0 and frame.full_size:
                return frame.full_size / frame.size
    return 1.0


def _densities(sampler: Sampler, batch: tuple[Tensor, ...]) -> list[str]:
    if set(sampler.structure.latent) <= set(sampler.structure.enumerated):
        return []
    try:
        density = Density(sampler, batch)
    except PvaeError:
        return []  # discrete: there is no line to look along
    return _normalised(density, batch)


def _above(
    elbo: ELBO,
    model: Program,
    guide: Program,
    batch: tuple[Tensor, ...],
    data: float,
    log_w: Tensor,
    l_50: float,
) -> list[str]:
    """No ELBO is above the importance-weighted bound, but for noise."""
    if elbo.num_particles > 1 or type(elbo).__module__.partition(".")[0] != "pyro":
        return []
    with OwnParameters(model, guide), torch.no_grad(), pyro.validation_enabled(False):
        values = torch.tensor([-float(elbo.loss(model, guide, *batch)) for _ in range(20)])
    values = values.double() / data
    error = float(values.std() / len(values) ** 0.5 + log_w.mean(1).std())
    if float(values.mean()) > l_50 + 4 * error + 1e-3 * abs(l_50):
        return [
            f"{type(elbo).__name__} says {float(values.mean()):.2f} nats for each datum, above the "
            f"importance-weighted bound L_50 = {l_50:.2f}, which no ELBO can be. A scale "
            "(poutine.scale, or a plate's subsample_size that is not the minibatch) or a "
            "closed-form KL that does not fit weighs the terms: take it away, or use Trace_ELBO."
        ]
    return []


def _normalised(density: Density, batch: tuple[Tensor, ...]) -> list[str]:
    """Whether the latents' log densities are those of their draws, in the guide and the model."""
    faults = []
    programs = {
        "guide": ("q(z|x)", density.posterior, density.log_guide),
        "model": ("p(z)", density.prior, lambda u, batch: density.log_joint(u, batch)[0]),
    }
    for role, (what, draw, log_density) in programs.items():
        if role == "guide" and density.no_guide:
            continue
        low, high = _excess(draw(batch, _DRAWS), lambda u, f=log_density: f(u, batch))
        if max(low, high) > 0.5:
            way = "low" if low > high else "high"
            bound = "high" if (way == "low") == (role == "guide") else "low"
            faults.append(
                f"The density of the {role}'s latent sites is not that of its draws: log {what} is "
                f"about {max(low, high):.1f} nats too {way} at them, and every bound too {bound}. "
                "Where a draw is transformed, write TransformedDistribution (it counts "
                "log |det J|), and check log_abs_det_jacobian and log_prob of your own classes."
            )
    return faults


def _excess(u: Tensor, log_q: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    r"""How much log q is too low and too high for draws u [K, B, D] of it: nats, medians over data.

    With a Gaussian r fitted to half of the draws,

    .. math:: E_{u \sim q}[r(u) / q(u)] \le 1, \qquad E_{u \sim r}[q(u) / r(u)] \le 1.

    The first mean is over the other half; it exceeds 1 where log q is too low at its draws, or has
    another shape than they. The second does where log q is too high. Both are about 1 for a q that
    is right and nearly Gaussian; where it is far from that, less, and less is found. So that the
    ratios keep a variance, r is somewhat narrower in the first and wider in the second.
    """
    half, dim = len(u) // 2, u.shape[-1]
    first = u[:half].double()
    loc, apart = first.mean(0), first - first.mean(0)
    covariance = torch.einsum("kbi,kbj->bij", apart, apart) / half
    eye = torch.eye(dim, dtype=loc.dtype, device=u.device)
    if dim > _CODES:
        covariance = covariance * eye
    size = covariance.diagonal(0, -2, -1).mean(-1)[:, None, None]
    covariance = covariance + (1e-6 * size + 1e-12) * eye
    root = torch.linalg.cholesky_ex(covariance).L  # NaN where there is none

    def log_r(u: Tensor, width: float) -> Tensor:
        apart = (u - loc).permute(1, 2, 0)
        square = torch.linalg.solve_triangular(root, apart, upper=False).square().sum(1).mT / width
        log_det = root.diagonal(0, -2, -1).log().sum(-1) + 0.5 * dim * math.log(2 * math.pi * width)
        return -0.5 * square - log_det

    v = (loc + torch.einsum("bij,kbj->kbi", 1.25**0.5 * root, torch.randn_like(first))).to(u.dtype)
    low = log_r(u[half:].double(), 0.8) - log_q(u[half:]).double()
    high = log_q(v).double() - log_r(v.double(), 1.25)
    return tuple(
        float((ratio.nan_to_num(-math.inf, -math.inf).logsumexp(0) - math.log(len(ratio))).median())
        for ratio in (low, high)
    )
