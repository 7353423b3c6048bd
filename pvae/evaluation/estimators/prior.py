"""Naive Monte Carlo from the prior: the lectures' cautionary baseline."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.data import Split
from pvae.errors import PvaeError
from pvae.evaluation.estimators.bounds import effective_sample_size, log_mean_exp, log_px_se
from pvae.evaluation.finding import Finding
from pvae.evaluation.work import Work, in_blocks, take
from pvae.importance import Sampler, log_terms, seed_unit, sum_out
from pvae.pair import TensorSplit, latent_sites, observed_sites
from pvae.runtime import is_out_of_memory

__all__ = ["NUM_SAMPLES", "FromPrior", "from_prior"]

NUM_SAMPLES = 500  # for each datum, where nothing else is asked for
_FLOATS = 2**27  # of decoded draws that are kept for all data: half a GiB


@dataclass(frozen=True)
class FromPrior(Finding):
    """Naive Monte Carlo, in nats.

    Attributes:
        log_px: Log of the mean of p(x|z) over z ~ p(z), [n].
        log_px_se: Its standard error by the delta method, [n]; far too small where a handful
            of samples carries the mean.
        relative_variance: Var[p(x|z)] / E[p(x|z)]², from the samples, [n]; at most S.
        ess: Effective sample size, [n].
        num_samples: S.
        shared: Whether all data were given the same draws. Each datum's error is right then,
            but that of their mean does not fall with the number of data.
    """

    log_px: np.ndarray
    log_px_se: np.ndarray
    relative_variance: np.ndarray
    ess: np.ndarray
    num_samples: int
    shared: bool = False


def from_prior(
    sampler: Sampler,
    part: Split | TensorSplit,
    positions: np.ndarray,
    work: Work,
    device: torch.device,
    *,
    num_samples: int,
    seed: int,
    most: int | None = None,
) -> FromPrior:
    r"""Estimates log p(x) by averaging the likelihood over the prior.

    .. math:: \log p(x) \approx \log \frac1S \sum_{s=1}^S p_\theta(x | z_s), \qquad z_s \sim p(z)

    Unbiased for p(x), and useless for almost any data worth modelling: hardly a z from the
    prior explains a given x.

    Where p(z) and p(x|z) are the same for all data, S draws are decoded once, and every datum is
    compared with them: S + n runs of the decoder instead of S · n. Each datum is decoded at the
    first draw all the same, which shows whether it differs from the others (a label among the
    pair's arguments); such data have draws of their own.

    Args:
        sampler: Draws of the pair; its context must be entered.
        part: All N data.
        positions: Which of them: sorted positions in the part.
        work: Where blocks are computed, see `Work`.
        device: Where the pair and the data are.
        num_samples: S.
        seed: Seed of the draws.
        most: Runs of the decoder above which nothing is done, or None.

    Raises:
        PvaeError: If it would take more than `most` runs of the decoder.
    """
    size = max(1, min(32, 2**20 // num_samples))  # log-likelihoods that are held together
    blocks = in_blocks(positions, size)
    batch = take(part, blocks[0], device)
    decoded = _Decoded.of(sampler, batch, num_samples, size, seed)
    if decoded is not None and decoded.log_likelihood(batch) is None:
        decoded = None
    needed = num_samples * len(positions)
    if decoded is None and most is not None and needed > most:
        raise PvaeError(
            f"{num_samples:,} draws from the prior for each of {len(positions):,} data take "
            f"{needed:,} runs of the decoder, for this pair's draws cannot be decoded once for all "
            f"data; without being asked it takes no more than the bounds, {most:,}. Ask for "
            f"--prior_samples {num_samples} (in Python prior_samples={num_samples})."
        )

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        batch = take(part, block, device)
        found = None if decoded is None else decoded.log_likelihood(batch)
        shared = found is not None
        if found is None:
            draws = sampler.prior_stream(batch, num_samples, first=int(block[0]), seed=seed)
            found = torch.cat([part.double() for part in draws])
        log_w = found.T.cpu().numpy()
        se = log_px_se(log_w)
        return {
            "log_px": log_mean_exp(log_w),
            "log_px_se": se,
            "relative_variance": num_samples * se**2,
            "ess": effective_sample_size(log_w),
            "shared": np.full(len(block), shared),
        }

    results = work.map("prior", blocks, compute)
    columns = {name: np.concatenate([r[name] for r in results]) for name in results[0]}
    shared = bool(columns.pop("shared").any())
    return FromPrior(datum=positions, **columns, num_samples=num_samples, shared=shared)


class _Decoded:
    """S draws z ~ p(z), and the distributions p(x|z) that a model makes of them and one datum."""

    def __init__(self, sampler: Sampler, batch: tuple[Tensor, ...], num: int, step: int) -> None:
        self._sampler, self._pieces = sampler, list[tuple[int, dict[str, dict[str, Any]]]]()
        particles, structure = sampler.particles, sampler.structure
        self._summed = {*structure.observed, *structure.enumerated}
        for start in range(0, num, step):
            count = min(step, num - start)
            trace = particles.prior(batch, count, enumerate=True)
            if start == 0:
                rows = particles.rows_of(trace, count, 1)
                if any(value.shape[:2] != (count, 1) for value in rows.values()):
                    raise PvaeError("A latent has a draw for each value of an enumerated site.")
                self._first = {name: value[:1] for name, value in rows.items()}
                self._prior = self._log_prior(particles.log_terms(trace, count, 1))[:1]
            self._pieces.append((count, self._sites(trace)))

    @staticmethod
    def of(
        sampler: Sampler, batch: tuple[Tensor, ...], num: int, size: int, seed: int
    ) -> "_Decoded | None":
        """Decodes draws beside the first datum; None where this pair does not allow it."""
        sites = observed_sites(sampler.structure.model_trace)
        numel = sum(site["value"].numel() for site in sites.values())
        checked = len(next(iter(sites.values()))["value"])
        if sampler.strategy != "plate" or num * (numel // max(1, checked)) > _FLOATS:
            return None
        one = tuple(t[:1] for t in batch)
        seed_unit(seed, 0, purpose=1)
        try:
            return _Decoded(sampler, one, num, max(1, min(1024, sampler.usual_rows) // size))
        except (PvaeError, RuntimeError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            return None

    def log_likelihood(self, batch: tuple[Tensor, ...]) -> Tensor | None:
        """Returns log p(x|z), [S, B]; None where some datum's p(z) or p(x|z) is another."""
        sampler, size = self._sampler, len(batch[0])
        particles = sampler.particles
        first = {n: value.expand(1, size, *value.shape[2:]) for n, value in self._first.items()}
        try:
            trace = particles.model(batch, 1, first)
            own, seen = particles.log_terms(trace, 1, size), observed_sites(trace)
            expected = sum_out(term for name, term in own.items() if name in self._summed)
            parts = []
            for count, sites in self._pieces:
                here = {
                    name: {**site, "value": seen[name]["value"], "mask": seen[name]["mask"]}
                    if name in seen
                    else site
                    for name, site in sites.items()
                }
                shape = {"dim": sampler.dim, "wide": particles.wide, "shape": (count, size)}
                parts.append(sum_out(log_terms(here, **shape).values()).double())
        except (PvaeError, RuntimeError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            return None
        found = torch.cat(parts)
        same = _close(found[:1], expected) and _close(self._log_prior(own), self._prior)
        return found if same else None

    def _sites(self, trace: Trace) -> dict[str, dict[str, Any]]:
        sites = {**latent_sites(trace), **observed_sites(trace)}
        keys = ("fn", "value", "mask", "args", "kwargs", "infer")
        return {
            name: {key: site[key] for key in keys}
            for name, site in sites.items()
            if name in self._summed
        }

    def _log_prior(self, terms: dict[str, Tensor]) -> Tensor:
        """Log p(z) of the sites that are drawn, [*enumerated, K, B]."""
        drawn = [term for name, term in terms.items() if name not in self._summed]
        return sum(drawn) if drawn else torch.zeros(1, 1)


def _close(a: Tensor, b: Tensor) -> bool:
    a, b = torch.broadcast_tensors(a.double(), b.double())
    return torch.allclose(a, b, 1e-5, 1e-4, equal_nan=True)
