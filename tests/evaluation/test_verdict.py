"""The verdict claims no more than was checked."""

import numpy as np

from pvae.evaluation import Known
from pvae.evaluation import verdict as module
from pvae.evaluation.estimators.annealed import Annealed, above_bound

N = 50


def verdict(khat, threshold, num_samples, *, log_px=None, log_px_se=None, ais=None, exact=False):
    """The verdict on an evaluation of which this is known."""
    nothing = np.full(len(khat), np.nan)
    known = Known(
        *[nothing, log_px, log_px_se, khat, *[nothing] * 4, {}, {}, num_samples, 0, threshold],
        *["Net", "Cone", {}, "plate"], exact=exact,
        findings={} if ais is None else {"ais_prior": ais},
    )  # fmt: skip
    return module.verdict(known)


def _ais(difference, se=0.05):
    size = len(difference)
    return Annealed(
        datum=np.arange(size),
        log_px=-100.0 + np.asarray(difference),
        log_px_se=np.full(size, se),
        ess=np.full(size, 9.0),
        acceptance=np.ones(3),
        start="prior",
        num_chains=16,
        num_temperatures=500,
        num_leapfrog=10,
    )


def _words(khat, ais=None, **options):
    return verdict(
        np.full(N, khat), 0.7, 5000,
        log_px=np.full(N, -100.0), log_px_se=np.full(N, 0.05), ais=ais, **options,
    )  # fmt: skip


def test_khat_alone():
    good = _words(0.1)
    assert "no sign" in good
    assert "cannot exclude" in good
    assert "nothing here has checked" in good
    assert "error bar" not in good
    between = _words(0.6)
    assert "error bar is likely too small" in between
    assert "100%" in between
    bad = _words(0.9)
    assert "100%" in bad
    assert "cannot be trusted" in bad
    assert "not available" in verdict(np.full(10, np.nan), 0.7, 20)
    assert "no sign" in _words(-np.inf)


def test_some_data_above_the_threshold():
    khat = np.full(N, 0.1)
    khat[:2] = 0.8
    words = verdict(khat, 0.7, 5000)
    assert "4.0% of the data" in words
    assert "cannot exclude" in words


def test_ais_that_agrees_says_what_was_not_checked():
    noise = 0.05 * np.random.default_rng(0).standard_normal(10)
    words = _words(0.1, _ais(noise))
    assert "agrees" in words
    assert "on 10 data" in words
    assert "The other 40 data were not checked" in words
    assert "nothing here has checked" not in words


def test_ais_that_finds_more():
    words = _words(0.1, _ais(np.linspace(0.5, 1.5, 10)))
    assert "higher by 1.00" in words
    assert "for 10" in words
    assert "leaves out part of their posterior" in words
    one = np.zeros(10)
    one[3] = 0.3  # one datum in ten beyond three errors, by chance
    assert _above(one) == [False] * 3 + [True] + [False] * 6
    assert "agrees" in _words(0.1, _ais(one))
    one[7] = 0.3  # two are none
    assert "for 2" in _words(0.1, _ais(one))
    one[3], one[7] = 2.0, 0.0  # nor is one beyond twenty-eight
    assert "for 1" in _words(0.1, _ais(one))


def test_ais_that_is_lower_on_average_and_higher_for_some():
    mixed = np.array([2.0, 2.0, *[-5.0] * 8])
    words = _words(0.1, _ais(mixed))
    assert "is lower by 3.60 ± 0.93 nats on average (its chains are too short" in words
    assert "but higher by more than three standard errors for 2" in words
    assert "finds log p(x) higher" not in words


def _above(difference):
    return above_bound(_ais(difference), np.full(N, -100.0), np.full(N, 0.05))[2].tolist()


def test_above_is_three_errors_of_both_and_a_twentieth_of_a_nat():
    # 3 · √(0.05² + 0.05²) + 0.05 = 0.262
    assert _above(np.array([0.25, 0.27, *[0.0] * 8])) == [False, True, *[False] * 8]
    exact = above_bound(_ais([0.04, 0.06], se=0.0), np.full(N, -100.0), np.zeros(N))
    assert exact[2].tolist() == [False, True]


