"""Semi-amortised inference: the steps, their gradient, and what they are worth."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

import pvae
from pvae import PvaeError
from pvae.guides import MeanField, SemiAmortised
from pvae.models import VAE, HierarchicalVAE, MixturePriorVAE
from pvae.pair.parameters import OwnParameters

SHAPE = (1, 8, 8)


def pair(prior=VAE, **options):
    torch.manual_seed(0)
    model = prior(SHAPE, 3, hidden_dims=[16], activation="tanh")
    return model, SemiAmortised(model, SHAPE, 3, hidden_dims=[16], activation="tanh", **options)


def digits(size=40):
    return pvae.data.load("digits").train.tensors()[0][:size]


@pytest.mark.parametrize("prior", [VAE, MixturePriorVAE])
def test_a_step_is_that_of_the_docstring(prior):
    model, guide = pair(prior, num_steps=1, step_size=0.3)
    model.double(), guide.double()
    x = digits(4).double()
    loc, scale = guide.start(x)
    signs = guide.signs[0]

    def elbo(a, b):
        """At two points, up to a constant: the entropy of a Gaussian is the sum of its logs."""
        z = loc + scale * (a + b.exp() * signs)
        log_p = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)
        return (log_p.mean(0) + (scale * b.exp()).log().sum(-1)).sum()

    zero = torch.zeros_like(loc)
    a, b = ((0.3 * g).tanh() for g in torch.autograd.functional.jacobian(elbo, (zero, zero)))
    for ours, theirs in zip(guide.encode(x), (loc + scale * a, scale * b.exp()), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_is_a_function_of_each_datum_alone_with_gradients_or_without():
    _, guide = pair()
    x = digits()
    together = guide.encode(x)
    with torch.no_grad():
        again = guide.encode(x)
        assert not again[0].requires_grad
        alone = [
            torch.cat(t) for t in zip(*(guide.encode(x[i : i + 1]) for i in range(40)), strict=True)
        ]
    for one, two, three in zip(together, again, alone, strict=True):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["encoder", "model"])
def test_gradient_flows_through_the_steps(side):
    model, guide = pair(num_steps=3)
    model.double(), guide.double()
    x = digits(5).double()
    network = guide.encoder if side == "encoder" else model.decoder
    weight, direction = network.layers[0].weight, torch.randn_like(network.layers[0].weight)

    def loss():
        return sum(t.sin().sum() for t in guide.encode(x))

    (slope,) = torch.autograd.grad(loss(), weight)
    start, h = weight.detach().clone(), 1e-5
    values = []
    for sign in (1, -1):
        weight.data = start + sign * h * direction
        values.append(float(loss().detach()))
    expected = (values[0] - values[1]) / (2 * h)
    assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 1e-3


def test_steps_raise_the_elbo_above_that_of_its_own_encoder():
    data = pvae.data.load("digits")
    model, guide = pair()
    pvae.fit(model, guide, data, epochs=10, mode="eager", progress=False)
    own = MeanField(SHAPE, 3, encoder=guide.encoder)
    (x,) = data.test.tensors()
    refined, unrefined = (
        pvae.log_weights(model, g, x, num_samples=50).mean(0) for g in (guide, own)
    )
    assert (refined > unrefined).float().mean() > 0.8
    assert refined.mean() > unrefined.mean() + 0.5
    # And of an encoder that was not trained for the steps.
    plain = MeanField(SHAPE, 3, hidden_dims=[16], activation="tanh")
    pvae.fit(model, plain, data, epochs=10, mode="eager", progress=False)
    guide.encoder.load_state_dict(plain.encoder.state_dict())
    refined, unrefined = (
        pvae.log_weights(model, g, x, num_samples=50).mean(0) for g in (guide, plain)
    )
    assert refined.mean() > unrefined.mean() + 0.1


def test_nothing_of_the_steps_is_seen_outside():
    model, guide = pair()
    structure = pvae.check(model, guide, digits(4))
    names = [n for n, site in structure.guide_trace.nodes.items() if site["type"] == "sample"]
    assert [n for n in names if n not in ("data",)] == ["z"]
    pyro.clear_param_store()
    with OwnParameters(model, guide) as own:
        guide.encode(digits(4))
        assert not len(pyro.get_param_store())
    assert {"model.decoder.layers.0.weight"} < own.parameters.keys()
    assert not any(name.startswith("model") for name in guide.state_dict())


def test_the_same_steps_after_loading(tmp_path):
    model, guide = pair()
    x = digits()
    pvae.fit(model, guide, x, epochs=1, batch_size=20, out=tmp_path, progress=False)
    torch.manual_seed(5)
    other = VAE(SHAPE, 3, hidden_dims=[16], activation="tanh")
    again = SemiAmortised(other, SHAPE, 3, hidden_dims=[16], activation="tanh")
    assert not torch.equal(again.signs, guide.signs)
    pvae.load(tmp_path, model=other, guide=again)
    for ours, theirs in zip(again.encode(x), guide.encode(x), strict=True):
        assert torch.equal(ours, theirs)


class OtherName(PyroModule):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            code = pyro.sample("code", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(code, 1.0).to_event(1), obs=x)


def test_bad_arguments():
    model, _ = pair()
    for name in ("num_steps", "latent_dim"):
        with pytest.raises(PvaeError, match=f"{name}=0: it must be at least 1"):
            SemiAmortised(model, SHAPE, **{"latent_dim": 3, name: 0})
    with pytest.raises(PvaeError, match="step_size=0 is not valid: give a positive number"):
        SemiAmortised(model, SHAPE, 3, step_size=0)
    with pytest.raises(PvaeError, match=r"one latent site, 'z'.*HierarchicalVAE.*'z_"):
        SemiAmortised(HierarchicalVAE(SHAPE), SHAPE, 3)(digits(2))
    with pytest.raises(PvaeError, match=r"one latent site, 'z'.*of OtherName are 'code'"):
        SemiAmortised(OtherName(), (3,), 3)(torch.zeros(2, 3))
