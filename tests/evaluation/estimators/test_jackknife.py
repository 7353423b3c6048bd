"""The jackknife, against sums over every subset and weights of known mean."""

import itertools
import math

import numpy as np
import pytest
from arrays import of_arrays
from scipy.special import logsumexp

from pvae import PvaeError
from pvae.evaluation.estimators import jackknife as module
from pvae.evaluation.estimators.bounds import bounds as bounds_of_tensors

bounds, jackknife = of_arrays(bounds_of_tensors), of_arrays(module.jackknife)


def definition(block: np.ndarray, order: int) -> float:
    """Nowozin's formula, subset by subset, after a shift that keeps its large terms small."""
    k, shift, terms = len(block), logsumexp(block), []
    for j in range(order + 1):
        c = (-1) ** j * (k - j) ** order / (math.factorial(order - j) * math.factorial(j))
        left = np.array([np.delete(block, out) for out in itertools.combinations(range(k), j)])
        logs = logsumexp(left - shift, axis=-1) - math.log(k - j)
        terms += list(c * logs / len(logs))
    return shift + math.fsum(terms)


def blocks(k: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(k)
    zeros = rng.normal(size=k)
    zeros[3:] = -np.inf
    return {
        "constant": np.full(k, -93.4),
        "normal": rng.normal(-90, 1.5, size=k),
        "heavy": 3 * rng.standard_cauchy(size=k),
        "dominated": np.r_[rng.normal(size=k - 1), 60.0],
        "far": np.r_[rng.normal(size=k - 2) - 1500, 800.0, -100.0],
        "two": np.r_[300.0, rng.normal(size=k - 2), 300.5],
        "six": np.where(np.arange(k) < 6, 0.0, -40.0),
        "ten": np.where(np.arange(k) < 10, 0.0, -40.0),  # where the series is at its worst
        "zeros": zeros,
    }


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("k", [3, 4, 7, 8, 9, 10, 11, 13, 60])
def test_equals_the_definition(k, order):
    cases = blocks(k)
    found = jackknife(np.array(list(cases.values())), k, order)
    for (name, block), value in zip(cases.items(), found, strict=True):
        assert value == pytest.approx(definition(block, order), rel=1e-11, abs=1e-11), name
    assert jackknife(np.log([[1.0, 3.0]]), 2)[0] == pytest.approx(2 * math.log(2) - math.log(3) / 2)


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_equals_the_definition_with_500_samples(spread):
    """All 124,750 pairs in extended precision; the largest weight is less than all others."""
    log_w = np.random.default_rng(0).normal(scale=spread, size=500)
    log_w[:3] = log_w.max()
    a = np.exp(log_w.astype(np.longdouble) - log_w.max())
    total = a.sum()
    whole = np.log(total / 500)
    ones = np.log((total - a) / 499).mean()
    pairs = np.log((total - a[:, None] - a) / 498)[np.triu_indices(500, 1)].mean()
    expected = log_w.max() + 125_000 * whole - 499**2 * ones + 498**2 / 2 * pairs
    assert jackknife(log_w[None], 500, 2)[0] == pytest.approx(float(expected), rel=1e-10)


def test_bias_falls_with_the_order():
    """Log-normal weights with mean one: log p(x) is 0."""
    log_w = np.random.default_rng(0).normal(-0.5, 1.0, size=(20, 50_000))
    plain = bounds(log_w, [5])[5][0].mean()
    first, second = (jackknife(log_w, 5, order).mean() for order in (1, 2))
    assert plain < -0.1
    assert plain / 4 < first < -0.01
    assert first / 1.5 < second < 0.005


@pytest.mark.parametrize("order", [1, 2])
def test_blocks(order):
    """The mean over whole blocks, in any chunks; what is left over does not count."""
    log_w = np.random.default_rng(0).normal(-90, 2, size=(7, 206))
    expected = [[definition(w[i : i + 20], order) for i in range(0, 200, 20)] for w in log_w]
    np.testing.assert_allclose(jackknife(log_w, 20, order), np.mean(expected, axis=1), rtol=1e-12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", 60)
        other = jackknife(log_w, 20, order)
    np.testing.assert_allclose(other, jackknife(log_w, 20, order), rtol=1e-14)
    assert jackknife(log_w[:0], 20, order).shape == (0,)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("k", [5, 20, 100])
def test_shifts_and_permutations(order, k):
    rng = np.random.default_rng(0)
    log_w = rng.normal(scale=2, size=(5, 100))
    value = jackknife(log_w, k, order)
    np.testing.assert_allclose(jackknife(log_w - 2000, k, order), value - 2000, atol=1e-10)
    shuffled = rng.permuted(log_w.reshape(5, -1, k), axis=-1).reshape(5, 100)
    np.testing.assert_allclose(jackknife(shuffled, k, order), value, atol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [4, 30])
def test_blocks_with_too_few_weights_above_zero_are_undefined(k):
    log_w = np.full((4, 2 * k), -np.inf)
    log_w[:, k:] = 0.0
    for positive in range(4):
        log_w[positive, :positive] = 1.0 + np.arange(positive)
    assert list(np.isnan(jackknife(log_w, k, 1))) == [True, True, False, False]
    assert list(np.isnan(jackknife(log_w, k, 2))) == [True, True, True, False]


def test_wrong_arguments():
    log_w = np.zeros((1, 10))
    with pytest.raises(PvaeError, match=r"order=3.*Use 1 or 2"):
        jackknife(log_w, 5, 3)
    with pytest.raises(PvaeError, match="Use 3 or more"):
        jackknife(log_w, 2, 2)
    with pytest.raises(PvaeError, match="Use 10 or fewer"):
        jackknife(log_w, 11)
