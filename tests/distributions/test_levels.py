"""Distributions over levels, against sums over all of them and formulas in float64."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pvae import PvaeError
from pvae.distributions import (
    BinomialProportion,
    DiscretizedLogistic,
    MixtureOfDiscretizedLogistics,
)

LOC = torch.tensor([-30.0, -1.0, 0.0, 0.3, 0.5, 0.999, 1.0, 4.0])
SCALE = torch.tensor([1e-4, 1e-3, 0.01, 0.1, 1.0, 30.0, 1e4])


def grid(levels, dtype=torch.float64):
    return torch.arange(levels, dtype=dtype) / (levels - 1)


def logistics(levels, dtype):
    loc, scale = torch.meshgrid(LOC.to(dtype), SCALE.to(dtype), indexing="ij")
    return DiscretizedLogistic(loc, scale, levels)


def mixture(*batch, channels=3, levels=4, dtype=torch.float64, seed=0):
    """A mixture of 2 components on images of 2×1 pixels."""
    g = torch.Generator().manual_seed(seed)
    shape = dict(dtype=dtype, generator=g)  # noqa: C408
    coefficients = torch.randn(*batch, 2, channels * (channels - 1) // 2, 2, 1, **shape)
    return MixtureOfDiscretizedLogistics(
        torch.randn(*batch, 2, 2, 1, **shape),
        torch.rand(*batch, 2, channels, 2, 1, **shape),
        torch.rand(*batch, 2, channels, 2, 1, **shape) / 4 + 0.02,
        coefficients if channels > 1 else None,
        levels,
    )


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_probabilities_of_all_levels_add_up_to_one(levels, dtype, rtol):
    fn = logistics(levels, dtype)
    total = fn.log_prob(grid(levels, dtype).reshape(-1, 1, 1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=rtol, atol=0)
    binomial = BinomialProportion(torch.linspace(-50, 50, 11, dtype=dtype), levels)
    total = binomial.log_prob(grid(levels, dtype).reshape(-1, 1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=rtol, atol=0)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_logistic_is_the_difference_of_two_cumulative_probabilities(levels):
    loc = torch.tensor([-0.2, 0.0, 0.3, 0.5, 1.0, 1.1], dtype=torch.float64)[:, None]
    scale = torch.tensor([0.02, 0.1, 1.0], dtype=torch.float64)
    x = grid(levels).reshape(-1, 1, 1)
    half = 0.5 / (levels - 1)
    above = torch.sigmoid((x + half - loc) / scale)
    below = torch.sigmoid((x - half - loc) / scale)
    above[-1], below[0] = 1, 0
    mass = above - below
    certain = mass > 1e-8  # the naive formula cancels below
    assert certain.float().mean() > 0.5
    for dtype, rtol in ((torch.float64, 1e-7), (torch.float32, 1e-4)):
        fn = DiscretizedLogistic(loc.to(dtype), scale.to(dtype), levels)
        found = fn.log_prob(x.to(dtype)).double()
        torch.testing.assert_close(found[certain], mass.log()[certain], rtol=rtol, atol=rtol)
    mean = (mass * x).sum(0)
    torch.testing.assert_close(DiscretizedLogistic(loc, scale, levels).mean, mean)


def test_levels_whose_probability_underflows_have_the_logarithm_of_a_density_times_a_width():
    fn = DiscretizedLogistic(torch.tensor(0.0), torch.tensor(1e-3))
    x = torch.tensor([100, 200, 254]) / 255
    density = -x / 1e-3 - torch.tensor(1e-3).log()  # log of the logistic's far tail
    width = 1e-3 * 2 * torch.sinh(torch.tensor(0.5 / 255 / 1e-3))
    torch.testing.assert_close(fn.log_prob(x), density + width.log(), rtol=1e-4, atol=0)
    assert (fn.log_prob(x) < -300).all()  # float32 has no such probability


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_at_extremes(dtype):
    fn = logistics(256, dtype)
    loc, scale = fn.loc.clone().requires_grad_(), fn.scale.clone().requires_grad_()
    x = grid(256, dtype).reshape(-1, 1, 1)
    log_p = DiscretizedLogistic(loc, scale).log_prob(x)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert loc.grad.isfinite().all()
    assert scale.grad.isfinite().all()
    assert (loc.grad[0] > 0).all()  # far below all levels: go up


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_mixture_is_normalised_over_all_images(channels):
    fn = mixture(channels=channels)
    pixels = torch.cartesian_prod(*[grid(4)] * channels).reshape(-1, channels)
    images = torch.stack([pixels, pixels.flip(0)], -1)[..., None]
    # Every value of the first pixel with every value of the second.
    both = fn.log_prob(torch.stack([
        torch.cat([images[i : i + 1, :, :1].expand(len(images), -1, -1, -1), images[:, :, 1:]], 2)
        for i in range(len(images))
    ]))  # fmt: skip
    assert both.shape == (len(images), len(images))
    assert abs(both.exp().sum().item() - 1) < 1e-10


def test_the_mixture_is_its_definition():
    fn = mixture(5)
    x = torch.randint(4, (5, 3, 2, 1), generator=torch.Generator().manual_seed(1)) / 3
    x = x.double()
    red, green, _ = x.unbind(-3)
    expected = []
    for m in range(2):
        r = fn.coefficients[:, m]
        loc = fn.loc[:, m].clone()
        loc[:, 1] += r[:, 0] * (red - 0.5)
        loc[:, 2] += r[:, 1] * (red - 0.5) + r[:, 2] * (green - 0.5)
        part = DiscretizedLogistic(loc, fn.scale[:, m], 4).log_prob(x).sum(1)
        expected.append(fn.logits.log_softmax(1)[:, m] + part)
    expected = torch.stack(expected).logsumexp(0).sum((-1, -2))
    torch.testing.assert_close(fn.log_prob(x), expected)
    torch.testing.assert_close(fn.log_prob(x[:1]), fn.log_prob(x[:1].expand_as(x)))


def test_a_mixture_of_one_component_and_channel_is_a_logistic():
    logits, loc = torch.zeros(3, 1, 8, 8), torch.rand(3, 1, 1, 8, 8)
    fn = MixtureOfDiscretizedLogistics(logits, loc, torch.full_like(loc, 0.1), levels=17)
    one = DiscretizedLogistic(loc[:, 0], torch.tensor(0.1), 17).to_event(3)
    x = one.sample()
    torch.testing.assert_close(fn.log_prob(x), one.log_prob(x))
    torch.testing.assert_close(fn.mean, one.mean)


@pytest.mark.parametrize(
    "fn",
    [
        DiscretizedLogistic(torch.tensor([-0.1, 0.4, 1.0]), torch.tensor([0.1, 0.05, 0.3]), 5),
        BinomialProportion(torch.tensor([-1.0, 0.0, 3.0]), 5),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_samples_are_levels_with_the_probabilities_of_log_prob(fn):
    torch.manual_seed(0)
    x = fn.sample((20_000,))
    assert x.shape == (20_000, 3)
    assert fn.support.check(x).all()
    for level in grid(5, torch.float32):
        share = (x - level).abs().lt(1e-6).double().mean(0)
        p = fn.log_prob(level).exp().double()
        assert ((share - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt() + 1e-12).all()
    assert ((x.mean(0) - fn.mean).abs() < 4 * x.std(0) / 20_000**0.5).all()


def test_samples_of_the_mixture_have_its_probabilities():
    torch.manual_seed(0)
    fn = mixture(channels=2, levels=3)
    x = fn.sample((20_000,))
    assert fn.support.check(x).all()
    pixels = torch.cartesian_prod(grid(3), grid(3))
    for pixel in pixels:
        share = (x[:, :, 0, 0] - pixel).abs().lt(1e-6).all(1).double().mean()
        # Summed over the other pixel's values.
        images = torch.stack([pixel.expand_as(pixels), pixels], -1)[..., None]
        p = fn.log_prob(images).exp().sum()
        assert (share - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt()


@pytest.mark.parametrize(
    "fn",
    [
        logistics(17, torch.float32),
        BinomialProportion(torch.randn(4, 2), 17),
        mixture(4, dtype=torch.float32),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_expand_and_recording(fn):
    wide = fn.expand([3, *fn.batch_shape])  # a list, as Pyro's plates give
    assert isinstance(wide.batch_shape, torch.Size)
    x = fn.sample()
    assert wide.sample().shape == (3, *x.shape)
    torch.testing.assert_close(wide.log_prob(x), fn.log_prob(x).expand(3, *fn.batch_shape))
    with pyro.validation_enabled(False):
        record = make_fx(lambda value: fn.log_prob(value))(x)
    torch.testing.assert_close(record(x), fn.log_prob(x))


def test_the_binomial_is_that_of_the_counts():
    logits, k = torch.randn(5), torch.tensor([0.0, 3, 8, 15, 16])
    expected = dist.Binomial(16, logits=logits).log_prob(k)
    torch.testing.assert_close(BinomialProportion(logits, 17).log_prob(k / 16), expected)
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    log_p = BinomialProportion(logits, 17).log_prob(torch.tensor([1.0, 0.0]))
    log_p.sum().backward()
    assert logits.grad.isfinite().all()


def test_the_support_is_the_levels():
    x = (torch.arange(256, dtype=torch.uint8).float() / 255)[:, None]
    support = DiscretizedLogistic(torch.zeros(1), 1.0).support
    assert support.check(x).all()
    assert support.is_discrete
    assert not support.check(torch.tensor([-1 / 255, 256 / 255, 0.5, 1 / 16])).any()
    assert DiscretizedLogistic(torch.zeros(1), 1.0, 65536).support.check(grid(65536).float()).all()
    with pytest.raises(ValueError, match="levels=17, values k / 16"):
        BinomialProportion(torch.zeros(1), 17, validate_args=True).log_prob(torch.tensor([0.3]))


def test_bad_arguments():
    with pytest.raises(PvaeError, match="levels=1 is not valid"):
        DiscretizedLogistic(torch.zeros(1), 1.0, levels=1)
    with pytest.raises(PvaeError, match="M of at least 1"):
        MixtureOfDiscretizedLogistics(
            torch.zeros(0, 8, 8), torch.zeros(0, 1, 8, 8), torch.ones(0, 1, 8, 8)
        )
    with pytest.raises(PvaeError, match=r"shape \(2, 1, 8, 8\): 3 channels have 3 pairs"):
        MixtureOfDiscretizedLogistics(
            torch.zeros(2, 8, 8),
            torch.zeros(2, 3, 8, 8),
            torch.ones(2, 3, 8, 8),
            torch.zeros(2, 1, 8, 8),
        )
