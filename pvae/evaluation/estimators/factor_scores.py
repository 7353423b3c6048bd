"""Disentanglement of codes by known factors: MIG, the β-VAE score and the FactorVAE score."""

import math

import numpy as np

from pvae.errors import PvaeError

__all__ = ["beta_vae_score", "check_factors", "factor_vae_score", "information", "mig"]

_BINS = 20
_PAIRS = 64  # L, pairs or data of one point
_POINTS = 1000  # of training, and as many of test


def check_factors(factors: np.ndarray) -> np.ndarray:
    """Returns factors as classes 0 … V_k − 1 of each column, [N, F].

    Raises:
        PvaeError: If they are not [N, F] or NaN, a factor has one value for all data, or more
            than half as many values as there are data.
    """
    if factors.ndim != 2 or not factors.shape[1]:
        raise PvaeError(f"factors have shape {list(factors.shape)}: give [N, F].")
    num = len(factors)
    columns = [np.unique(column, return_inverse=True)[1] for column in factors.T]
    for k, column in enumerate(columns):
        if np.isnan(factors[:, k]).any():
            raise PvaeError(
                f"Factor {k} is NaN for {np.isnan(factors[:, k]).sum()} of {num} data. Leave out "
                "the factor or these data."
            )
        if not column.any():
            raise PvaeError(
                f"Factor {k} has the value {factors[0, k]} for all {num} data, so that no "
                "code can say anything about it. Leave it out."
            )
        if (values := column.max() + 1) > num / 2:
            raise PvaeError(
                f"Factor {k} has {values} values for {num} data, but the scores compare data with "
                "the same value. Give more data, or cut a continuous factor into a few intervals."
            )
    return np.stack(columns, 1)


