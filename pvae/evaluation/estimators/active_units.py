"""Active units: latent dimensions whose posterior mean depends on the datum."""

import numpy as np
import torch
from torch import Tensor

from pvae.predictive import ACTIVE

__all__ = ["ActiveUnits", "active_units", "variances"]


class ActiveUnits:
    r"""Counts the latent dimensions u whose posterior mean varies over the data.

    .. math:: A_u = \mathrm{Var}_x \left( E_{q(z|x)}[z_u] \right) > 0.01

    E[z] is an average over the samples of each datum; the Monte Carlo variance of this average
    is subtracted.

    Attributes:
        sums: Sums over the data, [4, Z] for each site: their number, means, squares and noise.
            The sums of several parts of the data add up.

    Source: Burda, Grosse & Salakhutdinov 2016, section 5.2 (threshold 10⁻²).
    """

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}
        self._moments: dict[str, Tensor] = {}

    def add(self, means: dict[str, Tensor]) -> None:
        """Adds conditional means [K, B, Z] from more samples of the current data."""
        for name, value in means.items():
            times = 1
            if value.stride(0) == 0:  # the same mean for all samples, as in a guide of one layer
                times, value = len(value), value[:1]
            value = value.double()
            moments = times * torch.stack([value.sum(0), value.square().sum(0)])
            self._moments[name] = self._moments.get(name, 0.0) + moments

    def end_data(self, num_samples: int) -> None:
        """Finishes the current data, after `num_samples` samples.

        Data with one sample do not count, because their Monte Carlo variance is unknown.
        """
        moments, self._moments = self._moments, {}
        for name, (first, second) in moments.items() if num_samples > 1 else ():
            mean = first / num_samples
            spread = (second / num_samples - mean**2).clamp(min=0)
            # The mean is the same in every sample if it varies by no more than rounding errors.
            noise = torch.where(spread <= 1e-9 * (1 + mean**2), 0.0, spread) / (num_samples - 1)
            size = torch.full_like(mean[0], len(mean))
            sums = torch.stack([size, mean.sum(0), mean.square().sum(0), noise.sum(0)])
            self.sums[name] = self.sums.get(name, 0.0) + sums.cpu().numpy()


def variances(sums: np.ndarray | None) -> np.ndarray | None:
    """Returns the variance A_u of each unit from `ActiveUnits.sums`; None if undefined."""
    if sums is None or sums[0, 0] < 2:
        return None
    size, first, second, noise = sums
    return (second - first**2 / size) / (size - 1) - noise / size


def active_units(variance: np.ndarray | None) -> int | None:
    """Returns how many variances A_u are above the threshold."""
    return None if variance is None else int((variance > ACTIVE).sum())
