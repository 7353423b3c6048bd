"""Disentanglement scores on codes that are made from their factors in known ways."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.errors import PvaeError
from pvae.estimators import Disentanglement
from pvae.evaluation.estimators.factor_scores import (
    beta_vae_score,
    check_factors,
    factor_vae_score,
    information,
    mig,
)

GRID = np.stack(np.meshgrid(*[np.arange(10)] * 4, indexing="ij"), -1).reshape(-1, 4)
FACTORS = GRID[:, :2]  # the other two columns are like factors that nobody knows


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def gap(codes, factors):
    return mig(*information(codes, factors))


def test_codes_that_are_the_factors_have_the_score_one():
    codes = np.concatenate([5 - 3.0 * FACTORS[:, ::-1], random(10000, 2)], 1)
    assert gap(codes, FACTORS) == pytest.approx(1, abs=0.01)  # less the bias of the random ones
    assert beta_vae_score(codes, FACTORS, 0) == (1.0, 0.0)
    assert factor_vae_score(codes, FACTORS, 0) == (1.0, 0.0)


def test_codes_that_know_nothing_have_the_score_of_chance():
    codes = random(10000, 3)
    bias = 19 * 9 / 2 / len(codes)
    found, entropy = information(codes, FACTORS)
    assert entropy == pytest.approx(math.log(10))
    assert found.mean() == pytest.approx(bias, rel=0.4)
    assert gap(codes, FACTORS).max() < 0.005
    for score in (beta_vae_score, factor_vae_score):
        accuracy, se = score(codes, FACTORS, 0)
        assert abs(accuracy - 0.5) < 5 * se


def test_information_is_that_of_a_binary_symmetric_channel():
    v = GRID[:, :1] % 2
    for flip in (0.0, 0.1, 0.3, 0.5):
        share = GRID[:, 1:] @ [100, 10, 1] < 1000 * flip  # exactly, for each v
        found, entropy = information((v[:, 0] ^ share)[:, None].astype(float), v)
        h = -sum(p * math.log(p) for p in (flip, 1 - flip) if p)
        flips = np.array([share[v[:, 0] == each].mean() for each in (0, 1)])
        assert flips == pytest.approx(flip, abs=0.001)
        assert found[0, 0] == pytest.approx(math.log(2) - h, abs=0.003)
        assert entropy[0] == pytest.approx(math.log(2))


def test_two_dimensions_that_know_a_factor_leave_no_gap():
    twice = np.stack([FACTORS[:, 0], -FACTORS[:, 0], FACTORS[:, 1]], 1).astype(float)
    assert gap(twice, FACTORS) == pytest.approx([0, 1])
    bits = GRID[:, :2] % 2
    turned = np.stack([bits.sum(1), bits[:, 0] - bits[:, 1]], 1).astype(float)
    found, entropy = information(turned, bits)
    assert found / entropy == pytest.approx(np.full((2, 2), 0.5))
    assert gap(turned, bits) == pytest.approx([0, 0], abs=1e-9)


def test_a_factor_without_a_dimension_is_guessed():
    """z_0 = v_0, and z_1 a hidden factor: v_1 leaves both as they are, and each is least at times.

    Of dimension 0, v_0 has the majority, and dimension 1 is always v_1: ½ + ½ · ½.
    """
    codes = GRID[:, [0, 2]].astype(float)
    accuracy, se = factor_vae_score(codes, FACTORS, 0)
    assert abs(accuracy - 0.75) < 5 * se
    scaled, _ = factor_vae_score(codes * [1, 100], FACTORS, 0)
    assert scaled == accuracy


def test_factors_that_say_nothing_are_refused():
    with pytest.raises(PvaeError, match="Factor 1 has the value 7 for all 4 data"):
        check_factors(np.array([[0, 7], [1, 7]] * 2))
    with pytest.raises(PvaeError, match=r"shape \[3\]"):
        check_factors(np.arange(3))
    with pytest.raises(PvaeError, match="Factor 0 has 3 values for 4 data"):
        check_factors(np.array([[0.1, 1], [0.2, 1], [0.3, 0], [0.3, 0]]))
    with pytest.raises(PvaeError, match="Factor 1 is NaN for 2 of 6 data"):
        check_factors(np.array([[0, 1], [0, math.nan], [1, 0]] * 2))
    assert (check_factors(np.array([[-4], [9]] * 2)) == [[0], [1]] * 2).all()


def test_twenty_bins_hold_at_most_twenty_values():
    """Forty equally frequent values make pairs, but for the two bins 19 | 20 = 19.5 / 39 · 20."""
    v = np.arange(40)[:, None].repeat(50, 0).reshape(-1, 1)
    bins = np.bincount(np.minimum((np.arange(40) * 20 / 39).astype(int), 19)) / 40
    expected = -(bins * np.log(bins)).sum() / math.log(40)
    assert gap(v.astype(float), v) == pytest.approx(expected)
    assert expected == pytest.approx(math.log(20) / math.log(40), abs=0.01)


def pair(loc):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc(x), 0.1).to_event(1))

    return model, guide


def data(num=600, of=lambda factors: factors):
    factors = np.random.default_rng(0).integers(0, 5, (num, 2))
    x = np.concatenate([factors, random(num, 1)], 1).astype(np.float32)
    known = of(factors)
    fields = {"x_train": x, "factors_train": known, "x_test": x, "factors_test": known}
    return pvae.data.load(fields, observation="as_given")


def score(loc, given=None, num_data=None):
    asked = [Disentanglement(num_data)]
    given = data() if given is None else given
    return pvae.evaluate(*pair(loc), given, num_samples=2, estimators=asked, progress=False)


def test_the_codes_of_a_guide_are_scored(tmp_path):
    off = torch.tensor([1.0, 1.0, 0.0])  # the last dimension is not active
    result = score(lambda x: x * off)
    found = result.findings["disentanglement"]
    assert found.dims == ["z[0]", "z[1]"]
    assert found.information == pytest.approx(np.eye(2), abs=0.03)
    assert found.mig > 0.97
    assert 0 < found.mig_se < 0.02
    assert found.beta_vae == found.factor_vae == [1.0, 0.0]
    assert "MIG 0.98" in result.table() or "MIG 0.99" in result.table()
    result.save(tmp_path)
    again = pvae.Evaluation.load(tmp_path)
    assert again.summary() == result.summary()
    page = pvae.write_report(tmp_path / "a.html", again).read_text()
    assert 'id="disentanglement"' in page
    assert "z[1]" in page

    few = score(lambda x: x.roll(1, 1), num_data=300).findings["disentanglement"]
    assert len(few) == 300
    assert few.information.argmax(0).tolist() == [1, 2]


def test_the_error_of_the_gap_is_its_spread():
    noise = torch.tensor([1.0, 1.0, 0.0])
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        v = rng.integers(0, 5, (400, 2))
        x = np.concatenate([v + rng.normal(size=(400, 2)), v[:, :1]], 1).astype(np.float32)
        given = pvae.data.load(
            {"x_train": x, "factors_train": v, "x_test": x, "factors_test": v},
            observation="as_given",
        )  # fmt: skip
        each = score(lambda x: x * noise, given).findings["disentanglement"]
        found.append((each.mig, each.mig_se))
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.4)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_rare_value_and_a_single_factor_have_scores():
    rare = score(lambda x: x, data(of=lambda v: np.arange(len(v))[:, None] == [7, 300]))
    found = rare.findings["disentanglement"]
    assert 0 < found.mig_se < 1
    one = score(lambda x: x, data(of=lambda v: v[:, :1])).findings["disentanglement"]
    assert one.mig > 0.95
    assert one.beta_vae == one.factor_vae == [1.0, 0.0]
    assert "chance of the last two 1.000" in one.line(one.summary(None))


def test_one_hot_codes_are_discrete_though_they_are_floats():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.OneHotCategorical(torch.ones(3)))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    asked = {"num_samples": 2, "estimators": [Disentanglement()], "progress": False}
    with pytest.warns(UserWarning, match="Site 'z' is discrete"):
        pvae.evaluate(model, guide, data(50), **asked)


def test_pairs_without_factors_or_codes_say_why():
    x = torch.randn(20, 3)
    cases = [
        (lambda x: x, x, "no field factors"),
        (lambda x: 0 * x, None, "No dimension of the codes is active"),
    ]
    for loc, given, said in cases:
        with pytest.warns(UserWarning, match=said):
            assert "disentanglement" in score(loc, given).missing
