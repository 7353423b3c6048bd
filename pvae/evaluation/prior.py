"""Naive Monte Carlo from the prior: the lectures' cautionary baseline."""

from dataclasses import dataclass

import numpy as np
import torch

from pvae.data import Part
from pvae.data.tensors import Tensors
from pvae.evaluation.bounds import effective_sample_size, log_mean_exp, log_px_se
from pvae.evaluation.finding import Finding
from pvae.evaluation.work import Work, in_blocks, take
from pvae.sampler import Sampler

__all__ = ["FromPrior", "from_prior"]


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
    """

    log_px: np.ndarray
    log_px_se: np.ndarray
    relative_variance: np.ndarray
    ess: np.ndarray
    num_samples: int


def from_prior(
    sampler: Sampler,
    part: Part | Tensors,
    positions: np.ndarray,
    work: Work,
    device: torch.device,
    *,
    num_samples: int,
    seed: int,
) -> FromPrior:
    r"""Estimates log p(x) by averaging the likelihood over the prior.

    .. math:: \log p(x) \approx \log \frac1S \sum_{s=1}^S p_\theta(x | z_s), \qquad z_s \sim p(z)

    Unbiased for p(x), and useless for almost any data worth modelling: hardly a z from the
    prior explains a given x.
    """
    size = max(1, min(32, 2**20 // num_samples))  # log-likelihoods that are held together

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        batch = take(part, block, device)
        draws = sampler.prior_stream(batch, num_samples, first=int(block[0]), seed=seed)
        log_w = np.concatenate([part.double().cpu().numpy() for part in draws]).T
        se = log_px_se(log_w)
        return {
            "log_px": log_mean_exp(log_w),
            "log_px_se": se,
            "relative_variance": num_samples * se**2,
            "ess": effective_sample_size(log_w),
        }

    results = work.map("prior", in_blocks(positions, size), compute)
    columns = {name: np.concatenate([r[name] for r in results]) for name in results[0]}
    return FromPrior(datum=positions, **columns, num_samples=num_samples)
