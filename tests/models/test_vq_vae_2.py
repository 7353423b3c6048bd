"""VQVAE2, NearestCodes and HierarchicalCodes: two maps of codes, all of which can be enumerated."""

import itertools

import numpy as np
import pytest
import torch
from pyro import poutine

import pvae
from pvae import guides, models
from pvae.errors import PvaeError

SHAPE, K = (1, 4, 4), 3
NETWORK = {"channels": ((4,), (4,)), "num_blocks": 1}
MAPS = (2, 2), (1, 1)
EVERY = torch.tensor(list(itertools.product(range(K), repeat=5)))  # z_1, then z_2
Z_1, Z_2 = EVERY[:, :4].view(-1, 2, 2), EVERY[:, 4:].view(-1, 1, 1)


def density(num_classes=None, **options):
    sizes = {"num_codes": K, "channels": 4, "num_layers": 2, "num_classes": num_classes}
    return models.HierarchicalCodes(MAPS, **sizes | options)


def pair(kind=models.VQVAE2, **options):
    torch.manual_seed(0)
    model = kind(SHAPE, **{"num_codes": K, "code_dim": 2} | NETWORK | options)
    return model, guides.NearestCodes(model, SHAPE, **NETWORK)


def one_hot(k):
    return torch.nn.functional.one_hot(k, K).float()


