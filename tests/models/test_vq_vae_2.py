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
        h = guide.encoders[0](data.test.x)
        e_2 = model.codebooks[1].weight
        h_2 = guide.encoders[1](h.movedim(-1, 1))
        k_2 = torch.cdist(h_2.flatten(1, 2), e_2).argmin(-1).view(-1, 1, 1)
        u = model.up[0](e_2[k_2]).movedim(1, -1)
        h_1 = guide.out[0](torch.cat([h, u], -1)).flatten(1, 2)
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
    with pytest.raises(PvaeError, match=r"VAE is not a model of maps of codes: give a Hier"):
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
    with pytest.raises(PvaeError, match="give the channels of two decoders or more"):
        pair(channels=((4,),))
    large = models.VQVAE2((1, 8, 8), num_codes=K, **NETWORK)
    with pytest.raises(PvaeError, match=r"give maps of \(\(2, 2\), .* the model has \(\(4, 4\)"):
        guides.NearestCodes(large, (1, 8, 8), channels=((4, 4), (4,)))
    with pytest.raises(PvaeError, match="VQVAE has not 2 codebooks"):
        guides.NearestCodes(models.VQVAE((1, 8, 8)), (1, 8, 8))
    with pytest.raises(PvaeError, match=r"VQVAE2 has not 3 codebooks.*of as many levels"):
        guides.NearestCodes(large, (1, 8, 8), channels=((4,), (4,), (4,)))
    with pytest.raises(PvaeError, match="give two or more, from large to small"):
        models.HierarchicalCodes(((4, 4),))
    three = models.HierarchicalCodes(THREE, 2, channels=4, num_layers=2)
    with pytest.raises(PvaeError, match="a density of z_1, z_2, z_3; give z_3 too"):
        three(torch.zeros(2, 4, 4), torch.zeros(2, 2, 2))
    with pytest.raises(PvaeError, match="a density of z_1, z_2, without z_3"):
        density()(Z_1, Z_2, z_3=Z_2)


THREE = (4, 4), (2, 2), (1, 1)


def test_a_stack_of_three_maps_from_training_to_samples(tmp_path):
    torch.manual_seed(0)
    network = {"channels": ((4,), (4,), (4,)), "num_blocks": 1}
    x = (torch.rand(200, 1, 1, 1) < 0.5).float().expand(200, 1, 8, 8)
    x = (x - (torch.rand(200, 1, 8, 8) < 0.1).float()).abs()
    np.savez(tmp_path / "data.npz", x=x, y=torch.arange(200) % 2)
    data = pvae.data.load(tmp_path / "data.npz", labels=True)

    def stack(kind=models.VQVAE2, prior=None):
        torch.manual_seed(0)
        model = kind((1, 8, 8), prior=prior, num_codes=4, code_dim=3, **network)
        return model, guides.NearestCodes(model, (1, 8, 8), **network)

    run, both = tmp_path / "vq", {"lr": 1e-2, "batch_size": 40, "progress": False}
    pvae.fit(*stack(), data, epochs=10, out=run, **both)
    model, guide = pvae.load(run)
    assert model.map_shapes == THREE
    codes = pvae.codes(run, labels=True)
    z = [codes.test.fields[f"z_{level}"] for level in (1, 2, 3)]
    hot = [torch.nn.functional.one_hot(k, 4).float() for k in z]
    with torch.no_grad():
        vectors = [book.weight[k] for book, k in zip(model.codebooks, z, strict=True)]
        u = model.up[1](vectors[2]).movedim(1, -1)
        u = model.up[0](torch.cat([vectors[1], u], -1)).movedim(1, -1)
        f = model.decoder(torch.cat([vectors[0], u], -1))
        log_px = torch.distributions.Bernoulli(logits=f).log_prob(data.test.x).sum((1, 2, 3))
        torch.testing.assert_close(model.likelihood(*hot).log_prob(data.test.x), log_px)
    found = pvae.evaluate(model, guide, data, num_samples=1, estimators=[], progress=False)
    uniform = log_px - 21 * torch.tensor(4.0).log()
    torch.testing.assert_close(torch.as_tensor(found.elbo), uniform.double(), rtol=0, atol=1e-3)

    for kind, classes in ((models.VQVAE2, None), (models.ConditionalVQVAE2, 2)):
        prior = models.HierarchicalCodes(THREE, 4, 4, 2, num_classes=classes)
        pvae.fit(prior, guides.NoLatents(), codes, epochs=2, **both)
        labels = () if classes is None else (codes.test.y,)
        log_pz = prior.log_px(*z[:2], *labels, z_3=z[2]).detach()
        alone = pvae.evaluate(
            prior, guides.NoLatents(), codes, num_samples=1, estimators=[], progress=False
        )
        torch.testing.assert_close(torch.as_tensor(alone.elbo), log_pz.double(), rtol=0, atol=1e-3)
        pair = stack(kind, prior)
        pvae.warm_start(*pair, run)
        found = pvae.evaluate(*pair, data, num_samples=1, estimators=[], progress=False)
        torch.testing.assert_close(
            torch.as_tensor(found.elbo), (log_px + log_pz).double(), rtol=0, atol=1e-3
        )
        drawn = pvae.generate(pair[0], 3, **({} if classes is None else {"y": codes.test.y[:3]}))
        assert drawn.shape == (3, 1, 8, 8)


def test_each_map_is_given_all_that_are_smaller():
    torch.manual_seed(0)
    prior = models.HierarchicalCodes(THREE, 4, channels=4, num_layers=2).double()
    z = [torch.zeros(2, *shape, dtype=torch.long) for shape in THREE]
    z[2][1] = 1  # the smallest map of the second datum
    with torch.no_grad():
        for above in (z[2:], z[1:]):
            p = prior.conditional(*above)
            logits = p.network(torch.zeros(2, *p.event_shape), p.context)
            assert (logits[0] - logits[1]).abs().max() > 1e-8  # far above double's rounding
