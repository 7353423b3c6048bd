"""The ELBO surgery, against mixtures written out in torch.distributions on the same draws."""

import math

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import task
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

import pvae
from pvae.errors import PvaeError
from pvae.evaluation.estimators import surgery as module
from pvae.evaluation.estimators.aggregate_posterior import AggregatePosterior
from pvae.evaluation.estimators.surgery import Surgery
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

CPU = torch.device("cpu")


def run(
    model, guide, *batch, positions=None, seed=0, strategy="auto", drawn=None
) -> AggregatePosterior:
    """The surgery; `drawn` receives the draws, as rows."""
    sampler = Sampler(inspect(model, guide, *batch), strategy=strategy)
    if drawn is not None:
        original = sampler.posterior

        def posterior(batch, num):
            values = original(batch, num)
            if num == 1:
                drawn.append({name: v[0] for name, v in values.items()})
            return values

        sampler.posterior = posterior
    with sampler:
        return Surgery().estimate(task(sampler, batch, positions, seed=seed))


def collected(drawn: list[dict], name: str) -> torch.Tensor:
    return torch.cat([each[name] for each in drawn])


def gaussian_pair(loc, scale, dtype=torch.float64):
    """z ~ N(0, I), x ~ N(z, 1), q(z|x) = N(loc(x), scale(x))."""

    def model(x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(x.shape[1], dtype=dtype), 1.0).to_event(1)
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc(x), scale(x)).to_event(1))

    return model, guide


