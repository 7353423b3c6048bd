"""Active units: latent dimensions whose posterior mean depends on the datum."""

import numpy as np
from torch import Tensor

from pvae.predictive import ACTIVE

__all__ = ["ActiveUnits", "active_units", "variances"]


class ActiveUnits:
    r"""Counts the latent dimensions u whose posterior mean varies over the data.

    .. math:: A_u = \mathrm{Var}_x \left( E_{q(z|x)}[z_u] \right) > 0.01

    E[z] is averaged over the samples of each datum, and the variance that this average has
    by chance is subtracted. Only sums over the data are kept.

    Source: Burda, Grosse & Salakhutdinov 2016, section 5.2 (threshold 10⁻²).
    """

    threshold = ACTIVE

    def __init__(self) -> None:
        self._chunks: dict[str, list[np.ndarray]] = {}
        self._sums: dict[str, list[np.ndarray | float]] = {}

    def add(self, means: dict[str, Tensor]) -> None:
        """Takes conditional means [K, B, Z] of more samples of the current data."""
        for name, value in means.items():
            times = 1
            if value.stride(0) == 0:  # one mean for all samples, as in a guide of one layer
                times, value = len(value), value[:1]
            value = value.double()
            moments = [times * m.sum(0).cpu().numpy() for m in (value, value**2)]
            kept = self._chunks.setdefault(name, [0.0, 0.0])
            self._chunks[name] = [kept[0] + moments[0], kept[1] + moments[1]]

    def end_data(self, num_samples: int) -> None:
        """Closes the current data, of which `num_samples` samples were added.

        From one sample, what varies by chance cannot be told apart: such data do not count.
        """
        chunks, self._chunks = self._chunks, {}
        for name, (first, second) in chunks.items() if num_samples > 1 else ():
            mean = first / num_samples
            spread = np.maximum(second / num_samples - mean**2, 0)
            # A spread of rounding errors is that of a mean which is the same in every sample.
            noise = np.where(spread <= 1e-9 * (1 + mean**2), 0.0, spread) / (num_samples - 1)
            kept = self._sums.setdefault(name, [0, 0.0, 0.0, 0.0])
            self._sums[name] = [
                kept[0] + float(len(mean)),
                kept[1] + mean.sum(0),
                kept[2] + (mean**2).sum(0),
                kept[3] + noise.sum(0),
            ]

    def sums(self) -> dict[str, np.ndarray]:
        """Returns what is kept, [4, Z] for each site; those of several data add up."""
        return {name: np.stack(np.broadcast_arrays(*kept)) for name, kept in self._sums.items()}

    def count(self, name: str) -> int | None:
        """Returns the number of active units of a site; `None` where it is not defined."""
        return active_units(variances(self.sums().get(name)))


def variances(sums: np.ndarray | None) -> np.ndarray | None:
    """Returns the variance A_u of each unit from `ActiveUnits.sums`; `None` where undefined."""
    if sums is None or sums[0, 0] < 2:
        return None
    size, first, second, noise = sums
    return (second - first**2 / size) / (size - 1) - noise / size


def active_units(variance: np.ndarray | None) -> int | None:
    """Returns how many variances A_u are above the threshold."""
    return None if variance is None else int((variance > ActiveUnits.threshold).sum())
