"""VQVAE with a prior: p(z) is a density that was trained on codes."""

import pytest
import torch
from pyro.infer import Trace_ELBO

import pvae
from pvae import guides, models
from pvae.errors import PvaeError
from pvae.nn import ResidualDecoder, ResidualEncoder

SHAPE, K = (1, 8, 8), 5
NETWORK = {"channels": (4, 4), "num_blocks": 1}
CODES = {"likelihood": "categorical", "levels": K}


def density(shape=(2, 2), levels=K):
    codes = CODES | {"levels": levels}
    return models.GatedPixelCNN(shape, channels=4, num_layers=2, **codes)


def pair(prior=None):
    torch.manual_seed(0)
    model = models.VQVAE(SHAPE, num_codes=K, code_dim=2, prior=prior, **NETWORK)
    return model, guides.NearestCode(model, SHAPE, **NETWORK)


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A pair with a prior that was trained on its codes, its data, and the codes."""
    run, digits = tmp_path_factory.mktemp("runs") / "vq", pvae.data.load("digits")
    pvae.fit(*pair(), digits, epochs=3, lr=1e-2, out=run, progress=False)
    codes = pvae.codes(run)
    prior = density()
    pvae.fit(prior, guides.NoLatents(), codes, epochs=3, lr=1e-2, progress=False)
    model, guide = pair(prior)
    pvae.warm_start(model, guide, run)
    return model, guide, digits, codes


def test_the_bound_is_log_p_of_x_given_the_code_and_of_the_code(composed):
    model, guide, digits, codes = composed
    found = pvae.evaluate(model, guide, digits, num_samples=2, progress=False)
    with torch.no_grad():
        z = guide.eval()(digits.test.x)
        log_px_z = model.eval().likelihood(z).log_prob(digits.test.x)
        log_pz = model.code_prior.density.log_px(z.argmax(-1))
    assert torch.equal(z.argmax(-1), codes.test.fields["x"])
    expected = (log_px_z + log_pz).double()
    assert torch.allclose(torch.as_tensor(found.elbo), expected, atol=1e-3)
    alone = pvae.evaluate(
        model.code_prior.density,
        guides.NoLatents(),
        codes,
        num_samples=1,
        estimators=[],
        progress=False,
    )
    assert torch.allclose(torch.as_tensor(alone.elbo), log_pz.double(), atol=1e-4)
    assert found.findings["code_use"].shares["z"] == pytest.approx(z.mean((0, 1, 2)).tolist())
    assert log_pz.mean() > codes.test.fields["x"][0].numel() * -torch.log(torch.tensor(K))


def test_samples_of_the_pair_are_samples_of_the_prior_decoded(composed):
    model, *_ = composed
    found = pvae.generate(model, 6, seed=3)
    torch.manual_seed(3)
    with torch.no_grad():
        k = model.eval().code_prior.density.distribution().expand((6,)).sample()
        expected = model.likelihood(torch.nn.functional.one_hot(k, K).float()).mean
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*was not registered")
def test_a_prior_in_the_pair_and_alone_have_the_same_gradient(composed):
    model, guide, digits, codes = composed
    prior = model.code_prior.density
    model.train().decoder.requires_grad_(False)
    guide.train().requires_grad_(False)
    x, k = digits.test.x[:32], codes.test.fields["x"][:32]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for each in ((model, guide, x), (prior, guides.NoLatents(), k)):
        prior.zero_grad()
        Trace_ELBO().differentiable_loss(*each).backward()
        found.append([p.grad.clone() for p in prior.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*found, strict=True))
    assert any(g.abs().max() > 1 for g in found[0])
    assert all(p.grad is None for p in (*model.decoder.parameters(), *guide.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_with_a_prior_is_loaded_again(composed, tmp_path):
    model, guide, digits, _ = composed
    pvae.fit(model, guide, digits, epochs=1, out=tmp_path, progress=False)
    again, _ = pvae.load(tmp_path)
    assert torch.equal(
        again.code_prior.density.log_px(torch.zeros(2, 2)),
        model.code_prior.density.log_px(torch.zeros(2, 2)),
    )


class Grouped(torch.nn.Module):
    """Two codes at each place of a 2 × 2 map: a map [2, 2, 2]."""

    def __init__(self, encodes):
        super().__init__()
        self.net = ResidualEncoder(SHAPE, 4, **NETWORK) if encodes else None
        self.net = self.net or ResidualDecoder(4, SHAPE, **NETWORK)
        if not encodes:
            self.in_shape = (2, 2, 2, 2)

    def forward(self, t):
        if hasattr(self, "in_shape"):
            return self.net(t.movedim(-4, -2).flatten(-2))
        return self.net(t).unflatten(-1, (2, 2)).movedim(-2, -4)


def test_several_codes_at_each_place():
    """As the paper has for CIFAR-10. The bound is compared with the terms by hand."""
    torch.manual_seed(0)
    prior = models.GatedPixelCNN((2, 2, 2), channels=4, num_layers=2, **CODES)
    sizes = {"num_codes": K, "code_dim": 2, "prior": prior}
    model = models.VQVAE(SHAPE, decoder=Grouped(False), **sizes)
    guide = guides.NearestCode(model, SHAPE, encoder=Grouped(True))
    x = (torch.rand(30, *SHAPE) < 0.5).float()
    pvae.fit(model, guide, x, epochs=3, batch_size=10, lr=1e-2, progress=False)
    found = pvae.evaluate(model, guide, x, num_samples=1, progress=False)
    with torch.no_grad():
        h = guide.eval().encode(x)
        z = (h[..., None, :] - model.codebook.weight).square().sum(-1).argmin(-1)
        log_px_z = model.eval().likelihood(torch.nn.functional.one_hot(z, K).float()).log_prob(x)
        expected = log_px_z + prior.log_px(z)
    assert z.shape == (30, 2, 2, 2)
    assert len(z.unique()) > 1
    assert torch.allclose(torch.as_tensor(found.elbo), expected.double(), atol=1e-3)
    assert pvae.codes((model, guide), pvae.data.load(x)).event_shape == (2, 2, 2)
    assert pvae.generate(model, 3).shape == (3, *SHAPE)
    with pytest.raises(PvaeError, match=r"a map of \(2, 2, 2\) codes, the model has \(2, 2\)"):
        guides.NearestCode(pair()[0], SHAPE, encoder=Grouped(True)).encode(x)


def test_a_prior_that_does_not_fit_is_one_message():
    with pytest.raises(PvaeError, match=r"codes of shape \(3, 3\); .* shape \(2, 2\), with 5"):
        pair(density((3, 3)))
    with pytest.raises(PvaeError, match="integers 0 to 8, and there are 5 codes"):
        pair(density(levels=9))
    with pytest.raises(PvaeError, match="VAE is not a model of codes"):
        pair(models.VAE(SHAPE))
    with pytest.raises(PvaeError, match="not a distribution over integers"):
        pair(models.GatedPixelCNN((2, 2), channels=4, num_layers=1))


def test_a_video_has_a_map_of_codes_for_each_frame():
    """Its log p is that of its frames under a VQVAE of images, and of its codes under the prior."""
    torch.manual_seed(0)
    sizes = {"memory": 1, "channels": 8, "num_layers": 1, "num_blocks": 1}
    prior = models.VideoPixelCNN((3, 2, 2), likelihood="categorical", levels=K, **sizes)
    made = {"num_codes": K, "code_dim": 2, "likelihood": "gaussian", "scale": "network", **NETWORK}
    model = models.VQVAE((3, *SHAPE), prior=prior, **made).eval()
    guide = guides.NearestCode(model, (3, *SHAPE), **NETWORK).eval()
    frames = models.VQVAE(SHAPE, **made).eval()
    frames.load_state_dict(model.state_dict(), strict=False)
    x = 30 * torch.randn(6, 3, *SHAPE)
    found = pvae.log_weights(model, guide, x, num_samples=2)
    with torch.no_grad():
        z = guide(x)
        expected = frames.likelihood(z).log_prob(x).sum(1) + prior.log_px(z.argmax(-1))
    assert z.shape == (6, 3, 2, 2, K)
    assert len(z.argmax(-1).unique()) > 1
    assert torch.allclose(found, expected.expand(2, 6), rtol=1e-4)
    assert model(size=4).shape == (4, 3, *SHAPE)
    codes = pvae.codes((model, guide), pvae.data.load(x.numpy(), observation="grey"))
    assert codes.event_shape == (3, 2, 2)
    with pytest.raises(PvaeError, match=r"codes of shape \(3, 3, 3\); .* shape \(3, 2, 2\)"):
        models.VQVAE(
            (3, *SHAPE),
            prior=models.VideoPixelCNN((3, 3, 3), likelihood="categorical", levels=K, **sizes),
            **made,
        )