@torch.no_grad()
def joint(model, x, *y):
    """Returns log p(x, z_1, z_2) for every z, [S, B], from the terms of the definition."""
    likelihood = model.likelihood(one_hot(Z_1)[:, None], one_hot(Z_2)[:, None])
    log_p = likelihood.expand((len(EVERY), len(x))).log_prob(x)
    if model.code_prior is None:
        return log_p - 5 * torch.tensor(float(K)).log()
    prior = model.code_prior["density"]
    rows = [prior.log_px(Z_1, Z_2, *(each.expand(len(EVERY)) for each in given))
            for given in zip(*y, strict=True)] if y else [prior.log_px(Z_1, Z_2)]  # fmt: skip
    return log_p + torch.stack(rows, -1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, its data, which have labels, and its codes."""
    torch.manual_seed(0)
    folder, y = tmp_path_factory.mktemp("runs"), torch.arange(120) % 2
    x = (torch.rand(120, *SHAPE) < 0.2 + 0.6 * y.view(-1, 1, 1, 1)).float()
    x[:, :, :2] = x[:, :, :1].round()
    np.savez(folder / "data.npz", x=x, y=y)
    data, run = pvae.data.load(folder / "data.npz", labels=True), folder / "vq"
    pvae.fit(*pair(), data, epochs=30, batch_size=40, lr=1e-2, out=run, progress=False)
    return run, data, pvae.codes(run, labels=True)


def test_the_bound_is_log_p_of_x_and_its_codes_and_lies_below_log_p(trained):
    run, data, codes = trained
    model, guide = pvae.load(run)
    assert model.map_shapes == MAPS
    every = joint(model.eval(), data.test.x)
    place = torch.cat([codes.test.fields[n].flatten(1) for n in ("z_1", "z_2")], -1)
    at_code = every.gather(0, (place @ K ** torch.arange(4, -1, -1))[None])[0].double()
    found = pvae.evaluate(model, guide, data, num_samples=[1, 3], progress=False)
    assert found.one_code
    assert found.strategy == "plate"
    torch.testing.assert_close(torch.as_tensor(found.elbo), at_code, rtol=0, atol=1e-4)
    assert (torch.as_tensor(found.elbo) <= every.logsumexp(0).double() + 1e-4).all()
    assert {*found.findings["code_use"].shares} == {"z_1", "z_2"}
    assert len(codes.train.fields["z_1"].unique()) > 1


def test_codes_are_the_nearest_vectors_from_the_top_down(trained):
    run, data, codes = trained
    assert codes.train.names == ("z_2", "z_1", "y")
    assert (codes.test.fields["z_1"].shape[1:], codes.test.fields["z_2"].shape[1:]) == MAPS
    assert torch.equal(codes.test.y, data.test.y)
    model, guide = pvae.load(run)
    with torch.no_grad():
        h = guide.encoder(data.test.x)
        e_2 = model.codebooks[1].weight
        h_2 = guide.top(h.movedim(-1, 1))
        k_2 = torch.cdist(h_2.flatten(1, 2), e_2).argmin(-1).view(-1, 1, 1)
        u = model.up(e_2[k_2]).movedim(1, -1)
        h_1 = guide.bottom(torch.cat([h, u], -1)).flatten(1, 2)
        k_1 = torch.cdist(h_1, model.codebooks[0].weight).argmin(-1).view(-1, 2, 2)
        f = model.decoder(torch.cat([model.codebooks[0].weight[k_1], u], -1))
        expected = torch.distributions.Bernoulli(logits=f).log_prob(data.test.x).sum((1, 2, 3))
        found = model.likelihood(one_hot(k_1), one_hot(k_2)).log_prob(data.test.x)
    torch.testing.assert_close(found, expected)
    assert torch.equal(k_2, codes.test.fields["z_2"])
    assert torch.equal(k_1, codes.test.fields["z_1"])


@pytest.mark.parametrize("num_classes", [None, 2])
def test_a_prior_is_trained_on_codes_and_composed(trained, num_classes):
    run, data, codes = trained
    torch.manual_seed(1)
    prior, nothing = density(num_classes), guides.NoLatents()
    pvae.fit(prior, nothing, codes, epochs=25, batch_size=18, lr=1e-2, progress=False)
    labels = [] if num_classes is None else [torch.tensor([0, 1])]
    with torch.no_grad():
        for y in zip(*labels, strict=True) if labels else [()]:
            log_p = prior.log_px(Z_1, Z_2, *(each.expand(len(EVERY)) for each in y))
            assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-5)
    kind = models.ConditionalVQVAE2 if num_classes else models.VQVAE2
    model, guide = pair(kind, prior=prior)
    pvae.warm_start(model, guide, run)
    x, y = data.test.tensors()
    every = joint(model.eval(), x, *([y] if num_classes else []))
    found = pvae.evaluate(model, guide, data, num_samples=1, progress=False)
    place = torch.cat([codes.test.fields[n].flatten(1) for n in ("z_1", "z_2")], -1)
    at_code = every.gather(0, (place @ K ** torch.arange(4, -1, -1))[None])[0].double()
    torch.testing.assert_close(torch.as_tensor(found.elbo), at_code, rtol=0, atol=1e-4)
    alone = pvae.evaluate(prior, nothing, codes, num_samples=1, estimators=[], progress=False)
    assert torch.as_tensor(found.kl).mean() == pytest.approx(-alone.elbo.mean(), abs=1e-4)
    uniform = pvae.evaluate(*pvae.load(run), data, num_samples=1, progress=False)
    assert found.elbo.mean() > uniform.elbo.mean() + 0.5


def test_samples_follow_the_labels_and_the_codes_above():
    """All codes of both maps have the frequencies that log p(z_1, z_2 | y) says."""
    torch.manual_seed(0)
    prior, num = density(2), 6000
    y = (EVERY.sum(-1) > 5).long()
    data = {"z_1": Z_1, "z_2": Z_2, "y": y}
    pvae.fit(prior, guides.NoLatents(), data, epochs=30, lr=2e-2, batch_size=81, progress=False)
    with torch.no_grad():
        model, _ = pair(models.ConditionalVQVAE2, prior=prior)
        p = torch.stack([prior.log_px(Z_1, Z_2, torch.full_like(y, k)).exp() for k in range(2)])
        with poutine.trace() as trace:
            model(y=torch.tensor([0, 1]).repeat_interleave(num), size=2 * num)
    k = [trace.trace.nodes[site]["value"].argmax(-1).flatten(1) for site in ("z_1", "z_2")]
    place = (torch.cat(k, -1) @ K ** torch.arange(4, -1, -1)).view(2, num)
    share = torch.stack([row.bincount(minlength=len(EVERY)) for row in place]) / num
    error = (p * (1 - p) / num).sqrt()
    assert ((share - p).abs() < 5 * error + 1e-3).all()
    assert (p[0] - p[1]).abs().sum() > 1
    given_z_2 = p.view(2, K**4, K) / p.view(2, K**4, K).sum(1, keepdim=True)
    assert given_z_2.std(-1).max() > 1e-3, "z_1 depends on z_2"
    assert (given_z_2[0] - given_z_2[1]).abs().max() > 1e-3, "and on y"


def test_bad_input_is_one_message():
    with pytest.raises(PvaeError, match=r"VAE is not a model of two maps of codes: give a Hier"):
        pair(prior=models.VAE(SHAPE))
    with pytest.raises(PvaeError, match=r"maps of codes .* with 5 values; this model has .* 3"):
        pair(prior=density(num_codes=5))
    with pytest.raises(PvaeError, match="num_classes=2, which is for ConditionalVQVAE2"):
        pair(prior=density(2))
    with pytest.raises(PvaeError, match="num_classes=None, which is for VQVAE2"):
        pair(models.ConditionalVQVAE2, prior=density())
    with pytest.raises(PvaeError, match="no y was given"):
        pvae.generate(pair(models.ConditionalVQVAE2, prior=density(2))[0], 3)
    with pytest.raises(PvaeError, match="no y was given"):
        density(2)(Z_1, Z_2)
    with pytest.raises(PvaeError, match="y holds 2, but the labels of this model are 0 to 1"):
        density(2)(Z_1, Z_2, torch.full((len(EVERY),), 2))
    with pytest.raises(PvaeError, match="observed values between 3 and 3 lie outside"):
        pvae.check(density(), guides.NoLatents(), Z_1, Z_2 + 1)
    with pytest.raises(PvaeError, match="the second one must be the first one, halved once or"):
        models.HierarchicalCodes(((4, 4), (3, 3)))
    with pytest.raises(PvaeError, match="give the channels of two decoders"):
        pair(channels=((4,),))
    large = models.VQVAE2((1, 8, 8), num_codes=K, **NETWORK)
    with pytest.raises(PvaeError, match=r"give maps of \(\(2, 2\), .* the model has \(\(4, 4\)"):
        guides.NearestCodes(large, (1, 8, 8), channels=((4, 4), (4,)))
    with pytest.raises(PvaeError, match="VQVAE has not two codebooks"):
        guides.NearestCodes(models.VQVAE((1, 8, 8)), (1, 8, 8))
