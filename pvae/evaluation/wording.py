"""The sentences of a comparison."""

import math
from collections.abc import Sequence

from pvae.drawing import text
from pvae.evaluation.compared import Compared, Difference

__all__ = ["caution", "count_data", "in_words", "words"]

_MANY = 0.1  # a run with k̂ above the threshold for more of its data may have a loose bound


def words(run: Compared, first: Compared, d: Difference, bound: str) -> str:
    """Says which of two runs is better, and by how much."""
    size, pair = count_data(len(d.values)), f"{run.name} and {first.name}"
    if d.verdict == "undefined":
        why = "a bound is not finite" if math.isnan(d.mean) else f"{size} gives no standard error"
        return (
            f"Whether {run.name} is better than {first.name} is undecided: {why}. Its {bound} is "
            f"higher on {text.percent(d.higher)} of the data."
        )
    if not d.values.any():
        return f"{pair} have the same {bound} on every datum."
    sign, places = (1 if d.mean > 0 else -1), text.decimals(d.se)
    way = "higher" if d.mean > 0 else "lower"
    low, high = sorted((sign * d.low, sign * d.high))
    what = (
        f"is {way} by {abs(d.mean):.{places}f} ± {d.se:.{places}f} nats per datum (95% interval "
        f"{text.number(low, places)} to {text.number(high, places)}), {way} on "
        f"{text.percent(float((sign * d.values > 0).mean()))} of the data"
    )
    if d.verdict != "no difference":
        return f"{run.name} is {d.verdict} than {first.name}: its {bound} {what}."
    none = f"These {size} show no difference between {pair}"
    return f"{none}: {bound} of {run.name} {what}; the interval contains zero."


def caution(run: Compared, first: Compared, verdict: str) -> str:
    """Says which bound may be loose, and what that does to the difference."""
    loose = [each for each in (run, first) if not each.above_threshold <= _MANY]
    if not loose:
        return ""
    said = in_words([
        f"k̂ of {each.name} is above {each.khat_threshold:.2f} for "
        f"{text.percent(each.above_threshold)} of the data" if each.above_threshold > _MANY
        else f"k̂ of {each.name} is not available"
        for each in loose
    ])  # fmt: skip
    if loose == [{"better": run, "worse": first}.get(verdict)]:
        return (
            f" But {said}: its bound may be loose, which makes its lead look smaller, not larger."
        )
    return (
        f" But {said}: a bound may lie well below log p(x), so a difference between bounds need "
        "not be a difference between likelihoods."
    )


def count_data(count: int) -> str:
    """Returns a number of data, for the terminal: without the thin spaces of `text.plural`."""
    return f"{count} {'datum' if count == 1 else 'data'}"


def in_words(parts: Sequence[str]) -> str:
    """Returns "a", "a and b" or "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