def test_a_single_datum():
    lower = _words(0.1, _ais([-50.0]))
    assert "is lower by 50.00 nats" in lower
    assert "agrees" not in lower
    same = _words(0.1, _ais([0.02]))
    assert "on 1 datum agrees (difference +0.02 nats)" in same
    assert "The other 49 data were not checked" in same
    higher = _words(0.1, _ais([2.0]))
    assert "higher by 2.00 nats" in higher
    assert "nan" not in lower + same + higher


def test_annealing_that_comes_to_nothing_for_one_datum_does_not_agree():
    words = _words(0.1, _ais(np.array([0.01, -np.inf, *[0.0] * 8])))
    assert "gave only zero weights for 1 of them" in words
    assert "cannot rule out a missed mode" in words
    assert "agrees" not in words


def test_annealing_that_comes_to_nothing_is_not_a_weight_of_zero():
    words = _words(0.1, _ais(np.array([2.0, 2.0, -np.inf, *[0.0] * 7])))
    assert "leaves out part of their posterior" in words
    assert "every weight was zero" not in words
    chance = _words(0.1, _ais(np.array([0.3, -np.inf, *[0.0] * 8])))
    assert "gave only zero weights for 1 of them" in chance


def test_ais_that_finds_less_rules_out_nothing():
    words = _words(0.1, _ais(np.linspace(-3, -2, 10)))
    assert "is lower by 2.50" in words
    assert "cannot rule out a missed mode" in words


def test_weights_that_are_all_zero_do_not_agree_with_anything():
    log_px = np.full(N, -100.0)
    log_px[2] = -np.inf
    words = verdict(
        np.full(N, 0.1),
        0.7,
        5000,
        log_px=log_px,
        log_px_se=np.full(N, 0.05),
        ais=_ais(np.zeros(10)),
    )
    assert "for 1 (for 1 every weight was zero)" in words
    assert "agrees" not in words
    assert "nan" not in words
    lost = verdict(
        np.full(N, 0.1), 0.7, 5000,
        log_px=np.full(N, -100.0), log_px_se=np.full(N, 0.05), ais=_ais(np.full(10, np.nan)),
    )  # fmt: skip
    assert "gave no finite estimate" in lost


def test_exact():
    words = _words(-np.inf, exact=True)
    assert "exact" in words
    assert "cannot exclude" not in words


def test_data_without_a_khat_are_told_of():
    khat = np.full(20, 0.1)
    khat[:5] = np.nan
    words = verdict(khat, 0.7, 5000)
    assert "for each of the 15 data that have one" in words
    assert "5 data have no k̂" in words
    assert "nothing supports their estimates" in words
    assert "every datum" not in words
    khat[5] = 0.9
    assert "for 6.7% of the 15 data that have one" in verdict(khat, 0.7, 5000)
    assert "Use 100 samples" not in verdict(np.full(10, np.nan), 0.7, 5000)
    assert "Use 100 samples" in verdict(np.full(10, np.nan), 0.7, 20)


def test_a_loose_bound_is_no_missed_mode():
    high = _words(0.9, _ais(np.linspace(0.5, 1.5, 10)))
    assert "the bound is loose there" in high
    assert "leaves out part of their posterior" not in high
    unknown = _words(np.nan, _ais(np.linspace(0.5, 1.5, 10)))
    assert "the bound is loose there" in unknown
    khat = np.full(N, 0.9)
    khat[:3] = 0.2
    some = verdict(
        khat, 0.7, 5000, log_px=np.full(N, -100.0), log_px_se=np.full(N, 0.05),
        ais=_ais(np.linspace(0.5, 1.5, 10)),
    )  # fmt: skip
    assert "for 3 of them k̂ is low, so that the guide leaves out part" in some
    # The log of a mean is too low by half its variance.
    wide = verdict(
        np.full(N, 0.1), 0.7, 50, log_px=np.full(N, -100.0), log_px_se=np.full(N, 0.8),
        ais=_ais(np.full(10, 2.7)),
    )  # fmt: skip
    assert "leaves out" not in wide


def test_an_error_that_is_not_known_is_not_zero():
    one = _words(0.1, _ais(np.linspace(0.1, 0.4, 10), se=np.nan))
    assert "leaves out" not in one
    assert "has no standard error" in one
