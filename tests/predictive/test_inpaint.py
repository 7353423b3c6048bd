"""p(x_missing | x_known) of trained pairs, against linear-Gaussian pairs and enumerated ones."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import as_the_prior, tokens
from torch import nn
from zoo import make

import pvae
from pvae import PvaeError, guides, models
from pvae.distributions import Completed, only
from pvae.predictive import KnownPart, blank, known_of

D, Z, NOISE = 6, 2, 0.5


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHT, MEAN = rand(D, Z, seed=0), rand(D, seed=1)
COVARIANCE = WEIGHT @ WEIGHT.T + NOISE**2 * torch.eye(D, dtype=torch.float64)
PRECISION = torch.eye(Z, dtype=torch.float64) + WEIGHT.T @ WEIGHT / NOISE**2


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT.T + MEAN, NOISE).to_event(1), obs=x)


def guide(x):
    """The exact posterior."""
    loc = (x - MEAN) @ WEIGHT @ torch.linalg.inv(PRECISION).T / NOISE**2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=PRECISION))


def some_data(size=6):
    x = MEAN + rand(size, D, seed=2) @ torch.linalg.cholesky(COVARIANCE).T
    known = rand(size, D, seed=3) < 0
    known[0], known[1] = True, False  # all, and none
    return x, known


def given(x, known):
    """Mean and covariance of the missing values of one datum given the known ones."""
    k, m = known, ~known
    gain = COVARIANCE[m][:, k] @ torch.linalg.inv(COVARIANCE[k][:, k])
    return MEAN[m] + gain @ (x[k] - MEAN[k]), COVARIANCE[m][:, m] - gain @ COVARIANCE[k][:, m]


def log_known(x, known):
    normal = dist.MultivariateNormal
    k = [torch.nonzero(each)[:, 0] for each in known]
    return torch.stack(
        [
            normal(MEAN[i], COVARIANCE[i][:, i]).log_prob(row[i]) if len(i) else row.new_zeros(())
            for row, i in zip(x, k, strict=True)
        ]
    )


def log_w(x, known, num, programs=(model, guide), seed=0, **sizes):
    batch = (blank(x, known),)
    found = pvae.inspect(*programs, *batch)
    with KnownPart(found, known, **{"num_chains": 20, "num_steps": 10} | sizes) as part:
        return part.log_w((*batch, known), num, seed=seed)


@pytest.mark.parametrize("size", [6, 1])
def test_draws_are_those_of_the_exact_gaussian(size):
    """A datum whose values are all known and one without any known value are among them."""
    x, known = (t[-size:] for t in some_data())
    num = 6000
    drawn = pvae.inpaint(
        model, guide, x, known=known, num_samples=num, num_proposals=12_000, num_chains=100
    )
    assert drawn.dtype == torch.float64
    assert torch.equal(drawn[:, known], x[known].expand(num, -1))
    for row, mask, values in zip(x, known, drawn.unbind(1), strict=True):
        if mask.all():
            continue
        mean, covariance = given(row, mask)
        found, sd = values[:, ~mask], covariance.diagonal().sqrt()
        # Draws from weighted samples: the error is about that of an eighth of them.
        tolerance = 5 / math.sqrt(num / 8)
        assert ((found.mean(0) - mean).abs() / sd).max() < tolerance
        error = (torch.cov(found.T).reshape(len(sd), -1) - covariance) / (sd[:, None] * sd)
        assert error.abs().max() < 2 * tolerance


def test_the_means_are_those_given_z():
    x, known = some_data()
    sizes = {"num_samples": 4000, "num_proposals": 8000}
    drawn = pvae.inpaint(model, guide, x, known=known, mean=True, **sizes)
    mean, covariance = given(x[2], known[2])
    found = drawn[:, 2][:, ~known[2]]
    assert found.mean(0) == pytest.approx(mean, abs=0.1)
    # Without the noise of x given z.
    assert found.var(0) == pytest.approx(covariance.diagonal() - NOISE**2, rel=0.3, abs=0.02)


def test_log_p_of_the_known_values_is_exact():
    x, known = some_data(8)
    exact = log_known(x, known)
    w = (log_w(x, known, 5000) - exact).exp()
    se = w.std(0) / math.sqrt(len(w))
    assert (se < 0.05).all()
    assert ((w.mean(0) - 1).abs() < 4.5 * se + 1e-9).all()


def test_the_mean_weight_is_unbiased_with_one_poor_imputation():
    x, known = some_data(8)
    exact = log_known(x, known)
    means = [
        (log_w(x, known, 100, seed=s, num_chains=1, num_steps=1) - exact).exp().mean(0)
        for s in range(60)
    ]
    means = torch.stack(means)
    assert ((means.mean(0) - 1).abs() < 4.5 * means.std(0) / math.sqrt(60) + 1e-9).all()


def test_missing_values_are_not_read():
    x, known = some_data()
    found = [
        pvae.inpaint(model, guide, torch.where(known, x, other), known=known, num_proposals=50)
        for other in (math.nan, 1e3)
    ]
    assert torch.equal(*found)
    again = pvae.inpaint(model, guide, x, known=known, num_proposals=50, seed=1)
    assert not torch.equal(again, found[0])


def bits(x):
    """A class y, summed out, and bits given y; the guide draws y or sums it out."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(PROBS), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Bernoulli(TABLE[y]).to_event(1), obs=x)


