"""PixelVAE: pixels given the code and the few pixels before them that the network reaches."""

import itertools

import pytest
import torch

from pvae import models
from pvae.errors import PvaeError


def test_given_the_code_all_images_together_have_probability_one():
    torch.manual_seed(0)
    model = models.PixelVAE((1, 2, 2), latent_dim=3, hidden_dims=[8], features=4, num_blocks=1)
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).view(16, 1, 1, 2, 2)
    z = torch.randn(5, 3)
    log_p = model.likelihood(z).log_prob(images)
    assert log_p.shape == (16, 5)
    assert torch.allclose(log_p.logsumexp(0), torch.zeros(5), atol=1e-5)
    assert (log_p.std(1) > 1e-3).all()  # it depends on the code


@pytest.mark.parametrize(("num_blocks", "kernel_size", "reach"), [(1, 3, 2), (2, 5, 4)])
def test_a_pixel_sees_those_before_it_within_reach_and_the_code(num_blocks, kernel_size, reach):
    torch.manual_seed(0)
    sizes = {"features": 32, "num_blocks": num_blocks, "kernel_size": kernel_size}
    model = models.PixelVAE((1, 12, 12), latent_dim=2, hidden_dims=[8], **sizes)
    x = torch.rand(1, 1, 12, 12, requires_grad=True)
    z = torch.randn(1, 2, requires_grad=True)
    f = model.pixels(x, model.decoder(z))[0, 0, 6, 6]
    by_x, by_z = torch.autograd.grad(f, (x, z))
    seen = by_x[0, 0].nonzero().tolist()
    assert all((i, j) < (6, 6) and 6 - i <= reach and abs(6 - j) <= reach for i, j in seen)
    assert [6, 5] in seen
    assert [5, 6] in seen
    assert (by_z != 0).all()


def test_sizes_that_do_not_fit_are_one_message():
    with pytest.raises(PvaeError, match="features=0"):
        models.PixelVAE((1, 8, 8), features=0)
    with pytest.raises(PvaeError, match="kernel_size=4"):
        models.PixelVAE((1, 8, 8), features=4, kernel_size=4)
