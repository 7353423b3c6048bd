"""The verdict: in words, what was checked about the bounds on log p(x), and what was not."""

import numpy as np

from pvae.drawing import text
from pvae.evaluation.finding import Known

__all__ = ["verdict"]


def verdict(known: Known) -> str:
    """Says what k̂ and the findings show about the bounds, and what they cannot show."""
    said = [found.verdict(known) for found in known.findings.values()]
    said = [words for words in said if words]
    if known.code:
        if "ais_prior" not in known.findings:
            said.append(
                "Annealed importance sampling from the prior estimates log p(x) without the "
                "guide: --ais 100 (in Python, estimators=[AIS(100)])."
            )
        return " ".join(said)
    if known.exact:
        return (
            "Nothing was sampled: every latent site is summed out, or there is none, so these "
            "values of log p(x) are exact."
        )
    if known.one_code:
        only = (
            f"{known.guide} gives one code z(x) for each datum, so every bound is log p(x, z(x)): "
            "a lower bound on log p(x), which more samples do not raise. It is loose where other "
            "codes explain x as well."
        )
        if nothing := int(np.isneginf(known.elbo).sum()):
            only += (
                f" p(x, z(x)) is zero for {text.plural(nothing, 'datum', 'data')}: the model does "
                "not allow the code that the guide gives there, or x with it."
            )
        return " ".join([only, *said])
    tails, low = _tails(known.khat, known.khat_threshold, known.num_samples)
    if low and "ais_prior" not in known.findings:
        said.append(
            "A low k̂ cannot exclude a mode of the posterior that the guide never visits, and "
            "nothing here has checked for that. AIS checks N of the data: --ais N (in Python, "
            "estimators=[AIS(N)])."
        )
    return " ".join([tails, *said])


def _tails(khat: np.ndarray, threshold: float, num_samples: int) -> tuple[str, bool]:
    """Returns what k̂ shows, and whether it is low for nearly all data."""
    known = khat[~np.isnan(khat)]
    without = len(khat) - len(known)
    if not len(known):
        few = " Use 100 samples or more." if num_samples < 100 else ""
        return (
            f"k̂ is not available: with {num_samples} samples for each datum, or weights that are "
            f"nearly all zero or take few values, their tails cannot be judged.{few}"
        ), False
    every, of = "every datum", "the data"
    rest = ""
    if without:
        every = f"each of the {len(known):,} data that have one"
        of = f"the {len(known):,} data that have one"
        rest = (
            f" {without:,} {'datum has' if without == 1 else 'data have'} no k̂ (weights that are "
            "nearly all zero, or take few values), and nothing supports their estimates."
        )
    share, infinite = float((known > threshold).mean()), float((known > 0.5).mean())
    low = share < 0.1 and without < 0.1 * len(khat)
    if share > 0:
        return (
            f"k̂ is above {threshold:.2f} for {text.percent(share)} of {of}: there the guide's "
            f"tails are too light for {num_samples} samples, and the error bar of log p(x) cannot "
            f"be trusted. The numbers are still lower bounds in expectation.{rest}"
        ), low
    if infinite > 0:
        return (
            f"k̂ is at most {threshold:.2f} for {every}: no sign that the guide's tails are too "
            f"light for these estimates. For {text.percent(infinite)} of them it is above 0.5: the "
            "variance of their weights may be infinite, and the error bar is likely too small."
            f"{rest}"
        ), low
    return (
        f"k̂ is at most {threshold:.2f} for {every}: no sign that the guide's tails are "
        f"too light for these estimates and their errors.{rest}"
    ), low
