"""Annealed importance sampling of a pair: from the prior or the guide, and in both directions."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pvae.data import Split
from pvae.errors import PvaeError
from pvae.evaluation.estimators.bounds import effective_sample_size, log_mean_exp, log_px_se
from pvae.evaluation.estimators.hmc import anneal, anneal_back, schedule, tune
from pvae.evaluation.finding import Finding
from pvae.evaluation.work import Work, in_blocks, take
from pvae.importance import Density, Sampler, replaced, seed_unit
from pvae.pair import TensorSplit, latent_sites, trace_program

__all__ = ["Annealed", "Sandwich", "ais", "bdmc"]

Start = Literal["prior", "guide"]
_PILOT = 16  # chains of the pilot run
_ROWS = 1024  # chains times data that move together on a CPU: enough to keep it busy


@dataclass(frozen=True)
class Annealed(Finding):
    """Annealed importance sampling of some data, in nats.

    Attributes:
        log_px: Log of the mean weight over the chains, [n]: below log p(x) in expectation.
        log_px_se: Its Monte Carlo standard error (delta method), [n].
        ess: Effective number of chains, [n].
        acceptance: Mean acceptance probability at each temperature, [T - 1].
        start: `"prior"` or `"guide"`: where the chains begin.
        num_chains: C, chains for each datum.
        num_temperatures: T.
        num_leapfrog: L.
    """

    log_px: np.ndarray
    log_px_se: np.ndarray
    ess: np.ndarray
    acceptance: np.ndarray = field(metadata={"dims": ("temperature",)})
    start: str
    num_chains: int
    num_temperatures: int
    num_leapfrog: int


@dataclass(frozen=True)
class Sandwich(Finding):
    """Bidirectional Monte Carlo on data drawn from the model, in nats.

    Attributes:
        lower: Forward AIS, [n]: below log p(x) in expectation.
        upper: Reverse AIS from the exact posterior draw, [n]: above it in expectation.
        start: `"prior"` or `"guide"`.
        num_chains: C.
        num_temperatures: T.
        num_leapfrog: L.
    """

    lower: np.ndarray
    upper: np.ndarray
    start: str
    num_chains: int
    num_temperatures: int
    num_leapfrog: int

    @property
    def gap(self) -> float:
        """Mean of upper - lower: neither estimate is further from log p(x) than this."""
        return float((self.upper - self.lower).mean())

    @property
    def gap_se(self) -> float:
        """Standard error of the gap over the data; NaN for a single one."""
        if len(self) < 2:
            return math.nan
        return float((self.upper - self.lower).std(ddof=1) / math.sqrt(len(self)))


def ais(
    sampler: Sampler,
    part: Split | TensorSplit,
    positions: np.ndarray,
    work: Work,
    device: torch.device,
    *,
    start: Start,
    num_chains: int,
    num_temperatures: int,
    num_leapfrog: int,
    seed: int,
) -> Annealed:
    r"""Estimates log p(x) by annealing from the prior or the guide to p(x, z).

    .. math:: f_\beta(z) = f_0(z)^{1 - \beta} \, p_\theta(x, z)^\beta, \qquad
        f_0 = p(z) \text{ or } q_\phi(z | x)

    Many chains for many data move at once by Hamiltonian Monte Carlo, in unconstrained
    coordinates. A pilot run of its own chains tunes the step sizes, which are then frozen, so
    that the mean weight is an unbiased estimate of p(x).

    Raises:
        PvaeError: If a latent site is discrete and not enumerated, the model's density has no
            gradient, or the guide's density cannot be evaluated where it did not draw.

    Source: Neal 2001, *Annealed importance sampling*; Wu, Burda, Salakhutdinov & Grosse 2017.
    """
    density = _density(sampler, take(part, positions[:4], device), start)
    betas = schedule(num_temperatures)

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        batch = take(part, block, device)
        seed_unit(seed, int(block[0]), purpose=2 if start == "prior" else 3)
        path = density.path(batch, start)
        tick = work.ticks(2 * (num_temperatures - 1))
        pilot, _ = _draw(density, batch, start, _PILOT)
        steps = tune(path, pilot, betas, num_leapfrog, tick=tick)
        z, outside = _draw(density, batch, start, num_chains)
        log_w, acceptance, _ = anneal(path, z, betas, steps, num_leapfrog, tick=tick)
        log_w = log_w.masked_fill(outside, -math.inf)
        weights = log_w.T.cpu().numpy()
        return {
            "log_px": log_mean_exp(weights),
            "log_px_se": log_px_se(weights),
            "ess": effective_sample_size(weights),
            "acceptance": acceptance.double().cpu().numpy(),
        }

    blocks = _blocks(sampler, positions, num_chains, device)
    results = work.map(f"AIS from the {start}", blocks, compute)
    return Annealed(
        datum=positions,
        **{n: np.concatenate([r[n] for r in results]) for n in ("log_px", "log_px_se", "ess")},
        acceptance=sum(r["acceptance"].sum(1) for r in results) / len(positions),
        start=start,
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog=num_leapfrog,
    )


def bdmc(
    sampler: Sampler,
    part: Split | TensorSplit,
    positions: np.ndarray,
    work: Work,
    device: torch.device,
    *,
    start: Start,
    num_chains: int,
    num_temperatures: int,
    num_leapfrog: int,
    seed: int,
) -> Sandwich:
    r"""Bounds log p(x) from both sides, on data drawn from the model together with their z.

    Forward AIS bounds from below. The z that a datum was drawn with is an exact draw from
    p(z|x); chains that start there and run the same kernels backwards bound from above. The
    gap between the two says how far annealing with these settings can be off.

    Raises:
        PvaeError: As `ais`; or if data cannot be drawn from the model by leaving out its
            observations.

    Source: Grosse, Ghahramani & Adams 2015, *Sandwiching the marginal likelihood using
    bidirectional Monte Carlo*.
    """
    density = _density(sampler, take(part, positions[:4], device), start)
    betas = schedule(num_temperatures)

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        seed_unit(seed, int(block[0]), purpose=4)
        batch, exact = simulate(sampler, density, take(part, block, device))
        path = density.path(batch, start)
        tick = work.ticks(3 * (num_temperatures - 1))
        pilot, _ = _draw(density, batch, start, _PILOT)
        steps = tune(path, pilot, betas, num_leapfrog, tick=tick)
        z, outside = _draw(density, batch, start, num_chains)
        forward, _, _ = anneal(path, z, betas, steps, num_leapfrog, tick=tick)
        forward = forward.masked_fill(outside, -math.inf)
        z = exact.expand(num_chains, *exact.shape[1:]).contiguous()
        back = anneal_back(path, z, betas, steps, num_leapfrog, tick=tick)
        return {
            "lower": log_mean_exp(forward.T.cpu().numpy()),
            "upper": -log_mean_exp(-back.T.cpu().numpy()),
        }

    blocks = _blocks(sampler, positions, num_chains, device)
    results = work.map("bidirectional Monte Carlo", blocks, compute)
    return Sandwich(
        datum=np.arange(len(positions)),
        **{name: np.concatenate([r[name] for r in results]) for name in ("lower", "upper")},
        start=start,
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog=num_leapfrog,
    )


def simulate(
    sampler: Sampler, density: Density, batch: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Draws data from the model, in the shapes of a batch.

    Returns:
        A batch in which the observed arguments are drawn anew, x ~ p(x|z), and the coordinates
        u [1, B, D] of the z that they were drawn with.

    Raises:
        PvaeError: If an observed site is not one of the model's arguments, or its density at
            the drawn data is another than the one that they were drawn from (as with a
            decoder that reads x).
    """
    model, size = sampler.model, len(batch[0])
    trace = trace_program("model", model, poutine.uncondition(model), batch)
    # Without its observations, a pyro.deterministic looks like a latent site.
    sites = latent_sites(trace).items()
    drawn = {name: s for name, s in sites if not s["infer"].get("_deterministic")}
    new = list(batch)
    for name in sampler.structure.observed:
        site = drawn.pop(name)
        old, value = site["infer"]["obs"], site["value"].detach()
        at = [
            i
            for i, t in enumerate(batch)
            if t.numel() == old.numel() and torch.equal(t.reshape(old.shape).to(old.dtype), old)
        ]
        if not at:
            raise PvaeError(
                f"Data cannot be drawn from the model: its observed site {name!r} is not one of "
                "the arguments that the model is called with."
            )
        new[at[0]] = value.expand(old.shape).reshape(batch[at[0]].shape).to(batch[at[0]].dtype)
    simulated = tuple(new)
    single = sampler.particles_by("loop")
    rows = {
        name: single.rows(site["value"], site["fn"].event_dim, 1, size)
        for name, site in drawn.items()
    }
    before = single.log_terms(trace, 1, size)
    again = single.log_terms(single.model(simulated, 1, rows), 1, size)
    tolerance = 1e-8 if before[next(iter(before))].dtype == torch.float64 else 1e-3
    for name in sampler.structure.observed:
        if not torch.allclose(before[name], again[name], tolerance, tolerance):
            raise PvaeError(
                f"Data cannot be drawn from the model: the density of site {name!r} changes with "
                "the data themselves (a decoder that reads x draws them one after the other)."
            )
    kept = {name: rows[name] for name in rows if name not in sampler.structure.enumerated}
    return simulated, density.flatten(kept)


