"""Naive Monte Carlo from the prior: the baseline without a guide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.drawing import text
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.bounds import effective_sample_size, log_mean_exp, log_px_se
from pvae.evaluation.finding import Estimate, Known
from pvae.evaluation.numbers import finite
from pvae.evaluation.work import in_blocks
from pvae.importance import Sampler, log_terms, seed_unit
from pvae.pair import latent_sites, observed_sites
from pvae.runtime import is_out_of_memory, whole

__all__ = ["FromPrior", "NaiveMonteCarlo"]

_NUM_SAMPLES = 500  # for each datum, by default
_RUNS = 2**18  # decoder runs that the default may always take
_FLOATS = 2**27  # of decoded samples that are kept for all data: half a GiB
_SHARED = 0.03  # cost of a density without a network, in decoder runs


@dataclass(frozen=True)
class FromPrior(Estimate, kind="FromPrior"):
    """Naive Monte Carlo, in nats.

    Attributes:
        log_px: Log of the mean of p(x|z) over z ~ p(z), [n].
        log_px_se: Its standard error by the delta method, [n]; far too small if a few samples
            dominate the mean.
        relative_variance: Var[p(x|z)] / E[p(x|z)]², from the samples, [n]; at most S.
        ess: Effective sample size, [n].
        num_samples: S.
        shared: Whether all data share the same samples. The error of each datum is then right,
            but the error of their mean does not fall with the number of data.
    """

    title, label, order = "Naive Monte Carlo from the prior", "prior, naive", 10

    log_px_se: np.ndarray
    relative_variance: np.ndarray
    ess: np.ndarray
    num_samples: int
    shared: bool = False

    def summary(self, known: Known) -> dict[str, Any]:
        return {
            **super().summary(known),
            "num_samples": self.num_samples,
            "shared": self.shared,
            "relative_variance": {"median": finite(np.median(self.relative_variance))},
            "ess": {"median": finite(np.median(self.ess))},
        }

    def note(self, summary: dict[str, Any]) -> str:
        return (
            f"S = {text.count(self.num_samples)}, Var[p(x|z)] / E[p(x|z)]² about "
            f"{text.number(summary['relative_variance']['median'], 1)} (at most S), effective "
            f"sample size about {text.number(summary['ess']['median'], 1)} (medians)"
            + ("; all data share the same samples" if self.shared else "")
        )


@dataclass(frozen=True)
class NaiveMonteCarlo(Estimator):
    r"""Estimates log p(x) by averaging the likelihood over the prior.

    .. math:: \log p(x) \approx \log \frac1S \sum_{s=1}^S p_\theta(x | z_s), \qquad z_s \sim p(z)

    Unbiased for p(x), but its variance is huge for most data: few z from the prior explain a
    given x.

    If p(z) and p(x|z) are the same for all data, S samples are decoded once for all of them: S + n
    decoder runs instead of S · n. Each datum is still decoded at the first sample, to find data
    that differ (by a label among the pair's arguments); these get their own samples.

    Attributes:
        num_data: Number of data, drawn at random; None for all.
        num_samples: S. None is 500, but leaves the estimator out if each datum needs its own
            samples and these take more decoder runs than the bounds (and more than 262,144).

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> wanted = [NaiveMonteCarlo(num_samples=50)]
        >>> found = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10, estimators=wanted)
        >>> found.findings["prior"].log_px.shape
        (5,)
    """

    name, finding, hint = "prior", FromPrior, "--prior_samples 500"

    num_samples: int | None = None

    @classmethod
    def from_options(cls, prior_samples: int | None = None) -> Self | None:
        """Naive Monte Carlo from the prior.

        Args:
            prior_samples: Samples for each datum from the prior, for naive Monte Carlo; 0 for
                none. None is 500, but 0 if each datum needs its own samples and these take more
                decoder runs than the bounds (and more than 262,144).
        """
        if prior_samples is not None and not whole("prior_samples", prior_samples, 0):
            return None
        return cls(num_samples=prior_samples)

    def plan(self, asked: Sequence[Estimator], task: Task) -> list[Estimator]:
        structure = task.sampler.structure
        return [self] if set(structure.latent) - set(structure.enumerated) else []

    def options(self, task: Task) -> dict[str, Any]:
        return {"num_samples": self.num_samples or _NUM_SAMPLES}

    def cost(self, sampler: Sampler) -> float:
        # Samples from the prior are usually decoded once for all data.
        price = _SHARED if sampler.strategy == "plate" else 1.0
        return price * (self.num_samples or _NUM_SAMPLES)

    def estimate(self, task: Task) -> FromPrior:
        sampler, positions = task.sampler, task.positions
        num_samples = self.num_samples or _NUM_SAMPLES
        size = sampler.data_at_once(num_samples)
        blocks = in_blocks(positions, size)
        batch = task.batch(blocks[0])
        decoded = _Decoded.of(sampler, batch, num_samples, size, task.seed)
        needed, most = num_samples * len(positions), max(len(task.data) * task.num_samples, _RUNS)
        if decoded is None and self.num_samples is None and needed > most:
            raise PvaeError(
                f"{num_samples:,} samples from the prior for each of {len(positions):,} data take "
                f"{needed:,} runs of the decoder, because this pair's samples cannot be decoded "
                f"once for all data. The default takes no more than the bounds, {most:,}. To run "
                f"it anyway, ask for --prior_samples {num_samples} (in Python, "
                f"NaiveMonteCarlo(num_samples={num_samples}))."
            )

        def compute(block: np.ndarray) -> dict[str, np.ndarray]:
            batch = task.batch(block)
            found = None if decoded is None else decoded.log_likelihood(batch)
            shared = found is not None
            if found is None:
                first = int(block[0])
                draws = sampler.prior_stream(batch, num_samples, first=first, seed=task.seed)
                found = torch.cat([part.double() for part in draws])
            log_w = found.T
            se = log_px_se(log_w).cpu().numpy()
            return {
                "log_px": log_mean_exp(log_w).cpu().numpy(),
                "log_px_se": se,
                "relative_variance": num_samples * se**2,
                "ess": effective_sample_size(log_w).cpu().numpy(),
                "shared": np.full(len(block), shared),
            }

        columns = task.map("prior", blocks, compute)
        shared = bool(columns.pop("shared").any())
        return FromPrior(positions, **columns, num_samples=num_samples, shared=shared)


class _Decoded:
    """S samples z ~ p(z), and the distributions p(x|z) of the model for them and one datum."""

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
                    raise PvaeError("A latent site depends on an enumerated one.")
                self._first = {name: value[:1] for name, value in rows.items()}
                self._prior = self._log_prior(particles.log_terms(trace, count, 1))[:1]
            self._pieces.append((count, self._sites(trace)))

    @staticmethod
    def of(
        sampler: Sampler, batch: tuple[Tensor, ...], num: int, size: int, seed: int
    ) -> "_Decoded | None":
        """Decodes samples with the first datum; None if they do not serve the whole batch."""
        sites = observed_sites(sampler.structure.model_trace)
        numel = sum(site["value"].numel() for site in sites.values())
        checked = len(next(iter(sites.values()))["value"])
        if sampler.strategy != "plate" or num * (numel // max(1, checked)) > _FLOATS:
            return None
        one = tuple(t[:1] for t in batch)
        seed_unit(seed, 0, purpose=1)
        try:
            found = _Decoded(sampler, one, num, sampler.piece(size))
        except (PvaeError, RuntimeError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            return None
        return None if found.log_likelihood(batch) is None else found

    def log_likelihood(self, batch: tuple[Tensor, ...]) -> Tensor | None:
        """Returns log p(x|z), [S, B]; None if p(z) or p(x|z) of some datum differs."""
        sampler, size = self._sampler, len(batch[0])
        particles = sampler.particles
        first = {n: value.expand(1, size, *value.shape[2:]) for n, value in self._first.items()}
        try:
            trace = particles.model(batch, 1, first)
            own, seen = particles.log_terms(trace, 1, size), observed_sites(trace)
            expected = particles.sum_out(term for name, term in own.items() if name in self._summed)
            parts = []
            for count, sites in self._pieces:
                here = {
                    name: {**site, "value": seen[name]["value"], "mask": seen[name]["mask"]}
                    if name in seen
                    else site
                    for name, site in sites.items()
                }
                plates = {"dim": sampler.dim, "wide": particles.wide, "inner": particles.inner}
                terms = log_terms(here, shape=(count, size), **plates)
                parts.append(particles.sum_out(terms.values()).double())
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
        """Log p(z) of the sites that are sampled, [*enumerated, K, B]."""
        drawn = [term for name, term in terms.items() if name not in self._summed]
        return sum(drawn) if drawn else torch.zeros(1, 1)


def _close(a: Tensor, b: Tensor) -> bool:
    a, b = torch.broadcast_tensors(a.double(), b.double())
    return torch.allclose(a, b, 1e-5, 1e-4, equal_nan=True)
