"""How a bound may be read: the sentence says what the numbers say, and no more."""

from dataclasses import dataclass

import numpy as np
import pytest

from pvae.evaluation.finding import Estimate, Known
from pvae.evaluation.reading import read


@dataclass(frozen=True)
class Check(Estimate, kind="Check"):
    independent = "a check"


def known(difference=None, **changes):
    n = 100
    log_px = np.linspace(-90.0, -70.0, n)
    nothing = np.zeros(n)
    given = {
        "elbo": log_px - 2, "log_px": log_px, "log_px_se": np.full(n, 0.1),
        "khat": np.full(n, 0.2), "ess": nothing, "kl": nothing, "reconstruction": nothing,
        "zero_weights": nothing, "bounds": {50: log_px - 0.25, 500: log_px}, "sites": {},
        "num_samples": 500, "seed": 0, "khat_threshold": 0.63, "model": "Net", "guide": "Cone",
        "data": {}, "strategy": "plate",
    }  # fmt: skip
    if difference is not None:
        at = np.arange(0, 2 * len(difference), 2)
        given["findings"] = {"check": Check(at, log_px[at] + difference)}
    return Known(**(given | changes))


def around(mean, error, n=25):
    """Differences with exactly this mean and this standard error."""
    d = np.where(np.arange(n) % 2, 1.0, -1.0)
    d -= d.mean()
    return mean + d * error * n**0.5 / d.std(ddof=1)


def test_a_checked_bound_is_tight_to_within_its_difference_and_error():
    found = read(known(around(0.02, 0.015)))
    assert (found.level, found.word) == ("good", "Tight")
    assert "log p(x) to within about 0.05 nats per datum, by a check on 25 of 100 data" in (
        found.sentence
    )


def test_a_bound_below_its_check_is_loose_by_that_much():
    found = read(known(around(0.69, 0.08)))
    assert (found.level, found.word) == ("bad", "Loose")
    assert "a check finds log p(x) 0.690 ± 0.080 nats higher" in found.sentence


@pytest.mark.parametrize(
    ("difference", "khat"), [(around(0.1, 0.2), 0.2), (around(0.0, 0.01), 0.9)]
)
def test_what_does_not_decide_is_open(difference, khat):
    found = read(known(difference, khat=np.full(100, khat)))
    assert (found.level, found.word) == ("open", "Undecided")


def test_a_check_that_falls_short_checks_nothing():
    assert read(known(around(-5.0, 0.1))) == read(known())


def test_without_a_check_nothing_is_called_tight():
    found = read(known())
    assert (found.level, found.word) == ("open", "Not checked")
    assert "to within about 0.3 nats" in found.sentence, "what the bound rose by last"
    assert "if the guide misses no part of the posterior" in found.sentence


def test_untrusted_weights_make_it_loose_and_the_last_rise_is_told():
    khat = np.where(np.arange(100) < 98, 0.9, 0.2)
    found = read(known(khat=khat))
    assert (found.level, found.word) == ("bad", "Loose")
    assert "98.0% of the data" in found.sentence
    assert "K = 50 to 500 it still rose by 0.25 nats" in found.sentence


@pytest.mark.parametrize(
    ("changes", "level", "word"),
    [
        ({"exact": True}, "good", "Exact"),
        ({"caveat": "grey"}, "bad", "Not a likelihood"),
        ({"exact": True, "caveat": "grey"}, "bad", "Not a likelihood"),
        ({"khat": np.full(100, np.nan)}, "open", "Not checked"),
        ({"one_code": True}, "open", "Not checked"),
        ({"log_px": np.full(100, -np.inf)}, "bad", "Not finite"),
    ],
)
def test_other_kinds_of_numbers(changes, level, word):
    found = read(known(**changes))
    assert (found.level, found.word) == (level, word)