def class_of(x):
    logits = dist.Bernoulli(TABLE).log_prob(x[:, None]).sum(-1) * 0.5
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


PROBS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
TABLE = rand(3, 4, seed=5).sigmoid()


def test_an_enumerated_pair_is_exact_and_draws_its_missing_bits():
    x = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]], dtype=torch.float64)
    known = torch.tensor([True, True, False, False])
    every = known.expand(2, 4)
    terms = dist.Bernoulli(TABLE).log_prob(x[:, None])
    exact = (PROBS.log() + terms[..., known].sum(-1)).logsumexp(-1)
    for empty in (class_of, lambda x: None):
        found = log_w(x, every, 7, (bits, empty))
        assert found.logsumexp(0) - math.log(len(found)) == pytest.approx(exact, abs=1e-9)
    drawn = pvae.inpaint(bits, class_of, x, known=known, num_samples=4000, num_proposals=4000)
    post = (PROBS.log() + terms[..., known].sum(-1)).softmax(-1)
    assert drawn[:, :, 2:].mean(0) == pytest.approx(post @ TABLE[:, 2:], abs=0.05)
    with pytest.raises(pvae.PvaeError, match="'y' is summed out in the model"):
        pvae.inpaint(bits, lambda x: None, x, known=known)


def test_a_pixel_plate_and_values_of_another_shape():
    """Programs that no one here wrote: x is flattened, or its pixels are in a plate."""

    def flat(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            fn = dist.Normal(z @ WEIGHT.T + MEAN, NOISE).to_event(1)
            pyro.sample("x", fn, obs=x.view(-1, D))

    def pixels(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1, Z), 1.0).to_event(1))
            with pyro.plate("pixels", D, dim=-1):
                pyro.sample("x", dist.Normal((z @ WEIGHT.T + MEAN)[..., 0, :], NOISE), obs=x)

    def of_pixels(x):
        loc = (x - MEAN) @ WEIGHT @ torch.linalg.inv(PRECISION).T / NOISE**2
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.MultivariateNormal(loc[:, None], precision_matrix=PRECISION))

    x, known = some_data(8)
    exact = log_known(x, known)
    shaped = x.view(-1, 2, 3), known.view(-1, 2, 3)
    found = log_w(*shaped, 3000, (flat, lambda x: guide(x.view(-1, D))))
    assert (found - exact).exp().mean(0) == pytest.approx(torch.ones(8), abs=0.2)
    assert pvae.inpaint(flat, lambda x: guide(x.view(-1, D)), shaped[0], known=shaped[1]).shape == (
        1, *shaped[0].shape,
    )  # fmt: skip
    found = log_w(x, known, 3000, (pixels, of_pixels))
    assert (found - exact).exp().mean(0) == pytest.approx(torch.ones(8), abs=0.2)


def test_a_guide_that_knows_its_own_samples_only():
    iaf, flow = make("IAF")[:2]
    x = torch.bernoulli(torch.full((3, 1, 8, 8), 0.3))
    known = torch.arange(8) < 4
    known = known[None, :, None].expand(1, 8, 8)
    found = log_w(x, known_of(known, x), 400, (iaf, flow), num_chains=2)
    model, plain = make("dense")[:2]
    model.load_state_dict(iaf.state_dict())
    other = log_w(x, known_of(known, x), 4000, (model, plain))
    ours, theirs = (w.logsumexp(0) - math.log(len(w)) for w in (found, other))
    assert ours == pytest.approx(theirs, abs=0.5)


def test_only_sums_some_values_and_completed_keeps_the_others():
    fn = dist.Bernoulli(torch.rand(5, 2, 3)).to_event(2)
    x, known = torch.ones(5, 2, 3), torch.rand(5, 2, 3) < 0.5
    ours, theirs = only(fn, known).log_prob(x), only(fn, ~known).log_prob(x)
    assert ours + theirs == pytest.approx(fn.log_prob(x))
    assert (ours == (fn.base_dist.log_prob(x) * known).sum((-1, -2))).all()
    completed = Completed(fn, x, known)
    assert completed.log_prob(x) == pytest.approx(theirs)
    drawn = completed.expand((4, 5)).sample()
    assert drawn.shape == (4, 5, 2, 3)
    assert (drawn[:, known] == 1).all()
    assert not (drawn == 1).all()
    assert completed.mean[~known] == pytest.approx(fn.mean[~known])
    assert completed.expand((4, 5)).log_prob(x).shape == (4, 5)


