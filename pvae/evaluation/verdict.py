"""The verdict: in words what was checked about an estimate of log p(x), and what was not."""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pvae.evaluation.estimators.annealed import Annealed

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
    guide: str | None = None,
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
        guide: Name of the guide where it gives a point, so that there is no bound.
    """
    if guide is not None:
        return _of_a_point(guide, len(khat), ais)
    if exact:
        return (
            "Nothing was sampled: every latent site is summed out, or there is none, so that "
            "these values of log p(x) are exact."
        )
    tails, low = _tails(khat, threshold, num_samples)
    modes = _modes(log_px, log_px_se, ais, khat, threshold) if ais is not None else None
    if modes is None and low:
        modes = (
            "A low k̂ cannot exclude a mode of the posterior that the guide never visits; nothing "
            "here has checked for that (--ais N does, on N data)."
        )
    return f"{tails} {modes}" if modes else tails


def _of_a_point(guide: str, size: int, ais: "Annealed | None") -> str:
    """Says that there is no bound, and what there is instead."""
    words = (
        f"There is no bound on log p(x): {guide} gives a point, which has no density. log p(x, z) "
        "at that point is what training maximised, and it can lie above log p(x) or below."
    )
    if ais is None:
        return (
            f"{words} Annealed importance sampling from the prior estimates log p(x) without the "
            "guide: ask for --ais 100 (in Python, ais=100)."
        )
    data = f"the {len(ais):,} data" if len(ais) == size else f"{len(ais):,} of {size:,} data"
    return (
        f"{words} AIS from the prior ({ais.num_chains} chains, {ais.num_temperatures} "
        f"temperatures) estimates log p(x) of {data} without the guide; in expectation it lies "
        "below log p(x), by as much as annealing falls short (--bdmc tells on simulated data)."
    )


def _tails(khat: np.ndarray, threshold: float, num_samples: int) -> tuple[str, bool]:
    """What k̂ tells, and whether it is low for nearly all data."""
    known = khat[~np.isnan(khat)]
    without = len(khat) - len(known)
    if not len(known):
        few = " Use 100 samples or more." if num_samples < 100 else ""
        return (
            f"k̂ is not available: with {num_samples} samples for each datum, or weights that are "
            f"nearly all zero or take few values, nothing can be said about their tails.{few}"
        ), False
    every, of = "every datum", "the data"
    rest = ""
    if without:
        every = f"each of the {len(known):,} data that have one"
        of = f"the {len(known):,} data that have one"
        rest = (
            f" {without:,} {'datum has' if without == 1 else 'data have'} no k̂ (weights that are "
            "nearly all zero, or take few values): nothing supports their estimates."
        )
    share, infinite = float((known > threshold).mean()), float((known > 0.5).mean())
    low = share < 0.1 and without < 0.1 * len(khat)
    if share > 0:
        return (
            f"k̂ is above {threshold:.2f} for {_percent(share)} of {of}: there the guide's tails "
            f"are too light for {num_samples} samples, and the error bar of log p(x) is not to be "
            f"trusted. The numbers remain lower bounds in expectation.{rest}"
        ), low
    if infinite > 0:
        return (
            f"k̂ is at most {threshold:.2f} for {every}: no sign that the guide's tails are too "
            f"light for these estimates. For {_percent(infinite)} of them it is above 0.5, where "
            f"the weights' variance may be infinite: there the error bar is likely too small.{rest}"
        ), low
    return (
        f"k̂ is at most {threshold:.2f} for {every}: no sign that the guide's tails are "
        f"too light for these estimates and their errors.{rest}"
    ), low


def above_bound(
    ais: "Annealed", log_px: np.ndarray, log_px_se: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns by how much AIS is above the bound, its error, and where that is no chance, [n].

    Not by chance is more than three standard errors of both, and more than 0.05 nats, beyond
    half the bound's variance, by which the log of a mean is too low. Where an error is not known
    (one chain, one sample) nothing is. A bound of -inf, where every weight is zero, is below
    anything.
    """
    at = ais.datum
    with np.errstate(invalid="ignore"):
        zero = np.isneginf(log_px[at])
        difference = np.where(zero, np.inf, ais.log_px - log_px[at])
        own = np.where(zero, 0.0, log_px_se[at])
        noise = np.sqrt(own**2 + ais.log_px_se**2)
        return (
            difference,
            noise,
            (difference > 3 * noise + own**2 / 2 + 0.05) | np.isposinf(difference),
        )


def _modes(
    log_px: np.ndarray, log_px_se: np.ndarray, ais: "Annealed", khat: np.ndarray, threshold: float
) -> str:
    """What AIS from the prior, which can reach every mode, finds beside the guide's samples."""
    difference, noise, above = above_bound(ais, log_px, log_px_se)
    n, higher = len(difference), int(above.sum())
    finite = np.isfinite(difference)
    known = difference[finite]
    mean = float(known.mean()) if len(known) else math.nan
    se = math.nan
    if len(known):
        alone = len(known) == 1
        se = float(noise[finite][0] if alone else known.std(ddof=1) / math.sqrt(len(known)))
    lost = int(np.isneginf(difference).sum())
    data = "1 datum" if n == 1 else f"{n:,} data"
    rest = len(log_px) - n
    unchecked = f" The other {rest:,} data were not checked." if rest else ""
    chains = "chain" if ais.num_chains == 1 else "chains"
    run = f"AIS from the prior ({ais.num_chains} {chains}, {ais.num_temperatures} temperatures)"
    size = f"{abs(mean):.2f} ± {se:.2f} nats" if len(known) > 1 else f"{abs(mean):.2f} nats"
    infinite = int(np.isposinf(difference).sum())
    with np.errstate(invalid="ignore"):
        far = bool((above & ~(difference <= 6 * noise + 0.05)).any())
    if higher and (far or not mean <= 2 * se or higher > max(1, 0.02 * n)):
        by = f" by {size} on average" if len(known) else ""
        at = khat[ais.datum][above]
        trusted = int((at <= threshold).sum())
        why = f": for {trusted} of them k̂ is low, so that " if trusted < higher else ": "
        why += "the guide leaves out part of their posterior, and its samples cannot show that"
        if not trusted:
            why = (
                ": the bound is loose there, with too few samples for this guide or a part of the "
                "posterior that the guide leaves out"
            )
        many = f"{higher} (for {infinite} every weight was zero)" if infinite else f"{higher}"
        if mean < 0:
            short = ", too short to reach what the guide finds" if mean < -2 * se - 0.05 else ""
            return (
                f"{run} on {data} comes out lower{by}{short}, and yet higher by more than three "
                f"standard errors for {many}{why}.{unchecked}"
            )
        return (
            f"{run} on {data} finds log p(x) higher{by}, and by more than three standard errors "
            f"for {many}{why}.{unchecked}"
        )
    if np.isnan(noise).all():
        return (
            f"{run} on {data} has no error to compare by (one chain, or one sample of the guide), "
            f"and can rule out no missed mode.{unchecked}"
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