def information(
    codes: np.ndarray, factors: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    r"""Mutual information of each code dimension and each factor, from counts in 20 bins.

    .. math:: I(z_j; v_k) = \sum_{b, v} p(b, v) \log \frac{p(b, v)}{p(b) \, p(v)}

    Bins have equal width between the smallest and the largest value of a dimension, so that a
    single code far away leaves few bins for the others. They cannot tell more than 20 values apart:
    I is below H(v_k) for a factor with more. The estimate is too high by about
    (20 − 1)(V_k − 1) / 2N nats.

    Args:
        codes: [N, Z].
        factors: Classes, [N, F].
        weights: How often each datum counts, [N]; None for once.

    Returns:
        I, [Z, F], and the entropy of each factor, [F], in nats.

    Example:
        >>> v = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> found, entropy = information(v[:, :1].astype(float), v)
        >>> (found / entropy).round(6)
        array([[1., 0.]])
    """
    places = np.stack([_bins(column) for column in codes.T], 1)
    found = np.empty((codes.shape[1], factors.shape[1]))
    entropy = np.empty(factors.shape[1])
    for k, v in enumerate(factors.T):
        size = v.max() + 1
        for j, b in enumerate(places.T):
            joint = np.bincount(b * size + v, weights, _BINS * size).reshape(_BINS, size)
            joint = joint / joint.sum()
            apart = joint.sum(1, keepdims=True) * joint.sum(0)
            some = joint > 0
            found[j, k] = (joint[some] * np.log(joint[some] / apart[some])).sum()
        p = joint.sum(0)
        entropy[k] = -(p[p > 0] * np.log(p[p > 0])).sum()
    return found, entropy


def _bins(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else np.zeros(len(values))
    return np.minimum((scaled * _BINS).astype(int), _BINS - 1)


def mig(found: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    r"""The mutual information gap of each factor, [F], between 0 and 1.

    .. math:: \mathrm{MIG}_k = \frac{I(z_{(1)}; v_k) - I(z_{(2)}; v_k)}{H(v_k)}

    with the two dimensions that say most about the factor. The MIG is the mean over k. For a factor
    with more than 20 values it stays below 1, about 0.81 at most for 40 equally frequent ones. The
    bias of I cancels in the gap, but not for a code of one dimension, whose second I is 0.

    Source: Chen, Li, Grosse & Duvenaud 2018, *Isolating Sources of Disentanglement in Variational
    Autoencoders* (arXiv:1802.04942); with histograms of posterior means, as in Locatello et al.
    2019 (arXiv:1811.12359).
    """
    order = np.sort(np.concatenate([found, np.zeros((1, found.shape[1]))]), 0)
    return (order[-1] - order[-2]) / entropy


def beta_vae_score(codes: np.ndarray, factors: np.ndarray, seed: int) -> tuple[float, float]:
    r"""How well a linear classifier tells which factor is the same in pairs of data.

    Each of 1,000 points is the mean of :math:`|z - z'|` over 64 pairs of data that share the value
    of one factor; logistic regression on as many other points learns which factor it is.

    Returns:
        Its accuracy on 1,000 points, and the binomial standard error. Chance is 1/F, so that a
        single factor has accuracy 1.

    Source: Higgins et al. 2017, *β-VAE: Learning Basic Visual Concepts with a Constrained
    Variational Framework* (ICLR).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if factors.shape[1] == 1:
        return 1.0, 0.0
    draw = _Draws(factors, seed)
    sets = []
    for _ in range(2):
        k = draw.generator.integers(factors.shape[1], size=_POINTS)
        first = draw.generator.integers(len(codes), size=(_POINTS, _PAIRS))
        second = np.empty_like(first)
        for factor in range(factors.shape[1]):
            second[k == factor] = draw.same(factor, first[k == factor])
        sets.append((np.abs(codes[first] - codes[second]).mean(1), k))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return _accuracy(classifier.fit(*sets[0]).predict(sets[1][0]) == sets[1][1])


def factor_vae_score(codes: np.ndarray, factors: np.ndarray, seed: int) -> tuple[float, float]:
    r"""How well the dimension that varies least tells which factor is the same in a set of data.

    Each of 1,000 points is the dimension with the smallest variance over 64 data that share the
    value of one factor, relative to its variance over all data; on as many other points, the
    majority of each dimension says which factor it is.

    Args:
        codes: [N, Z], of which every dimension varies.
        factors: Classes, [N, F].
        seed: Of the draws.

    Returns:
        The accuracy on 1,000 points, and the binomial standard error. Chance is 1/F.

    Source: Kim & Mnih 2018, *Disentangling by Factorising* (arXiv:1802.05983).
    """
    draw, codes = _Draws(factors, seed), codes / codes.std(0)
    sets = []
    for _ in range(2):
        k = draw.generator.integers(factors.shape[1], size=_POINTS)
        first = draw.generator.integers(len(codes), size=_POINTS)
        rows = np.empty((_POINTS, _PAIRS), int)
        for factor in range(factors.shape[1]):
            of = k == factor
            rows[of] = draw.same(factor, np.repeat(first[of][:, None], _PAIRS, 1))
        sets.append((codes[rows].var(1).argmin(1), k))
    votes = np.zeros((codes.shape[1], factors.shape[1]))
    np.add.at(votes, sets[0], 1)
    return _accuracy(votes.argmax(1)[sets[1][0]] == sets[1][1])


def _accuracy(right: np.ndarray) -> tuple[float, float]:
    share = float(right.mean())
    return share, math.sqrt(share * (1 - share) / len(right))


class _Draws:
    """Draws data that share the value of a factor with others."""

    def __init__(self, factors: np.ndarray, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self._factors = factors
        self._order = np.argsort(factors, 0, kind="stable")
        self._counts = [np.bincount(column) for column in factors.T]

    def same(self, factor: int, rows: np.ndarray) -> np.ndarray:
        """Returns for each row one with the same value of a factor, drawn at random."""
        counts, values = self._counts[factor], self._factors[rows, factor]
        start = counts.cumsum() - counts
        at = (self.generator.random(rows.shape) * counts[values]).astype(int)
        return self._order[start[values] + at, factor]
