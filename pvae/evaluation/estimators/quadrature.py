"""Quadrature: log p(x) to many digits, for latents of one or two dimensions."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from pvae.drawing import text
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.grid import integrate_on_grid
from pvae.evaluation.finding import Estimate, Known
from pvae.evaluation.numbers import finite
from pvae.evaluation.work import in_blocks
from pvae.importance import Density, Sampler, seed_unit
from pvae.runtime import whole

__all__ = ["Integrals", "Quadrature"]

_TAG = 0x51
_BLOCK = 16  # data with grids that are evaluated together
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_POINTS = {1: 2_000, 2: 60_000}  # of a grid, roughly


@dataclass(frozen=True)
class Integrals(Estimate, kind="Quadrature"):
    """log p(x) by numerical integration.

    Attributes:
        datum: Positions of the data, [n].
        log_px: log p(x), [n], nats; NaN if `error` is inf.
        error: Its numerical error, [n], nats: the difference from a grid twice as coarse, or the
            error of an adaptive rule, or the rounding error if that is larger. It is inf if no box
            was found that holds the mass; if the box cuts a peak; if some of the mass is so near
            the edge of a site's support that floating point cannot tell it from the edge; or if
            the guide's importance weights found more mass than the rule.
    """

    title, label, level, order = "Quadrature", "quadrature", "quadrature", 30
    independent = "numerical integration"

    error: np.ndarray

    def summary(self, known: Known) -> dict[str, Any]:
        there = np.isfinite(self.log_px)
        kept = dataclasses.replace(
            self, datum=self.datum[there], log_px=self.log_px[there], error=self.error[there]
        )
        error = finite(kept.error.max()) if len(kept) else None
        beside = Estimate(kept.datum, kept.log_px).summary(known)
        return {**beside, "error": error, "unknown": int((~there).sum())}

    def note(self, summary: dict[str, Any]) -> str:
        unknown = summary["unknown"]
        return (
            "log p(x) itself, by the trapezoid rule (Trefethen & Weideman 2014); largest numerical "
            f"error {_small(summary['error'])}"
        ) + (
            f"; unknown for {text.plural(unknown, 'datum', 'data')}: their mass was not found or "
            "lies at an edge of the support"
            if unknown
            else ""
        )


@dataclass(frozen=True)
class Quadrature(Estimator):
    r"""Integrates the latents out on a grid for each datum.

    .. math:: \log p(x) = \log \int p(x, u) \, du
        \approx \log \Big( \prod_d h_d \sum_i p(x, u_i) \Big)

    with u the unconstrained coordinates and h the spacing: the trapezoid rule, which converges
    faster than any power of h for smooth densities that vanish at both ends.

    The grid of a datum is a box. At first it holds samples of the prior and of the guide; then
    it shrinks or grows to the region where p(x, u) may be within 40 nats of its largest value. The
    slopes on both sides of two grid points limit the height of a peak between them, so that a peak
    much narrower than the first grid is found. In two dimensions the box is turned along a
    slanted posterior. Once the box is stable, the grid is refined, up to 65,537 points or
    1,025 × 1,025, until it agrees with every second of its points.

    A grid can miss a peak that is narrow compared with the rest of the posterior. The box is
    therefore integrated adaptively, in cells that shrink until they agree with known points, if
    the grid disagrees with log p(x, u) at samples or at the tops of its peaks, which are climbed
    from its local maxima; if the importance-weighted estimate of the guide is higher by more than
    both errors; or if the grid did not converge. If the guide's samples still contradict the
    result, log p(x) is unknown. Two narrow peaks between the same points of the first grid look
    like one if the samples found only one of them: the other is missed, and the error is too small.

    Attributes:
        num_data: Number of data, drawn at random; None for all.

    Raises:
        PvaeError: If a datum does not have one or two latent dimensions after enumerated sites are
            summed out; or if log p(x, u) is finite nowhere.

    Source: Trefethen & Weideman 2014, *The exponentially convergent trapezoidal rule*.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> wanted = [Quadrature()]
        >>> found = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10, estimators=wanted)
        >>> (found.findings["quadrature"].log_px > found.elbo).all()
        np.True_
    """

    name, finding, hint = "quadrature", Integrals, "--quadrature true"

    @classmethod
    def from_options(cls, quadrature: int | bool = False) -> Self | None:
        """Quadrature.

        Args:
            quadrature: Number of data for which a latent space of one or two dimensions is
                integrated out on a grid; True for all.
        """
        if isinstance(quadrature, bool):
            return cls() if quadrature else None
        num_data = whole("quadrature", quadrature, 0)
        return cls(num_data) if num_data else None

    def suggested(self, known: Known) -> bool:
        sizes = [site["variance"] for site in known.sites.values()]
        return None not in sizes and sum(map(len, sizes)) in (1, 2) and super().suggested(known)

    def cost(self, sampler: Sampler) -> float:
        return _POINTS.get(sampler.latent_numel, 0)

    def estimate(self, task: Task) -> Integrals:
        density = Density(task.sampler, task.batch(task.positions[:64]))
        if density.dim not in (1, 2):
            other = "importance sampling (log_px) or annealing (AIS)"
            raise PvaeError(
                f"Quadrature needs one or two latent dimensions, but a datum has {density.dim} "
                "after enumerated sites are summed out. Use "
                f"{other if density.dim else 'log_px, which is exact here'}."
            )

        def compute(block: np.ndarray) -> dict[str, np.ndarray]:
            seed_unit(0, int(block[0]), purpose=_TAG)
            log_px, error = integrate_on_grid(density, task.batch(block))
            bad = (~log_px.isfinite()).nonzero()
            if len(bad):
                raise PvaeError(
                    f"log p(x, u) of datum {int(block[int(bad[0, 0])])} is finite at no sample of "
                    "the prior or the guide: there is nothing to integrate."
                )
            log_px = torch.where(error.isfinite(), log_px, math.nan)
            return {"log_px": log_px.cpu().numpy(), "error": error.cpu().numpy()}

        columns = task.map("quadrature", in_blocks(task.positions, _BLOCK), compute)
        return Integrals(task.positions, **columns)


def _small(error: float | None) -> str:
    if error is None:
        return "unknown for some datum"
    power = math.floor(math.log10(error)) if error > 0 else -16
    if power > -3:
        return f"{text.number(error, 3)} nats"
    return f"below 10{str(power + 1).translate(_SUPERSCRIPT)} nats"
