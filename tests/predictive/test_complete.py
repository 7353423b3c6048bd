"""complete: the rest of an image, and the next frames of a video from their codes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from ordered import space

import pvae
from pvae import guides, models
from pvae.errors import PvaeError

T, K = 3, 3
SHAPE = (T, 1, 4, 4)
NETWORK = {"channels": (4, 4), "num_blocks": 1}


def shaken(module, scale=0.5):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def video_pair(prior=True):
    """A pair of videos with one code of three values for each frame."""
    torch.manual_seed(0)
    sizes = {"memory": 2, "channels": 8, "num_layers": 1, "num_blocks": 1}
    density = models.VideoPixelCNN((T, 1, 1), likelihood="categorical", levels=K, **sizes)
    density = shaken(density) if prior else None
    model = models.VQVAE(SHAPE, num_codes=K, code_dim=2, prior=density, decay=None, **NETWORK)
    guide = guides.NearestCode(model, SHAPE, **NETWORK)
    return shaken(model, 0.1).eval(), shaken(guide, 0.3).eval()


def test_next_frames_have_the_enumerated_conditional():
    """Codes of the first frames are the guide's; those of the others, given them, the prior's."""
    model, guide = video_pair()
    torch.manual_seed(1)
    x = torch.rand(K, *SHAPE).round()
    with torch.no_grad():  # each video's first frame has a code of its own
        model.codebook.weight.copy_(guide.encode(x)[:, 0, 0, 0])
    num, known = 3000, torch.arange(T) < 1
    found = pvae.complete(model, guide, x, known=known, num_samples=num)
    assert found.shape == (num, K, *SHAPE)
    assert torch.equal(found[:, :, 0], x[:, 0].expand(num, K, 1, 4, 4))
    every = space(range(K), (T, 1, 1))
    with torch.no_grad():
        means = model.likelihood(torch.nn.functional.one_hot(every, K).float()).mean
        log_p = model.code_prior.density.log_px(every).double()
        codes = guide(x).argmax(-1)
    assert codes[:, 0, 0, 0].tolist() == [0, 1, 2]
    for datum in range(K):
        possible = every[:, 0, 0, 0] == codes[datum, 0, 0, 0]
        expected = log_p[possible].softmax(0)
        assert expected.max() < 0.9
        same = (found[:, datum, None, 1:] - means[possible][:, 1:]).abs().flatten(2).amax(-1) < 1e-5
        assert same.any(1).all()
        share = same.double().mean(0)
        se = (expected * (1 - expected) / num).sqrt()
        assert ((share - expected).abs() < 4.5 * se + 1 / num).all()


def test_frames_that_are_unknown_are_not_read():
    model, guide = video_pair()
    x = torch.rand(2, *SHAPE).round()
    known = torch.arange(T) < 2
    other = x.clone()
    other[:, 2] = torch.nan
    ours, theirs, again = (
        pvae.complete(model, guide, each, known=known, num_samples=4, seed=seed)
        for each, seed in ((x, 0), (other, 0), (x, 1))
    )
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, again)
    whole = known.view(T, 1, 1, 1).expand(SHAPE)
    assert torch.equal(pvae.complete(model, guide, x, known=whole, num_samples=4), ours)


def test_the_rest_of_an_image_given_a_label():
    torch.manual_seed(0)
    density = models.GatedPixelCNN((1, 2, 2), channels=8, num_layers=2, context_shape=(2,))
    model = models.Conditional(shaken(density)).eval()
    upper = torch.tensor([[[True, True], [False, False]]])
    x, y, num = torch.ones(2, 1, 2, 2), torch.tensor([0, 1]), 3000
    found = pvae.complete(model, guides.NoLatents(), x, y, known=upper, num_samples=num)
    every = space([0.0, 1.0], (1, 2, 2))
    every = every[(every[:, 0, 0] == 1).all(-1)]
    for label in (0, 1):
        log_p = model.log_px(every, torch.full((len(every),), label)).detach().double()
        share = (found[:, label, None] == every).flatten(2).all(-1).double().mean(0)
        expected = log_p.softmax(0)
        assert share.sum().item() == pytest.approx(1)
        assert ((share - expected).abs() < 4.5 * (expected * (1 - expected) / num).sqrt()).all()


class Mixing(torch.nn.Module):
    """An encoder whose codes of each frame see all frames."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        return self.encoder(x - 3 * x.mean(-4, keepdim=True))


def test_bad_input():
    model, guide = video_pair()
    x, known = torch.rand(2, *SHAPE).round(), torch.arange(T) < 1
    with pytest.raises(PvaeError, match=r"known=torch.bool of shape \(2,\).*shape \(3, 1, 4, 4\)"):
        pvae.complete(model, guide, x, known=known[:2])
    with pytest.raises(PvaeError, match=r"1 known values, such as the one at \[2, 0, 0\], are"):
        pvae.complete(model, guide, x, known=known.flip(0))
    part = known.view(T, 1, 1, 1).repeat(1, 1, 4, 4)
    part[1, 0, 0] = True
    with pytest.raises(PvaeError, match=r"frames are known in part.*torch.arange\(3\) < k"):
        pvae.complete(model, guide, x, known=part)
    with pytest.raises(PvaeError, match=r"Site 'z' of the model VQVAE cannot be completed.*OneHot"):
        pvae.complete(*video_pair(prior=False), x, known=known)
    guide.encoder = Mixing(guide.encoder)
    with pytest.raises(PvaeError, match="Site 'z' of the guide NearestCode mixes frames"):
        pvae.complete(model, guide, x, known=known)
    vae = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
    with pytest.raises(PvaeError, match=r"'z' of the guide MeanField has codes of shape \(20,\)"):
        pvae.complete(*vae, torch.zeros(2, 1, 8, 8), known=torch.tensor([True]))
    with pytest.raises(PvaeError, match=r"num_samples=0"):
        pvae.complete(model, guide, x, known=known, num_samples=0)

    def independent(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(0.5 * torch.ones(4)).to_event(1), obs=x)

    with pytest.raises(PvaeError, match=r"Site 'x' of the model .* cannot be completed.*Bernoulli"):
        pvae.complete(independent, guides.NoLatents(), torch.ones(2, 4), known=torch.zeros(4) > 0)