def _density(sampler: Sampler, batch: tuple[Tensor, ...], start: Start) -> Density:
    density = Density(sampler, batch)
    if not density.dim:
        raise PvaeError(
            "There is nothing to anneal: no latent site is left once the enumerated ones are "
            "summed out, and log p(x) is exact."
        )
    if start == "guide" and density.no_guide:
        raise PvaeError(
            "The guide's density cannot be evaluated away from its own samples "
            f"({density.no_guide}); start from the prior instead."
        )
    # One temperature is one evaluation: it raises where there is no gradient.
    anneal(density.path(batch, start), _draw(density, batch, start, 1)[0], schedule(1), None, 1)
    return density


def _draw(
    density: Density, batch: tuple[Tensor, ...], start: Start, num: int
) -> tuple[Tensor, Tensor]:
    """Draws u [num, B, D], and says which [num, B] stand in for draws outside of the support.

    The model has no density there, so that the weight of such a chain is zero.
    """
    draw = density.prior if start == "prior" else density.posterior
    u = draw(batch, num)
    outside = u.isnan().any(-1)
    if outside.any():
        u = replaced(torch.cat([u, density.prior(batch, 1)]))[:-1]
    return u.contiguous(), outside


def _blocks(
    sampler: Sampler, positions: np.ndarray, num_chains: int, device: torch.device
) -> list[np.ndarray]:
    """Cuts data into blocks; a chunk of gradients holds one chain of every datum at least."""
    rows = _ROWS if device.type == "cpu" else 64 * _ROWS
    size = min(rows // max(num_chains, _PILOT), sampler.gradient_rows)
    return in_blocks(positions, max(1, size))
