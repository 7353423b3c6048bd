"""The verdict: in words what was checked about an estimate of log p(x), and what was not."""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pvae.evaluation.annealed import Annealed

__all__ = ["above_bound", "verdict"]


def verdict(
    khat: np.ndarray,
    threshold: float,
    num_samples: int,
    *,
    log_px: np.ndarray | None = None,
    log_px_se: np.ndarray | None = None,
    ais: "Annealed | None" = None,
    exact: bool = False,
) -> str:
    """Says what k̂ and AIS from the prior tell about the bounds, and what they cannot tell.

    Args:
        khat: Pareto k̂ of each datum, [N].
        threshold: The k̂ up to which `num_samples` samples are enough.
        num_samples: K.
        log_px: The importance-weighted bound, [N], nats.
        log_px_se: Its standard error, [N].
        ais: Annealed importance sampling from the prior, on some of the data.
        exact: Whether nothing was sampled at all.
    """
    if exact:
        return (
            "Nothing was sampled: every latent site is summed out, or there is none, so that "
            "these values of log p(x) are exact."
        )
    tails, low = _tails(khat, threshold, num_samples)
    modes = _modes(log_px, log_px_se, ais, low) if ais is not None else None
    if modes is None and low:
        modes = (
            "A low k̂ cannot exclude a mode of the posterior that the guide never visits; nothing "
            "here has checked for that (--ais N does, on N data)."
        )
    return f"{tails} {modes}" if modes else tails


def _tails(khat: np.ndarray, threshold: float, num_samples: int) -> tuple[str, bool]:
    known = khat[~np.isnan(khat)]
    if not len(known):
        return (
            f"k̂ is not available: with {num_samples} samples for each datum, or tails this "
            "discrete, nothing can be said about the weights' tails. Use 100 samples or more."
        ), False
    share = float((known > threshold).mean())
    infinite = float((known > 0.5).mean())
    if share == 0 and infinite > 0:
        return (
            f"k̂ is at most {threshold:.2f} for every datum: no sign that the guide's tails are too "
            f"light for these estimates. For {_percent(infinite)} of the data it is above 0.5, "
            "where the weights' variance may be infinite: there the error bar is likely too small."
        ), True
    if share == 0:
        return (
            f"k̂ is at most {threshold:.2f} for every datum: no sign that the guide's tails are "
            "too light for these estimates and their errors."
        ), True
    return (
        f"k̂ is above {threshold:.2f} for {_percent(share)} of the data: there the guide's tails "
        f"are too light for {num_samples} samples, and the error bar of log p(x) is not to be "
        "trusted. The numbers remain lower bounds in expectation."
    ), share < 0.1


def above_bound(
    ais: "Annealed", log_px: np.ndarray, log_px_se: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns by how much AIS is above the bound, its error, and where that is no chance, [n].

    Not by chance is more than three standard errors of both, and more than 0.05 nats. A bound
    of -inf, where every weight is zero, is below anything.
    """
    at = ais.datum
    with np.errstate(invalid="ignore"):
        difference = np.where(np.isneginf(log_px[at]), np.inf, ais.log_px - log_px[at])
    noise = np.sqrt(np.nan_to_num(log_px_se[at]) ** 2 + np.nan_to_num(ais.log_px_se) ** 2)
    return difference, noise, difference > 3 * noise + 0.05


def _modes(log_px: np.ndarray, log_px_se: np.ndarray, ais: "Annealed", low: bool) -> str:
    """What AIS from the prior, which can reach every mode, finds beside the guide's samples."""
    difference, noise, above = above_bound(ais, log_px, log_px_se)
    n, higher = len(difference), int(above.sum())
    known = difference[np.isfinite(difference)]
    mean = float(known.mean()) if len(known) else math.nan
    se = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else float(noise[0])
    lost = int(np.isneginf(difference).sum())
    data = "1 datum" if n == 1 else f"{n:,} data"
    rest = len(log_px) - n
    unchecked = f" The other {rest:,} data were not checked." if rest else ""
    run = f"AIS from the prior ({ais.num_chains} chains, {ais.num_temperatures} temperatures)"
    size = f"{abs(mean):.2f} ± {se:.2f} nats" if len(known) > 1 else f"{abs(mean):.2f} nats"
    infinite, far = int(np.isposinf(difference).sum()), bool((difference > 6 * noise + 0.05).any())
    if higher and (far or not mean <= 2 * se or higher > max(1, 0.02 * n)):
        by = f" by {size} on average" if len(known) else ""
        return (
            f"{run} on {data} finds log p(x) higher{by}, and by more than three standard errors "
            f"for {higher}"
            + (f" (for {infinite} every weight was zero)" if infinite else "")
            + ": the guide leaves out part of their posterior"
            + (f", and its samples cannot show that.{unchecked}" if low else f".{unchecked}")
        )
    if lost and len(known):
        return (
            f"{run} on {data} came to nothing for {lost} of them: too short to reach what the "
            f"guide finds, so it can rule out no missed mode.{unchecked}"
        )
    if mean < -2 * se - 0.05:
        return (
            f"{run} on {data} comes out lower by {size} on average: too short to reach what the "
            f"guide finds, so it can rule out no missed mode.{unchecked}"
        )
    if not len(known):
        return f"{run} on {data} came to nothing, and can rule out no missed mode.{unchecked}"
    sign = "−" if mean < 0 else "+"
    return (
        f"{run} on {data} agrees (difference {sign}{size}): no sign of a mode that the guide "
        f"misses there, as far as annealing can reach.{unchecked}"
    )


def _percent(share: float) -> str:
    if share == 1:
        return "100%"
    return "less than 0.1%" if share < 0.001 else f"{min(share, 0.999):.1%}"