def assert_same(found: np.ndarray, exact: torch.Tensor, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(found, exact.double().numpy(), tolerance, tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_is_the_mixture_of_all_guides(dtype, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 24)  # several blocks, the last one smaller
    monkeypatch.setattr(module, "_PIECE", 7)
    monkeypatch.setattr(module, "_FLOATS", {"cpu": 200})  # 16 data and 6 draws at a time
    x = oracles.random(70, 2, seed=0).to(dtype)

    def scale(x):
        return 0.3 + 0.2 * torch.sigmoid(x)

    drawn = []
    model, guide = gaussian_pair(lambda x: 0.7 * x, scale, dtype)
    found = run(model, guide, x, drawn=drawn)
    z = collected(drawn, "z")
    parts = Normal(0.7 * x, scale(x)).log_prob(z[:, None]).sum(-1).double()  # [draw, datum]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert_same(found.log_q_given_x, parts.diagonal(), tolerance)
    assert_same(found.log_q_marginal, parts.logsumexp(1) - math.log(70), tolerance)
    prior = Normal(torch.zeros(2, dtype=dtype), 1.0).log_prob(z).sum(-1)
    assert_same(found.log_prior, prior, tolerance)
    assert found.log_q_marginal.dtype == np.float64
    assert 0 < found.mutual_information < found.log_num_data == math.log(70)
    assert found.rate == pytest.approx(found.mutual_information + found.marginal_kl, 1e-12)
    information = found.log_q_given_x - found.log_q_marginal
    assert found.mutual_information_se == pytest.approx(information.std(ddof=1) / math.sqrt(70))
    difference = found.log_q_marginal - found.log_prior
    assert found.marginal_kl_se == pytest.approx(difference.std(ddof=1) / math.sqrt(70))


def test_rate_is_the_kl_and_information_that_of_a_gaussian():
    """With q(z) nearly Gaussian: I = ½ log(1 + var / s²)."""
    x = oracles.random(1500, 1, seed=0)
    x = (x - x.mean()) / x.std(correction=0)
    model, guide = gaussian_pair(lambda x: x, lambda x: torch.full_like(x, 0.8))
    found = run(model, guide, x)
    kl = torch.distributions.kl_divergence(Normal(x, 0.8), Normal(0.0, 1.0)).mean().item()
    rate_se = (found.log_q_given_x - found.log_prior).std() / math.sqrt(1500)
    assert abs(found.rate - kl) < 4 * rate_se
    exact = 0.5 * math.log(1 + 1 / 0.64)
    assert abs(found.mutual_information - exact) < 4 * found.mutual_information_se + 0.01


def test_a_guide_that_ignores_x_knows_nothing():
    x = oracles.random(50, 2, seed=0)
    one = torch.ones_like
    model, guide = gaussian_pair(lambda x: 0.5 * one(x), lambda x: 0.7 * one(x))
    found = run(model, guide, x)
    assert abs(found.mutual_information) < 1e-12
    assert found.mutual_information_se < 1e-12
    assert found.rate == pytest.approx(found.marginal_kl, 1e-12)
    assert found.marginal_kl > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_information_reaches_log_n_and_never_passes_it(dtype):
    x = torch.arange(60, dtype=dtype)[:, None]
    model, guide = gaussian_pair(lambda x: x, lambda x: torch.full_like(x, 1e-2), dtype)
    found = run(model, guide, x)
    information = found.log_q_given_x - found.log_q_marginal
    assert abs(found.mutual_information - math.log(60)) < 1e-6
    assert (information <= math.log(60) + 1e-12).all()


def test_some_of_the_data_against_all_of_them():
    x = oracles.random(90, 2, seed=0)
    model, guide = gaussian_pair(lambda x: 0.7 * x, lambda x: torch.full_like(x, 0.4))
    positions, drawn = np.array([3, 4, 17, 60, 89]), []
    found = run(model, guide, x, positions=positions, drawn=drawn)
    parts = Normal(0.7 * x, 0.4).log_prob(collected(drawn, "z")[:, None]).sum(-1)
    assert found.datum.tolist() == positions.tolist()
    assert found.num_data == 90
    assert_same(found.log_q_marginal, parts.logsumexp(1) - math.log(90))
    assert_same(found.log_q_given_x, parts[torch.arange(5), torch.from_numpy(positions)])


def test_a_label_that_the_guide_enumerates_belongs_to_the_code():
    model, guide, (x,), _ = oracles.categorical("guide")
    x, truth, drawn = x[:40], oracles.LinearMixture(oracles.random(3, 3, seed=4)), []
    found = run(model, guide, x, drawn=drawn)
    y, z = collected(drawn, "y"), collected(drawn, "z")
    loc, scale = truth.posterior(x)
    logits = (0.8 * truth.log_joint(x)).log_softmax(-1)
    parts = Normal(loc[:, y] + oracles.SHIFT, oracles.WIDE * scale[y]).log_prob(z).sum(-1)
    parts = (parts + logits[:, y]).T  # [draw, datum]
    assert len(y.unique()) == 3
    assert_same(found.log_q_given_x, parts.diagonal())
    assert_same(found.log_q_marginal, parts.logsumexp(1) - math.log(40))
    prior = Normal(truth.means[y], truth.scales[y][:, None]).log_prob(z).sum(-1)
    assert_same(found.log_prior, truth.probs.log()[y] + prior)


def test_a_label_that_only_the_model_enumerates_is_summed_out_of_the_prior():
    model, guide, (x,), _ = oracles.categorical("model")
    x, truth, drawn = x[:40], oracles.LinearMixture(), []
    found = run(model, guide, x, drawn=drawn)
    z = collected(drawn, "z")
    parts = Normal(truth.means, truth.scales[:, None])
    prior = MixtureSameFamily(
        Categorical(truth.probs), torch.distributions.Independent(parts, 1)
    ).log_prob(z)
    assert_same(found.log_prior, prior)


def test_a_discrete_code():
    """Four labels, each certain: I = log 4, and q(z) is the labels' shares."""
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(probs))
            pyro.sample("x", dist.Normal(y.double(), 0.1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = -1e3 * (x[:, None] - torch.arange(4)) ** 2
            pyro.sample("y", dist.Categorical(logits=logits))

    x = (torch.arange(80) % 4).double()
    found = run(model, guide, x)
    assert abs(found.mutual_information - math.log(4)) < 1e-6
    assert found.marginal_kl == pytest.approx((0.25 * (0.25 / probs).log()).sum().item(), 1e-6)


@pytest.mark.parametrize("two", [False, True])
def test_one_code_of_each_datum_is_counted(two, monkeypatch):
    """As by the densities of all data at all codes, in N encodings."""
    torch.manual_seed(0)
    k = torch.randint(3, (70, 2)) * torch.tensor([1, int(two)])
    x = torch.nn.functional.one_hot(k, 3).float()[:, : 1 + two]

    def model(x):
        with pyro.plate("data", len(x)):
            p = dist.OneHotCategorical(torch.tensor([0.5, 0.2, 0.3]))
            z = [pyro.sample(f"z_{i}", p) for i in range(1 + two)]
            loc = torch.stack(z, -1).sum(-1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x[..., 0, :])

    def guide(x):
        with pyro.plate("data", len(x)):
            for i in range(1 + two):
                pyro.sample(f"z_{i}", dist.Delta(x[..., i, :], event_dim=1))

    found = run(model, guide, x)
    calls = []
    original = module._against_all
    monkeypatch.setattr(module, "_against_all", lambda *a: calls.append(1) or original(*a))
    monkeypatch.setattr(module, "gives_one_code", lambda structure: False)
    slow = run(model, guide, x)
    assert calls
    np.testing.assert_array_equal(found.log_q_given_x, 0)
    share = [(k == row).all(1).float().mean().log().item() for row in k[slow.datum]]
    np.testing.assert_allclose(slow.log_q_marginal, share, rtol=1e-5)
    np.testing.assert_allclose(found.log_q_marginal[slow.datum], share, rtol=1e-5)
    np.testing.assert_allclose(found.log_prior[slow.datum], slow.log_prior)
    assert len(found) == len(x)


def test_the_second_site_depends_on_the_first():
    model, guide, (x,), _ = oracles.hierarchy()
    x, drawn = x[:30], []
    found = run(model, guide, x, drawn=drawn)
    z_1, z_2 = collected(drawn, "z_1"), collected(drawn, "z_2")
    with pyro.poutine.block():
        nodes = pyro.poutine.trace(guide).get_trace(x).nodes
    first, second = nodes["z_1"]["fn"], nodes["z_2"]["fn"]
    # The second site's mean is linear in z_1: taken from what the guide says at z_1 = 0 and e_i.
    weight = torch.linalg.lstsq(nodes["z_1"]["value"], second.loc - oracles.SHIFT).solution
    loc = z_1 @ weight + oracles.SHIFT
    parts = MultivariateNormal(first.loc, scale_tril=first.scale_tril).log_prob(z_1[:, None])
    parts = parts + MultivariateNormal(loc, scale_tril=second.scale_tril[0]).log_prob(z_2)[:, None]
    assert_same(found.log_q_marginal, parts.logsumexp(1) - math.log(30))
    assert_same(found.log_q_given_x, parts.diagonal())


@pytest.mark.parametrize("strategy", ["tile", "loop"])
def test_layouts_agree(strategy):
    model, guide, (x,), _ = oracles.categorical("guide")
    x = x[:12]
    expected, found = run(model, guide, x), run(model, guide, x, strategy=strategy)
    assert_same(found.log_q_marginal, torch.from_numpy(expected.log_q_marginal))
    assert_same(found.log_prior, torch.from_numpy(expected.log_prior))


def test_a_model_that_cannot_have_a_particle_plate_costs_one_encoding_for_each_block():
    rows = []

    def count(x):
        rows.append(len(x))
        return 0.5 * x

    decoder = nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=1)).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    _, guide = gaussian_pair(count, lambda x: torch.full_like(x, 0.3))
    x = oracles.random(200, 2, seed=0)
    with pytest.warns(UserWarning, match="uses a tile"):
        run(model, guide, x)
    assert sum(rows) < 10 * 200


def test_the_seed_decides():
    x = oracles.random(40, 2, seed=0)
    model, guide = gaussian_pair(lambda x: 0.7 * x, lambda x: torch.full_like(x, 0.4))
    first, same, other = (run(model, guide, x, seed=s) for s in (1, 1, 2))
    assert (first.log_q_marginal == same.log_q_marginal).all()
    assert (first.log_q_marginal != other.log_q_marginal).all()


def test_round_trip():
    x = oracles.random(10, 2, seed=0)
    found = run(*gaussian_pair(lambda x: x, lambda x: torch.full_like(x, 0.4)), x)
    again = AggregatePosterior.from_dataset(found.to_dataset())
    assert again.num_data == 10
    assert again.rate == found.rate
    for name in ("datum", "log_q_given_x", "log_q_marginal", "log_prior"):
        assert (getattr(again, name) == getattr(found, name)).all()


class OneWay(torch.distributions.Transform):
    """A flow without an inverse."""

    domain = codomain = torch.distributions.constraints.real
    bijective = True

    def _call(self, x):
        return x + 0.1 * x**3

    def _inverse(self, y):
        raise NotImplementedError("no inverse")

    def log_abs_det_jacobian(self, x, y):
        return (1 + 0.3 * x**2).log()


@pytest.mark.filterwarnings("ignore:log_weights uses")
def test_a_flow_without_inverse_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(x, 0.5)
            fn = dist.TransformedDistribution(base, [OneWay(cache_size=1)])
            pyro.sample("z", fn.to_event(1))

    model, _ = gaussian_pair(None, None)
    with pytest.raises(PvaeError, match="away from its own samples"):
        run(model, guide, oracles.random(20, 2, seed=0))


@pytest.mark.filterwarnings("ignore:log_weights uses")
@pytest.mark.parametrize("how", ["tile", "loop"])
def test_a_guide_without_a_plate_draws_for_some_of_the_data(how, monkeypatch):
    """Each sample needs an encoding of every datum: few data have one, but q(z) is of all data."""
    monkeypatch.setattr(module, "_ENCODINGS", 12_000)

    def guide(x):
        assert how == "tile" or len(x.unique(dim=0)) == len(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.5 * x, 0.3).to_event(1))
            assert z.ndim == 2  # no plate

    def wide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.3).to_event(1))

    model, _ = gaussian_pair(None, None)
    x = oracles.random(120, 2, seed=0)
    some, whole = run(model, guide, x), run(model, wide, x)
    assert (len(some), some.num_data, len(whole)) == (100, 120, 120)
    assert len(set(some.datum)) == 100
    assert (np.diff(some.datum) > 0).all()
    for name in ("rate", "mutual_information", "marginal_kl"):
        assert getattr(some, name) == pytest.approx(getattr(whole, name), abs=0.6)
    drawn: list[dict] = []
    again = run(model, guide, x, drawn=drawn)
    z = collected(drawn, "z")[-100:]  # before them, a few to try the guide with
    q = Normal(0.5 * x, 0.3)
    expected = q.log_prob(z[:, None]).sum(-1).logsumexp(1) - math.log(120)
    np.testing.assert_allclose(again.log_q_marginal, expected, rtol=1e-10)


def test_an_auxiliary_site_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            noise = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
            a = pyro.sample("a", noise, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x + a, 0.5).to_event(1))

    model, _ = gaussian_pair(None, None)
    with pytest.raises(PvaeError, match="'a', which the model does not have"):
        run(model, guide, oracles.random(20, 2, seed=0))


def test_a_chain_draws_for_some_of_the_data(monkeypatch):
    """Its upper networks see each sample for each datum."""
    from zoo import make

    *pair, _ = make("two layers")
    x = pvae.data.load("digits").test.tensors()[0][:120]
    whole = run(*pair, x)
    monkeypatch.setattr(module, "_ENCODINGS", 1_200)
    some = run(*pair, x)
    assert (len(some), some.num_data, len(whole)) == (100, 120, 120)
    assert some.mutual_information == pytest.approx(whole.mutual_information, abs=0.6)
