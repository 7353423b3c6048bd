"""The sentences and the numbers of a comparison."""

import math
from collections.abc import Sequence

from pvae.evaluation.compared import Bound, Compared, Difference

_MANY = 0.1  # a run with k̂ above the threshold for more of its data is said to be loose


def words(run: Compared, first: Compared, d: Difference, bound: str) -> str:
    size, pair = count_data(len(d.values)), f"{run.name} and {first.name}"
    if d.verdict == "undefined":
        why = "some bound is not finite" if math.isnan(d.mean) else f"{size} cannot give an error"
        return f"{pair} are undecided: {why}. {bound} is higher on {percent(d.higher)} of the data."
    if not d.values.any():
        return f"{pair} have the same {bound} on every datum."
    sign, places = (1 if d.mean > 0 else -1), places_of(d)
    way = "higher" if d.mean > 0 else "lower"
    low, high = sorted((sign * d.low, sign * d.high))
    what = (
        f"is {way} by {abs(d.mean):.{places}f} ± {d.se:.{places}f} nats per datum (95% interval "
        f"{show(low, places)} to {show(high, places)}), {way} on "
        f"{percent(float((sign * d.values > 0).mean()))} of the data"
    )
    if d.verdict != "no difference":
        return f"{run.name} is {d.verdict} than {first.name}: its {bound} {what}."
    none = f"These {size} show no difference between {pair}"
    return f"{none}: {bound} of {run.name} {what}; the interval contains zero."


def caution(run: Compared, first: Compared, verdict: str) -> str:
    """Says which bound may be the looser one, and what that does to the difference."""
    loose = [each for each in (run, first) if not each.above_threshold <= _MANY]
    if not loose:
        return ""
    said = in_words([
        f"k̂ of {each.name} is above {each.khat_threshold:.2f} for {percent(each.above_threshold)}"
        " of the data" if each.above_threshold > _MANY else f"k̂ of {each.name} is not available"
        for each in loose
    ])  # fmt: skip
    if loose == [{"better": run, "worse": first}.get(verdict)]:
        return (
            f" But {said}: its bound may be loose, which makes its lead look smaller, not larger."
        )
    return (
        f" But {said}: a bound may lie well below log p(x), so a difference between bounds need "
        "not be one between likelihoods."
    )


def interval(d: Difference, places: int) -> str:
    return "–" if math.isnan(d.low) else f"{show(d.low, places)} to {show(d.high, places)}"


def places_of(*bounds: Bound | Difference) -> int:
    """How many decimals show two digits of the smallest error."""
    errors = [bound.se for bound in bounds if bound.se > 0]
    return min(4, max(1, 1 - math.floor(math.log10(min(errors))))) if errors else 2


def show(value: float, places: int, sign: str = "-") -> str:
    return f"{value:{sign}.{places}f}".replace("-", "−") if math.isfinite(value) else "–"


def percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"


def count_data(count: int) -> str:
    return f"{count} {'datum' if count == 1 else 'data'}"


def in_words(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
