"""NearestCode and VQVAE: a point mass on discrete codes, whose bound is log p(x, z(x))."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

import pvae
from pvae import guides, models
from pvae.errors import PvaeError

SMALL = {"channels": (4,), "num_blocks": 1}


def pair(shape=(1, 4, 4), num_codes=3, channels=(4, 4), **options):
    torch.manual_seed(0)
    made = {"channels": channels, "num_blocks": 1}
    model = models.VQVAE(shape, num_codes=num_codes, code_dim=2, **made, **options)
    return model, guides.NearestCode(model, shape, **made)


def exact(model, x):
    """Returns log p(x, z) for every z, [S, B]."""
    places = int(np.prod(model.map_shape))
    eye = torch.eye(model.codebook.num_codes)
    rows = []
    for codes in itertools.product(range(len(eye)), repeat=places):
        z = eye[list(codes)].reshape(1, *model.map_shape, -1)
        prior = model.prior().log_prob(z[0])
        rows.append(model.likelihood(z.expand(len(x), *z.shape[1:])).log_prob(x) + prior)
    return torch.stack(rows)


def test_the_bound_is_log_p_of_x_and_its_code_and_lies_below_log_p(tmp_path):
    model, guide = pair((1, 8, 8))
    x = (torch.rand(20, 1, 8, 8) < 0.5).float()
    pvae.fit(model, guide, x, epochs=20, batch_size=10, lr=1e-2, progress=False)
    assert model.map_shape == (2, 2)
    with torch.no_grad():
        joint = exact(model.eval(), x)
        codes = guide.eval()(x).argmax(-1).flatten(1)  # [B, 4]
        index = (codes * 3 ** torch.arange(3, -1, -1)).sum(-1)
    at_code = joint.gather(0, index[None])[0].double().numpy()
    log_w = pvae.log_weights(model, guide, x, num_samples=3)
    assert np.allclose(log_w.numpy(), at_code, atol=1e-4)
    found = pvae.evaluate(
        model, guide, x, num_samples=[1, 9], estimators=[], progress=False, out=tmp_path
    )
    again = pvae.evaluate(model, guide, x, num_samples=[1, 9], progress=False, out=tmp_path)
    assert again.one_code
    assert np.array_equal(again.bounds[9], found.bounds[9])
    assert np.allclose(found.elbo, at_code, atol=1e-4)
    assert (found.elbo <= joint.logsumexp(0).double().numpy() + 1e-4).all()
    assert found.one_code
    assert found.num_samples == 1
    assert all(np.array_equal(found.bounds[k], found.elbo) for k in (1, 9))
    assert "every bound is log p(x, z(x))" in found.verdict
    assert "k̂" not in found.verdict
    assert not any(word in found.table() for word in ("L_1", "JVI", "PSIS", "samples each", "ESS"))


def test_training_finds_codes_and_vectors_that_raise_the_bound():
    digits = pvae.data.load("digits")
    for decay in (None, 0.99):
        model, guide = pair((1, 8, 8), num_codes=16, channels=(16,), decay=decay)
        history = pvae.fit(model, guide, digits, epochs=4, progress=False, lr=1e-2).history
        assert history[-1]["elbo"] > history[0]["elbo"] + 15
        z = guide.eval()(digits.test.x)
        assert (z.sum((0, 1, 2)) > 0).sum() >= 8


def test_the_loss_is_that_of_the_paper():
    """Recomputed by hand, with the straight-through trick written as in the paper's code."""
    model, guide = pair((1, 8, 8), decay=None)
    model.codebook.restart = 0
    x = (torch.rand(6, 1, 8, 8) < 0.5).float()
    loss = Trace_ELBO().differentiable_loss(model, guide, x)
    loss.backward()
    found = {n: p.grad.clone() for m in (model, guide) for n, p in m.named_parameters()}
    model.zero_grad()
    guide.zero_grad()
    h, weight = guide.encode(x), model.codebook.weight
    index = torch.cdist(h.flatten(0, -2), weight).argmin(-1)
    e = weight[index].reshape(h.shape)
    likelihood = model.head(model.decoder(h + (e - h).detach()))
    prior = -np.log(3) * index.numel()
    penalty = (h.detach() - e).square().sum() + (h - e.detach()).square().sum()
    expected = -(likelihood.log_prob(x).sum() + prior) + penalty
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for module in (model, guide):
        for name, parameter in module.named_parameters():
            assert torch.allclose(found[name], parameter.grad, atol=1e-4), name


