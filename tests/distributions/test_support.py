"""Which values lie in a support; densities outside are zero."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from bounded import shifted
from torch import tensor
from torch.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    StickBreakingTransform,
)

from pvae.distributions.support import inside, log_prob

INSIDE = {
    "half line": lambda: (dist.Exponential(1.0), 0.5, -0.5),
    "event": lambda: (dist.Exponential(torch.ones(2)).to_event(1), [0.5, 0.5], [0.5, -0.5]),
    "image": lambda: (shifted(), 1.5, 0.5),
    "image of an image": lambda: (
        dist.TransformedDistribution(shifted(), [AffineTransform(10.0, -1.0)]), 8.5, 9.5),
    "image of a flow": lambda: (
        dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1),
                                     [ExpTransform(), AffineTransform(1.0, 1.0)]),
        [1.5, 2.0], [0.5, 2.0]),
    "image of an interval": lambda: (
        dist.TransformedDistribution(dist.Uniform(0.0, 1.0), [AffineTransform(5.0, 2.0)]),
        6.5, 7.5),
    "angle": lambda: (dist.VonMises(0.0, 1.0), 3.0, 3.5),
    "counts": lambda: (dist.Poisson(3.0), 2.0, 2.5),
    "one-hot": lambda: (dist.OneHotCategorical(torch.ones(3)), [0.0, 1.0, 0.0], [0.2, 0.6, 0.2]),
    "simplex": lambda: (dist.Dirichlet(torch.ones(2)), [0.25, 0.75], [0.25, 0.76]),
    "matrix": lambda: (
        dist.Wishart(tensor(3.0), torch.eye(2)), [[2.0, 1.0], [1.0, 2.0]],
        [[1.0, 2.0], [2.0, 1.0]]),
    "moving bound": lambda: (dist.Uniform(0.0, tensor([1.0]), validate_args=False), [0.5], [1.5]),
    "mixture": lambda: (
        dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Gamma(torch.ones(2), 1.0)),
        1.0, -1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", INSIDE)
def test_what_lies_inside(name):
    with pyro.validation_enabled(False):
        fn, good, bad = INSIDE[name]()
        good, bad = tensor(good), tensor(bad)
        assert inside(fn, good).all()
        assert not inside(fn, bad).any()
        assert log_prob(fn, good).isfinite().all()
        assert (log_prob(fn, bad) == -math.inf).all()


@pytest.mark.parametrize(
    "fn",
    [dist.Normal(0.0, 1.0),
     dist.MultivariateNormal(torch.zeros(2), torch.eye(2)).mask(tensor(True)),
     dist.TransformedDistribution(dist.Normal(0.0, 1.0), [AffineTransform(1.0, 2.0)])],
)  # fmt: skip
def test_the_real_line_is_not_looked_at(fn):
    assert inside(fn, torch.zeros(fn.shape())) is None


def test_what_is_masked_does_not_count():
    with pyro.validation_enabled(False):
        fn = dist.Exponential(torch.ones(2)).mask(tensor([True, False])).to_event(1)
        assert log_prob(fn, tensor([0.5, -1.0])) == -0.5
        assert log_prob(fn, tensor([-0.5, 1.0])) == -math.inf


def _rounded():
    """Draws whose sums and orders are exact up to rounding alone."""
    torch.manual_seed(0)
    logits = torch.randn(1000, 60)
    yield dist.Dirichlet(torch.ones(60)), logits.softmax(-1)
    yield (
        dist.Dirichlet(torch.full((60,), 0.1)),
        dist.Dirichlet(torch.full((60,), 0.1)).sample((1000,)),
    )
    stick = StickBreakingTransform()
    yield dist.Dirichlet(torch.ones(61)), stick(logits)
    factor = torch.randn(200, 8, 8)
    yield dist.Wishart(tensor(9.0), torch.eye(8)), factor @ factor.mT + 0.1 * torch.eye(8)
    yield dist.LKJCholesky(6, 1.0), dist.LKJCholesky(6, 1.0).sample((500,))
    yield shifted(by=1000.0), shifted(by=1000.0).sample((1000,)).float().double()


def test_rounding_leaves_no_support():
    for fn, draws in _rounded():
        assert inside(fn, draws).all(), fn
