"""log_weights against exact marginals, against pyro.infer, and on pairs that it must refuse."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import linear_gaussian, quadrature_log_px
from pyro.infer import RenyiELBO, Trace_ELBO, config_enumerate
from torch import nn

import pvae
from pvae import PvaeError

STRATEGIES = ["plate", "tile", "loop"]


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return linear_gaussian()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mean_weight_is_the_exact_marginal(pair, strategy):
    model, guide, x, exact = pair
    log_w = pvae.log_weights(model, guide, x, num_samples=1000, strategy=strategy)
    assert log_w.shape == (1000, 200)
    log_px = log_w.logsumexp(0) - math.log(1000)
    se = (log_w - log_w.max(0).values).exp()
    se = se.std(0) / se.mean(0) / math.sqrt(1000)
    assert ((log_px - exact).abs() < 3 * se).double().mean() >= 0.97
    assert (log_px - exact).mean().abs() < 0.02
    bounds = [
        (log_w[:960].reshape(-1, k, 200).logsumexp(1) - math.log(k)).mean().item()
        for k in (1, 2, 8, 32, 160)
    ]
    assert bounds == sorted(bounds)
    assert bounds[-1] < exact.mean() + 0.02


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_agrees_with_pyros_elbo_and_renyi_bound(pair, strategy):
    model, guide, x, _ = pair
    log_w = pvae.log_weights(model, guide, x, num_samples=500, strategy=strategy)
    elbo = Trace_ELBO(num_particles=500, vectorize_particles=True).loss(model, guide, x)
    assert abs(log_w.mean(0).sum() + elbo) < 5 * log_w.sum(1).std() / math.sqrt(500)
    # Pyro's RenyiELBO sums over the data before it takes the log (pyro issue #3104): of one
    # datum at a time it is the bound L_10.
    renyi, num = RenyiELBO(alpha=0, num_particles=10, vectorize_particles=True), 300
    theirs = torch.tensor([-renyi.loss(model, guide, x[:1]) for _ in range(num)])
    ours = pvae.log_weights(model, guide, x[:1], num_samples=10 * num, strategy=strategy)
    ours = ours.reshape(num, 10).logsumexp(1) - math.log(10)
    assert abs(theirs.mean() - ours.mean()) < 4 * math.sqrt((theirs.var() + ours.var()) / num)


def test_scales_do_not_enter_but_masks_and_factors_do(pair):
    model, guide, x, exact = pair
    mask = torch.arange(len(x)) % 2 == 0

    def scaled(x):
        with pyro.poutine.scale(scale=0.01):
            model(x)

    def masked(x):
        with pyro.poutine.mask(mask=mask):
            model(x)

    def weighted(x):
        model(x)
        with pyro.plate("again", len(x)):
            pyro.factor("bonus", torch.full((len(x),), 7.0))

    def log_px(model, guide):
        log_w = pvae.log_weights(model, guide, x, num_samples=500, strategy="tile")
        return log_w.logsumexp(0) - math.log(500)

    def quiet_guide(x):
        with pyro.poutine.mask(mask=mask):
            guide(x)

    assert (log_px(scaled, guide) - exact).abs().max() < 0.5
    assert (log_px(weighted, guide) - exact - 7).abs().max() < 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = pvae.log_weights(masked, quiet_guide, x, num_samples=500, strategy="plate")
    got = got.logsumexp(0) - math.log(500)
    assert (got[~mask] == 0).all()
    assert (got - exact)[mask].abs().max() < 0.5


def test_other_plates_are_summed_over():
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    zeros = torch.zeros(2, dtype=torch.float64)
    weight = torch.randn(3, 2, dtype=torch.float64)

    def model(x):  # 4 repeated measurements of each datum, in a plate left of the batch plate
        with pyro.plate("people", len(x)):
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            with pyro.plate("repeats", 4):
                loc = z @ weight.T
                pyro.sample("x", dist.Normal(loc, 0.9).to_event(1), obs=x.transpose(0, 1))

    def guide(x):
        with pyro.plate("people", len(x)):
            pyro.sample("z", dist.Normal(0.3 * x.mean(1) @ weight, 0.6).to_event(1))

    big = torch.kron(torch.ones(4, 1, dtype=torch.float64), weight)
    covariance = big @ big.T + 0.81 * torch.eye(12, dtype=torch.float64)
    exact = dist.MultivariateNormal(torch.zeros(12, dtype=torch.float64), covariance).log_prob(
        x.reshape(6, 12)
    )
    torch.manual_seed(0)
    for strategy in STRATEGIES:
        log_w = pvae.log_weights(model, guide, x, num_samples=600, strategy=strategy)
        se = log_w.exp().std(0) / log_w.exp().mean(0) / math.sqrt(600)
        error = (log_w.logsumexp(0) - math.log(600) - exact).abs()
        assert (error < 4 * se).all(), strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("where", ["guide", "model"])
def test_enumerated_sites_are_summed_out(where, strategy):
    torch.manual_seed(0)
    num = 400 if strategy == "loop" else 4000
    probs = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    means = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    x = torch.randn(8, dtype=torch.float64) * 2

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(means[y], 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = -0.3 * (x[:, None] - means) ** 2
            y = x.new_zeros(())
            if where == "guide":
                y = means[pyro.sample("y", dist.Categorical(logits=logits))]
            pyro.sample("z", dist.Normal(0.7 * x + 0.2 * y, 0.7))

    if where == "guide":
        guide = config_enumerate(guide, "parallel", expand=False)
    exact = (probs.log() + dist.Normal(means, math.sqrt(1.25)).log_prob(x[:, None])).logsumexp(-1)
    log_w = pvae.log_weights(model, guide, x, num_samples=num, strategy=strategy)
    assert log_w.shape == (num, 8)
    weight = (log_w - exact).exp()
    assert ((weight.mean(0) - 1).abs() < 4 * weight.std(0) / math.sqrt(num)).all()


def test_elbo_with_an_enumerated_guide_keeps_its_entropy():
    """With one discrete latent the ELBO is a finite sum, and does not depend on the draws."""
    probs = torch.tensor([0.2, 0.8], dtype=torch.float64)
    q = torch.tensor([0.5, 0.5], dtype=torch.float64)
    means = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    x = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(probs))
            pyro.sample("x", dist.Normal(means[y], 1.0), obs=x)

    @config_enumerate
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(q))

    joint = probs.log() + dist.Normal(means, 1.0).log_prob(x[:, None])
    result = pvae.evaluate(model, guide, x, num_samples=3, progress=False)
    torch.testing.assert_close(torch.from_numpy(result.elbo), (q * (joint - q.log())).sum(-1))
    torch.testing.assert_close(torch.from_numpy(result.log_px), joint.logsumexp(-1))
    kl = (q * (q / probs).log()).sum().expand(3)
    torch.testing.assert_close(torch.from_numpy(result.kl), kl)


def test_minus_infinity_is_a_zero_weight():
    x = torch.zeros(5)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full_like(x, 0.5), 1.0))

    result = pvae.evaluate(model, guide, x, num_samples=4000, progress=False)
    outside = 2 * dist.Normal(0.0, 1.0).cdf(torch.tensor(-0.5)).item()
    assert abs(result.zero_weights.mean() - outside) < 0.02
    exact = math.log(dist.Normal(0.0, 1.0).cdf(torch.tensor(1.0)).item() - 0.5)
    assert abs(result.log_px.mean() - exact) < 0.05
    assert result.summary()["elbo"]["mean"] is None  # the ELBO is -inf: not a JSON number


@pytest.mark.parametrize(("bad", "said"), [(math.nan, "NaN"), (math.inf, r"\+inf")])
def test_weights_that_are_not_finite_name_datum_and_site(pair, bad, said):
    model, guide, x, _ = pair
    x = x.clone()
    x[150, 0] = 50.0

    def broken(x):
        model(x)
        with pyro.plate("again", len(x)):
            pyro.factor("penalty", torch.where(x[:, 0] == 50.0, bad, 0.0))

    with pytest.raises(PvaeError, match=rf"datum 150 is {said}.*log p\(penalty\)"):
        pvae.evaluate(broken, guide, x, num_samples=3, progress=False)


def test_delta_guide_is_refused(pair):
    model, _, x, _ = pair

    def delta(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x[:, :2]).to_event(1))

    with pytest.raises(PvaeError, match=r"no density.*MeanField"):
        pvae.log_weights(model, delta, x, num_samples=3)


def test_global_latent_is_refused():
    x = torch.randn(10)

    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(PvaeError, match=r"'m' stands outside the batch plate.*pyro\.param"):
        pvae.log_weights(model, guide, x, num_samples=3)


class _Normed(nn.Module):
    def __init__(self, keep):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2, track_running_stats=keep))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:-1], 5])
                        .to_event(1), obs=x)  # fmt: skip

    def guide(self, x):
        pyro.module("normed", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


def test_modules_that_mix_data_are_refused_and_running_statistics_are_fine():
    x = torch.randn(20, 5)
    mixing = _Normed(keep=False)
    with pytest.raises(PvaeError, match=r"mixes data across the batch: log q\(z\)"):
        pvae.log_weights(mixing.model, mixing.guide, x, num_samples=3)
    keeping = _Normed(keep=True)
    before = keeping.net[1].running_mean.clone()
    assert keeping.training
    pvae.log_weights(keeping.model, keeping.guide, x, num_samples=3)
    assert keeping.training  # the mode is restored
    assert torch.equal(keeping.net[1].running_mean, before)


def test_auto_falls_back_to_a_loop_and_says_so():
    """A network bound to the size of its batch can be neither plated nor tiled."""
    weight = torch.randn(5, 2)
    x = torch.randn(8, 5)

    def model(x):
        with pyro.plate("data", 8):
            z = pyro.sample("z", dist.Normal(torch.zeros(8, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.view(8, 2) @ weight.T, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 8):
            pyro.sample("z", dist.Normal((x @ weight).view(8, 2) * 0.1, 0.7).to_event(1))

    with pytest.warns(UserWarning, match="log_weights uses a loop"):
        log_w = pvae.log_weights(model, guide, x, num_samples=2000)
    exact = dist.MultivariateNormal(torch.zeros(5), weight @ weight.T + torch.eye(5)).log_prob(x)
    se = (log_w - exact).exp().std(0) / math.sqrt(2000)
    assert (((log_w - exact).exp().mean(0) - 1).abs() < 5 * se).all()


def test_a_single_datum(pair):
    model, guide, x, exact = pair
    for strategy in STRATEGIES:
        log_w = pvae.log_weights(model, guide, x[:1], num_samples=2000, strategy=strategy)
        assert log_w.shape == (2000, 1)
        assert abs(log_w.logsumexp(0) - math.log(2000) - exact[0]) < 0.1


def test_quadrature_oracle_itself():
    """The oracle of the other tests, against a Gaussian integral."""
    x = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    got = quadrature_log_px(lambda z: dist.Normal(z, 0.5).log_prob(x.T), 1)
    torch.testing.assert_close(got, dist.Normal(0.0, math.sqrt(1.25)).log_prob(x[:, 0]))


def test_plate_names_that_are_ambiguous_or_missing(pair):
    x = pair[2]
    square = torch.randn(4, 4)

    def model2(x):
        with pyro.plate("rows", 4), pyro.plate("columns", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide2(x):
        with pyro.plate("rows", 4), pyro.plate("columns", 4):
            pyro.sample("z", dist.Normal(x, 1.0))

    with pytest.raises(PvaeError, match="Say which: plate='"):
        pvae.log_weights(model2, guide2, square, num_samples=3)
    log_w = pvae.log_weights(
        model2, guide2, square, num_samples=3, plate="columns", strategy="loop"
    )
    assert log_w.shape == (3, 4)
    with pytest.raises(PvaeError, match="is not a plate of 4 data"):
        pvae.log_weights(model2, guide2, square, num_samples=3, plate="time")

    def model3(x):
        with pyro.plate("data", 200, subsample_size=50) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[rows, 0])

    def guide3(x):
        with pyro.plate("data", 200, subsample_size=50) as rows:
            pyro.sample("z", dist.Normal(x[rows, :2], 1.0).to_event(1))

    with pytest.raises(PvaeError, match="subsamples inside the program"):
        pvae.log_weights(model3, guide3, x, num_samples=3)


def test_num_samples_below_one(pair):
    model, guide, x, _ = pair
    with pytest.raises(PvaeError, match="num_samples=0"):
        pvae.log_weights(model, guide, x, num_samples=0)
    with pytest.raises(PvaeError, match="num_samples=0"):
        pvae.evaluate(model, guide, x, num_samples=0)


def test_what_would_make_the_weights_bound_nothing_is_refused():
    x, half = torch.randn(8, 2), torch.arange(8) < 4

    def pair(in_model=True, in_guide=True, extra=False):
        def model(x):
            with pyro.plate("data", len(x)):
                with pyro.poutine.mask(mask=half if in_model else True):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                if extra:
                    fn, infer = dist.Normal(0.0, 1.0).expand([len(x)]), {"is_auxiliary": True}
                    pyro.sample("a", fn, infer=infer)
                with pyro.poutine.mask(mask=half if in_guide else True):
                    pyro.sample("z", dist.Normal(0.5 * x, 0.8).to_event(1))

        return model, guide

    options = {"num_samples": 5, "strategy": "loop"}
    assert pvae.log_weights(*pair(), x, **options).isfinite().all()
    for wrong in ({"in_guide": False}, {"in_model": False}):
        with pytest.raises(PvaeError, match="'z' is masked differently in the guide"):
            pvae.log_weights(*pair(**wrong), x, **options)
    with pytest.raises(PvaeError, match="samples 'a', which the model does not have"):
        pvae.log_weights(*pair(extra=True), x, **options)