VAE = models.VAE((1, 8, 8), 3), guides.MeanField((1, 8, 8), 3)
HALF = torch.arange(8) < 4


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (torch.ones(1, 8, 8, dtype=torch.bool), "no value is missing"),
        (torch.zeros(1, 8, 8, dtype=torch.bool), "no value is given.*pvae.generate"),
        (torch.ones(8, 8, dtype=torch.bool), r"shape \(8, 8\).*booleans of shape \(1, 8, 8\)"),
        (torch.ones(1, 8, 8), "torch.float32 of shape"),
    ],
)
def test_a_wrong_mask(known, message):
    with pytest.raises(pvae.PvaeError, match=message):
        pvae.inpaint(*VAE, torch.zeros(4, 1, 8, 8), known=known)


class Reading(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            loc = z @ WEIGHT.T + x.roll(1, -1)
            pyro.sample("x", dist.Normal(loc, NOISE).to_event(1), obs=x)


def test_likelihoods_that_do_not_factorise_are_refused():
    x, known = torch.zeros(4, 1, 8, 8), HALF[None, :, None].expand(1, 8, 8)
    for name in ("logistic mixture", "PixelVAE"):
        *pair, _ = make(name)
        with pytest.raises(pvae.PvaeError, match=r"Site 'x' of the model .* does not factorise"):
            pvae.inpaint(*pair, x, known=known)
    with pytest.raises(pvae.PvaeError, match="changes with the data that it observes"):
        pvae.inpaint(Reading(), guide, *some_data()[:1], known=some_data()[1])
    with pytest.raises(pvae.PvaeError, match="The guide Code gives site 'z' a Delta"):
        pvae.inpaint(*make("autoencoder")[:2], x, known=known)

    with pytest.raises(pvae.PvaeError, match=r"Complete x by pvae.generate\(model, n, x, mask\)"):
        pvae.inpaint(*make("any mask")[:2], x, known.expand(4, 1, 8, 8), known=known)

    def twice(x):
        model(2 * x)

    with pytest.raises(pvae.PvaeError, match="observes x, the first argument, at no site"):
        pvae.inpaint(twice, guide, some_data()[0], known=some_data()[1])


def test_one_sample_of_z_for_most_data_is_said():
    x, known = some_data()
    with pytest.warns(UserWarning, match="almost all of the weight is on one of 2 samples"):
        pvae.inpaint(
            model, guide, x * 30, known=known, num_samples=5, num_proposals=2, num_chains=2
        )


COINS = torch.tensor([[0.9, 0.8, 0.7], [0.2, 0.3, 0.45]])


def coins(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Bernoulli(COINS[z]).to_event(1), obs=x.float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float64])
def test_a_mean_of_bits_is_between_them(dtype):
    def code(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})

    x, known = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0]]), torch.tensor([True, True, False])
    w = dist.Bernoulli(COINS[:, None, :2]).log_prob(x[:, :2].float()).sum(-1).softmax(0)
    options = {"known": known, "num_samples": 4000, "num_proposals": 500}
    found = pvae.inpaint(coins, code, x.to(dtype), mean=True, **options)
    assert found.is_floating_point()
    error = 5 * COINS[:, 2].std() / math.sqrt(500)
    torch.testing.assert_close(found[..., 2].mean(0).float(), w.T @ COINS[:, 2], atol=error, rtol=0)
    assert (found[..., :2] == x[:, :2]).all()
    assert pvae.inpaint(coins, code, x.to(dtype), **options).dtype == dtype


def test_classes_have_no_mean_and_impossible_data_no_completion():
    x, known = torch.tensor([[0, 2], [1, 1]]), torch.tensor([True, False])
    assert pvae.inpaint(tokens, as_the_prior, x, known=known).dtype == torch.int64
    with pytest.raises(PvaeError, match="in the model tokens has no mean"):
        pvae.inpaint(tokens, as_the_prior, x, known=known, mean=True)

    def never_three(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            logits = z[..., None, None] + torch.tensor([0.0, 0.0, 0.0, -math.inf]).expand(2, 4)
            pyro.sample("x", dist.Categorical(logits=logits).to_event(1), obs=x)

    x = torch.ones(5, 2, dtype=torch.long)
    x[3, 0] = 3
    with pytest.raises(PvaeError, match="Datum 3 cannot be completed: its known values have no"):
        pvae.inpaint(never_three, as_the_prior, x, known=known)


def test_a_place_is_filled_from_its_own_known_values():
    x = torch.tensor([[0.0, 30.0, 7.0], [1.0, 50.0, 8.0], [1.0, 40.0, 9.0]])
    known = torch.tensor([[True, False, False], [False, True, False], [True, True, False]])
    filled = blank(x, known)
    assert (filled[:, 0] <= 1).all()
    assert filled[0, 1] in (40, 50)
    assert torch.equal(filled[known], x[known])
    assert set(filled[:, 2].tolist()) <= {0, 1, 40, 50}
    assert torch.equal(blank(x, torch.zeros(3, 3) > 0), torch.zeros(3, 3))
