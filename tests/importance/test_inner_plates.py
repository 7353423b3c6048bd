"""Sites that are summed out in inner plates: at each index by itself, in guide, model and both."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from plates import SUM, Nested, Pixels
from pyro.infer import TraceEnum_ELBO

import pvae
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

SAID = r"Log p\(x\) .*'y'.* plate 'codes'.* 2\^4 terms.*sample"


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=tolerance
    )


def drawn(pair, num=3, **options):
    """Draws num samples, and their z, [num, B]."""
    with Sampler(inspect(pair.model, pair.guide, *pair.batch, plate="data"), **options) as sampler:
        torch.manual_seed(1)
        draws = next(sampler.stream(pair.batch, num))
        torch.manual_seed(1)
        rows = sampler.particles.rows_of(sampler.particles.guide(pair.batch, num), num, 4)
    return draws, rows["z"].reshape(num, 4)


@pytest.mark.parametrize("strategy", ["plate", "tile", "loop"])
@pytest.mark.parametrize("where", ["guide", "model"])
@pytest.mark.parametrize("kind", [{}, {"one_hot": True}, {"right": True}, {"mask": True},
                                  {"mask": True, "one_hot": True, "right": True}])  # fmt: skip
def test_pixels_with_a_component_each(where, kind, strategy):
    pair = Pixels(where, **kind)
    draws, z = drawn(pair, 1 if strategy == "loop" else 3, strategy=strategy)
    for k in range(len(z)):
        log_w, elbo = pair.expected(z[k])
        close(draws.log_w[k], log_w)
        close(draws.elbo[k], elbo)


@pytest.mark.parametrize("inside", ["", "s", "sy", "syr", "syrt"])
def test_plates_in_plates_and_two_plates_of_one_dimension(inside):
    pair = Nested(inside)
    log_px, elbo, kl = pair.expected()
    log_w = pvae.log_weights(pair.model, pair.guide, *pair.batch, num_samples=2)
    close(log_w, log_px.expand(2, -1))
    with Sampler(inspect(pair.model, pair.guide, *pair.batch)) as sampler:
        draws = next(sampler.stream(pair.batch, 1))
    close(draws.elbo[0], elbo)
    for name in inside:
        close(draws.kl[name][0], kl[name])
    if inside in ("", "s", "syrt"):  # Pyro refuses the others, where t is not in the plate of y
        theirs = TraceEnum_ELBO(max_plate_nesting=3).loss(pair.model, pair.guide, *pair.batch)
        close(-theirs, elbo.sum())


def test_the_expectation_of_a_log_of_a_product_of_sums_is_refused():
    """E_q[log Σ_s p(s) Π_d f(s, y_d)] over y in a plate, with s of the model alone outside it."""
    pair = Nested("y")
    with pytest.raises(pvae.PvaeError, match="does not factorise"):
        pvae.log_weights(pair.model, pair.guide, *pair.batch, num_samples=1)


@pytest.mark.filterwarnings("ignore:The ELBO surgery was left out")
@pytest.mark.parametrize("where", ["guide", "model"])
@pytest.mark.parametrize("mask", [False, True])
def test_every_estimator_agrees(where, mask):
    pair = Pixels(where, mask=mask, size=8)
    options = {"num_samples": 2000, "ais": 4, "num_temperatures": 40, "gap": 2, "quadrature": True}
    found = evaluate(pair.model, pair.guide, pair.batch, progress=False, **options)
    z = torch.linspace(-8, 8, 4001)
    log_w = torch.stack([pair.expected(torch.full((8,), float(v)))[0] for v in z])
    log_q = dist.Normal(pair.batch[0].mean(1), 0.9).log_prob(z[:, None])
    exact = (log_w + log_q).logsumexp(0) + (z[1] - z[0]).log()
    close(found.findings["quadrature"].log_px, exact, 1e-6)
    assert (torch.as_tensor(found.log_px) - exact).abs().max() < 0.2
    for name in ("prior", "ais_prior", "ais_guide", "gap"):
        of = found.findings[name]
        assert (torch.as_tensor(of.log_px) - exact[of.datum]).abs().max() < 0.4, name
    assert (of.elbo_best < of.log_px + 0.2).all()
    assert of.elbo == pytest.approx(found.elbo[of.datum], abs=0.5)
    assert set(found.missing) == ({"surgery"} if mask and where == "guide" else set())


def components(inside):
    r"""s ~ Bernoulli, y_d ~ Cat, z_d ~ N(μ_y + s / 2, 1), x_d ~ N(z_d, 0.7), and log p(x), [B].

    The guide has z, and those of s and y that are `inside`.
    """
    x, p = torch.randn(4, 3), torch.tensor([0.4, 0.6])
    mu, lam = torch.tensor([-1.0, 1.5]), torch.tensor([-0.6, 0.9])

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            s = pyro.sample("s", dist.Bernoulli(0.3), infer=SUM)
            with pyro.plate("pixels", 3, dim=-2):
                y = pyro.sample("y", dist.Categorical(p), infer=SUM)
                z = pyro.sample("z", dist.Normal(mu[y] + 0.5 * s, 1.0))
                pyro.sample("x", dist.Normal(z, 0.7), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            s = torch.zeros(())
            if "s" in inside:
                s = pyro.sample("s", dist.Bernoulli(logits=x.sum(1)), infer=SUM)
            with pyro.plate("pixels", 3, dim=-2):
                shift = torch.tensor(0.1)
                if "y" in inside:
                    fn = dist.Categorical(logits=torch.stack([-x.T, x.T], -1))
                    shift = lam[pyro.sample("y", fn, infer=SUM)]
                pyro.sample("z", dist.Normal(0.6 * x.T + shift + 0.2 * s, 0.8))

    seen = dist.Normal(mu + torch.tensor([[0.0], [0.5]]), 1.49**0.5).log_prob(x[..., None, None])
    given_s = (seen + p.log()).logsumexp(-1).sum(1)  # [B, s]
    return model, guide, x, (given_s + torch.tensor([0.7, 0.3]).log()).logsumexp(-1)


@pytest.mark.parametrize("inside", ["", "s", "sy"])
def test_latents_that_follow_a_site_of_the_plate(inside):
    """Of z_d there is a sample for each value of s and y_d."""
    model, guide, x, exact = components(inside)
    with Sampler(inspect(model, guide, x, plate="data")) as sampler:
        draws = next(sampler.stream((x,), 8000))
    weight, num = (draws.log_w - exact).exp(), len(draws.log_w)
    assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / num**0.5).all()
    assert weight.std(0).max() < 2
    close(draws.rate, sum(draws.kl.values()))
    theirs = TraceEnum_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=3)
    error = (draws.elbo.var(0).sum() * (1 / num + 1 / 4000)).sqrt()
    assert abs(draws.elbo.mean(0).sum() + theirs.loss(model, guide, x)) < 5 * error
    found = evaluate(model, guide, x, num_samples=500, prior_samples=500, progress=False)
    assert found.missing == {}
    assert abs(found.findings["prior"].log_px - exact.numpy()).max() < 0.3


def dependent(how):
    """Codes in a plate, and data that depend on several of them, or on one each."""
    x, w, marks = torch.randn(5, 4), torch.randn(4, 4), SUM | {"expand": True}

    def model(x):
        codes = pyro.plate("codes", 4, dim=-2)
        with pyro.plate("data", len(x), dim=-1):
            with codes:
                y = pyro.sample("y", dist.Bernoulli(0.5), infer=marks)
            if how == "outside":
                loc = y.movedim(-2, -1) @ w
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
                return
            with codes:
                loc = y + y.roll(1, -2) if how == "neighbours" else y
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("codes", 4, dim=-2):
            pyro.sample("y", dist.Bernoulli(logits=x.T), infer=marks)

    return model, guide, x


@pytest.mark.parametrize("how", ["outside", "neighbours"])
def test_codes_that_are_read_together_are_refused(how):
    model, guide, x = dependent(how)
    with pytest.raises(pvae.PvaeError, match=SAID):
        pvae.log_weights(model, guide, x, num_samples=1)
    # Pyro sees a density outside of the plate, and adds up the neighbours' without a word.
    said = SAID if how == "neighbours" else "TraceEnum_ELBO failed: .*site 'x'"
    with pytest.raises(pvae.PvaeError, match=said):
        pvae.fit(model, guide, x, epochs=1, progress=False)
    model, guide, x = dependent("one each")
    log_p = torch.stack([dist.Normal(v, 1.0).log_prob(x) for v in (0.0, 1.0)])
    exact = (log_p.logsumexp(0) - torch.tensor(2.0).log()).sum(1)
    close(pvae.log_weights(model, guide, x, num_samples=1)[0], exact)


class Stubborn(Pixels):
    """Its lookup does not broadcast."""

    def model(self, x, given, known):
        data, pixels = self.plates(len(x))
        with data:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pixels:
                y = self.label(self.lay(self.logits[None]), given, known)
                loc = self.means[y.expand(3, len(x))] + self.w[:, None] * z
                pyro.sample("x", dist.Normal(loc, 0.7), obs=x.T)


@pytest.mark.filterwarnings("ignore:log_weights uses a tile")
@pytest.mark.parametrize("where", ["guide", "model"])
def test_a_program_that_takes_one_value_at_a_time(where):
    pair = Stubborn(where)
    with pytest.warns(UserWarning, match="one value at a time"):
        draws, z = drawn(pair, strategy="loop", num=1)
    close(draws.log_w[0], pair.expected(z[0])[0])
    close(draws.elbo[0], pair.expected(z[0])[1])


def test_plates_that_are_written_as_loops():
    x = torch.randn(4, 3)

    def model(x):
        with pyro.plate("data", len(x)):
            for d in pyro.plate("pixels", 3):
                y = pyro.sample(f"y_{d}", dist.Bernoulli(0.3), infer=SUM)
                pyro.sample(f"x_{d}", dist.Normal(y, 1.0), obs=x[:, d])

    log_p = torch.stack([dist.Normal(v, 1.0).log_prob(x) for v in (0.0, 1.0)])
    exact = (log_p + torch.tensor([0.7, 0.3]).log()[:, None, None]).logsumexp(0).sum(1)
    close(pvae.log_weights(model, lambda x: None, x, num_samples=1)[0], exact)
