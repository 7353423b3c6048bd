"""The autoregressive flow as a prior."""

import pytest
import torch
from torch import nn

import pvae
from pvae import PvaeError
from pvae.models import FlowPriorVAE


def bent(dim=2, num_steps=2):
    torch.manual_seed(0)
    options = {"num_steps": num_steps, "flow_hidden_dims": [16], "hidden_dims": [8]}
    model = FlowPriorVAE((1, 8, 8), dim, **options)
    for parameter in model.networks.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return model.double()


def test_density_integrates_to_one_and_is_that_of_the_draws():
    model = bent()
    axis = torch.linspace(-20, 20, 401).double()
    with torch.no_grad():
        density = model.prior().log_prob(torch.cartesian_prod(axis, axis)).exp()
        density = density.reshape(401, 401) * (axis[1] - axis[0]) ** 2
        z = model.prior().sample((100_000,))
    torch.testing.assert_close(density.sum(), torch.tensor(1.0).double(), atol=2e-3, rtol=0)
    for d in (0, 1):
        exact = density.sum(1 - d).cumsum(0)
        found = (z[:, d, None] < axis + 0.05).double().mean(0)
        assert (found - exact).abs().max() < 0.01
    assert not torch.allclose(z.std(0), torch.ones(2).double(), atol=0.1)


def test_density_is_that_of_the_docstring():
    model, z = bent(3, num_steps=3), torch.randn(5, 3).double()
    noise, log_det = z, 0.0
    for network in reversed(model.networks):
        loc, raw = network(noise)
        s = 3 * (raw / 3).tanh()
        noise, log_det = loc + s.exp() * noise, log_det + s.sum(-1)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1) + log_det
    torch.testing.assert_close(model.prior().log_prob(z), expected)

    def draw(noise):
        for step in model.prior().transforms:
            noise = step(noise)
        return noise

    torch.testing.assert_close(draw(noise), z)
    jacobian = torch.autograd.functional.jacobian(draw, noise[0])
    torch.testing.assert_close(-jacobian.det().abs().log(), log_det[0])


def test_learns_a_prior_that_no_gaussian_is():
    # Codes of two clusters: the encoder is the identity, so that the prior has to do it.
    torch.manual_seed(0)
    x = 0.2 * torch.randn(400, 2) + torch.tensor([[1.5, 1.0], [-1.5, 1.0]]).repeat(200, 1)
    decoder = nn.Identity()
    options = {"likelihood": "gaussian", "scale": 0.3, "decoder": decoder}
    bounds = {}
    for name, model in (
        ("flow", FlowPriorVAE((2,), 2, num_steps=4, flow_hidden_dims=[32], **options)),
        ("gaussian", pvae.models.MixturePriorVAE((2,), 2, num_components=1, **options)),
    ):
        guide = pvae.guides.MeanField((2,), 2, hidden_dims=[32])
        pvae.fit(model, guide, x, epochs=40, batch_size=50, lr=1e-2, progress=False)
        bounds[name] = pvae.log_weights(model, guide, x, num_samples=50).mean()
    assert bounds["flow"] > bounds["gaussian"] + 0.5


def test_bad_arguments():
    with pytest.raises(PvaeError, match="num_steps=0: it must be at least 1"):
        FlowPriorVAE((4,), 2, num_steps=0)
    for widths in ([], [8, 2]):
        with pytest.raises(PvaeError, match=r"flow_hidden_dims=.*narrower than latent_dim=3"):
            FlowPriorVAE((4,), 3, flow_hidden_dims=widths)
