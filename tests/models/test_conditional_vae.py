"""ConditionalVAE and its guide: p(x|y) with linear networks, whose log p(x|y) is known."""

import pytest
import torch
from torch import nn

import pvae
from pvae import guides, models
from pvae.errors import PvaeError

D, Z, C = 5, 2, 3


def linear(context=None):
    torch.manual_seed(0)
    options = {"likelihood": "gaussian", "scale": 0.7, "context": context}
    model = models.ConditionalVAE((D,), C, Z, decoder=nn.Linear(Z + C, D), **options)
    return model, guides.ConditionalMeanField(model, (D,), hidden_dims=[16])


def exact(model, x, c):
    """Returns log N(x | W_c c + b, W_z W_z' + s²)."""
    w, b = model.decoder.weight.detach(), model.decoder.bias.detach()
    cov = w[:, :Z] @ w[:, :Z].T + 0.49 * torch.eye(D)
    return torch.distributions.MultivariateNormal(c @ w[:, Z:].T + b, cov).log_prob(x)


@pytest.mark.parametrize("given", ["labels", "numbers"])
def test_the_bound_is_one_on_log_p_of_x_given_y_and_meets_it(given):
    torch.manual_seed(1)
    y = torch.arange(300) % C if given == "labels" else torch.randn(300, 4)
    network = None if given == "labels" else nn.Linear(4, C)
    model, guide = linear(network)
    x = torch.randn(300, D) + 2 * (y if given == "labels" else y[:, 0])[:, None]
    data = {"x": x, "y": y}
    pvae.fit(model, guide, data, epochs=150, lr=1e-2, batch_size=50, progress=False)
    with torch.no_grad():
        c = nn.functional.one_hot(y, C).float() if network is None else network(y)
    found = pvae.evaluate(model, guide, data, num_samples=3000, estimators=[], progress=False)
    log_px = exact(model, x, c).double()
    error = torch.as_tensor(found.log_px) - log_px
    assert abs(error.mean()) < 4 * error.std() / len(error) ** 0.5 + 2e-3
    assert found.elbo.mean() < log_px.mean()
    assert torch.as_tensor(found.elbo).mean() > log_px.mean() - 0.5
    others = exact(model, x, c.roll(1, 0)).double()
    assert log_px.mean() > others.mean() + 1, "x is told by y"


def test_samples_have_the_mean_of_their_label():
    model, _ = linear()
    y = torch.arange(C).repeat_interleave(4000)
    with torch.no_grad():
        x = model(y=y, size=len(y)).view(C, 4000, D)
        w, b = model.decoder.weight, model.decoder.bias
        means = (torch.eye(C) @ w[:, Z:].T) + b
    assert ((x.mean(1) - means).abs() < 5 * x.std(1) / 4000**0.5).all()
    one = pvae.generate(model, 6, y=torch.tensor(2))
    assert one.shape == (6, D)
    torch.manual_seed(0)
    assert model(y=torch.tensor(2), size=6).shape == (6, D)


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_the_encoder_reads_y(network):
    torch.manual_seed(0)
    model = models.ConditionalVAE((1, 8, 8), 10, 3, network)
    guide = guides.ConditionalMeanField(model, (1, 8, 8), network)
    x = torch.rand(4, 1, 8, 8)
    first, second = (guide.encode(x, torch.full((4,), y))[0] for y in (1, 2))
    assert ((first - second).abs() > 1e-5).all()
    many = guide.encode(x.expand(7, 4, 1, 8, 8), torch.full((4,), 1))[0]
    torch.testing.assert_close(many, first.expand(7, 4, 3))
    assert not [n for n, _ in guide.named_parameters() if n.startswith("model")]


def test_bad_input_is_one_message():
    model, guide = linear()
    x, y = torch.randn(6, D), torch.arange(6) % C
    with pytest.raises(PvaeError, match="no y was given"):
        pvae.fit(model, guide, x, epochs=1, progress=False)
    with pytest.raises(PvaeError, match="no y was given"):
        pvae.generate(model, 3)
    with pytest.raises(PvaeError, match="y holds 3, but the labels of this model are 0 to 2"):
        pvae.evaluate(model, guide, {"x": x, "y": y + 1}, num_samples=2, progress=False)
    with pytest.raises(PvaeError, match="VAE takes no y: ConditionalMeanField is for"):
        guides.ConditionalMeanField(models.VAE((D,)), (D,))
    with pytest.raises(PvaeError, match="num_classes=0"):
        models.ConditionalVAE((D,), 0)