def test_two_quantised_pairs_and_one_with_samples_are_compared():
    digits = pvae.data.load("digits")
    vae = models.VAE((1, 8, 8), 2), guides.MeanField((1, 8, 8), 2)
    evaluations = {
        name: pvae.evaluate(*each, digits, num_samples=5, estimators=[], progress=False)
        for name, each in {"vq": pair((1, 8, 8)), "more": pair((1, 8, 8), 7), "vae": vae}.items()
    }
    found = pvae.compare(evaluations)
    assert [run.above_threshold for run in found.runs[:2]] == [0.0, 0.0]
    assert "numbers of samples" not in found.table()  # those of a code are not samples
    assert "more: VQVAE with NearestCode, whose log w is the same" in found.table()
    assert "the bounds rose, in nats: vae by" in found.table()
    expected = (evaluations["vae"].bounds[5] - evaluations["vq"].elbo).mean()
    assert found.runs[2].log_px.difference.mean == pytest.approx(expected, rel=1e-6)


def test_a_delta_whose_value_is_drawn_at_random_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(z.float(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(torch.randint(3, (len(x),))))

    with pytest.raises(PvaeError, match="from call to call"):
        pvae.evaluate(model, guide, torch.randn(9), num_samples=20, progress=False)


def test_a_code_that_the_model_does_not_allow_is_said():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):  # one datum, beyond those that are inspected, gets a half
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(torch.where(x > 3, 0.5, (x > 0).float())))

    x = torch.linspace(-1, 1, 100)
    x[90] = 4.0
    found = pvae.evaluate(model, guide, x, num_samples=2, estimators=[], progress=False)
    assert np.isneginf(found.elbo).nonzero()[0].tolist() == [90]
    assert "p(x, z(x)) is zero for 1 datum" in found.verdict


def test_evaluation_leaves_the_codebook_unchanged():
    model, guide = pair((1, 8, 8))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pvae.evaluate(model, guide, torch.rand(9, 1, 8, 8).round(), estimators=[], progress=False)
    pvae.inspect(model, guide, torch.rand(9, 1, 8, 8).round())
    pvae.diagnose(model, guide, torch.rand(9, 1, 8, 8).round())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_point_mass_of_another_mass_than_one_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(z.float(), 1.0), obs=x)

    def guide(x, log_density=0.0):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta((x > 0).long(), torch.tensor(log_density)))

    x = torch.tensor([-1.0, 0.5, 2.0])
    log_w = pvae.log_weights(model, guide, x, num_samples=2)
    at_code = dist.Normal((x > 0).float(), 1.0).log_prob(x) - np.log(3)
    assert torch.allclose(log_w, at_code.expand(2, -1))
    with pytest.raises(PvaeError, match=r"log_density"):
        pvae.log_weights(model, lambda x: guide(x, -5.0), x, num_samples=2)


def test_bad_input_is_one_message():
    model, _ = pair((1, 8, 8))
    with pytest.raises(PvaeError, match="VAE has no codebook"):
        guides.NearestCode(models.VAE((1, 8, 8)), (1, 8, 8))
    with pytest.raises(PvaeError, match="commitment=-1"):
        guides.NearestCode(model, (1, 8, 8), commitment=-1)
    wrong = guides.NearestCode(model, (1, 8, 8), channels=(4,))
    with pytest.raises(PvaeError, match=r"a map of \(4, 4\) codes, the model has \(2, 2\)"):
        wrong(torch.zeros(2, 1, 8, 8))
