"""Quadrature of posteriors with narrow peaks that a grid can miss."""

import math

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from integrals import DOUBLE, narrow, nothing, run

from pvae.evaluation.estimators import cubature
from pvae.evaluation.estimators import grid as module


@pytest.mark.parametrize("noise", [0.1, 1e-2, 1e-3, 1e-5])
def test_a_peak_between_the_points_of_the_first_grid(noise):
    run(*narrow(noise))


@pytest.mark.parametrize("noise", [0.3, 1e-2, 1e-3])
def test_two_peaks(noise):
    run(*narrow(noise, mirrored=True), tolerance=1e-7)


def mixed(scale, dim, share=0.5, edge=False):
    """z ~ N(0, I), x ~ ½ N(z, s²) + ½ N(0, 1): a posterior of two widths, and its exact guide."""
    x = 0.7 * oracles.random(3, dim, seed=5)
    x = 6 * torch.ones_like(x) if edge else x  # the narrow peak is where the prior hardly is
    zero = torch.zeros(dim, **DOUBLE)
    scales = torch.tensor([scale, 1.0], **DOUBLE)[:, None].expand(2, dim)
    wide = math.sqrt(1 + scale**2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            parts = dist.Normal(torch.stack([z, torch.zeros_like(z)], -2), scales).to_event(1)
            halves = dist.Categorical(torch.full((2,), 0.5, **DOUBLE))
            pyro.sample("x", dist.MixtureSameFamily(halves, parts), obs=x)

    def guide(x):
        loc = torch.stack([x / wide**2, torch.zeros_like(x)], -2)
        parts = dist.Normal(loc, scales / torch.tensor([wide, 1.0], **DOUBLE)[:, None])
        narrow = torch.full((len(x),), share, **DOUBLE)
        with pyro.plate("data", len(x)):
            each = dist.Categorical(torch.stack([narrow, 1 - narrow], -1))
            pyro.sample("z", dist.MixtureSameFamily(each, parts.to_event(1)))

    each = [dist.Normal(0.0, wide).log_prob(x).sum(-1), dist.Normal(0.0, 1.0).log_prob(x).sum(-1)]
    return model, guide, (x,), torch.logaddexp(*each) - math.log(2)


@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize(("scale", "dim"), [(1e-3, 1), (1e-6, 1), (1e-3, 2)])
def test_a_narrow_peak_inside_a_broad_posterior(scale, dim, edge):
    run(*mixed(scale, dim, edge=edge), size=2, tolerance=1e-6)


def test_a_peak_that_few_draws_fell_on():
    run(*mixed(1e-4, 1, share=0.05), size=2, tolerance=1e-6)


def test_what_the_weights_contradict_is_not_known(monkeypatch):
    """Without cells the grid misses half of the mass, and log p(x) is unknown."""
    pair = mixed(1e-3, 1)
    monkeypatch.setattr(module, "integrate", nothing)
    monkeypatch.setattr(module, "_APART", math.inf)
    found = run(*pair[:3])
    assert np.isnan(found.log_px).all()
    assert np.isposinf(found.error).all()


def both(noise, apart, seen):
    """x ~ ½ N(z, s²) + ½ N(z + apart, s²): two narrow peaks, and a guide that draws one."""
    apart = torch.tensor(apart, **DOUBLE)
    x, zero = oracles.random(4, len(apart), seed=3), torch.zeros(len(apart), **DOUBLE)
    halves = dist.Categorical(torch.full((2,), 0.5, **DOUBLE))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            parts = dist.Normal(torch.stack([z, z + apart], -2), noise).to_event(1)
            pyro.sample("x", dist.MixtureSameFamily(halves, parts), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x - seen * apart, noise + zero).to_event(1))

    wide = math.sqrt(1 + noise**2)
    each = [dist.Normal(zero + loc, wide).log_prob(x).sum(-1) for loc in (zero, apart)]
    return model, guide, (x,), torch.logaddexp(*each) - math.log(2)


@pytest.mark.parametrize(
    ("noise", "apart", "seen"),
    [
        (1e-5, [0.8], 0),
        (1e-4, [0.8], 1),
        (3e-3, [1.0, -0.7], 0),
        (1e-3, [1.0, -0.7], 1),
        (1e-3, [0.0, 2.0], 0),  # along an axis: the box is 100 times as long as wide
        (1e-4, [0.0, 2.0], 0),
        (1e-4, [2.0, 0.0], 1),
    ],
)
def test_a_narrow_peak_that_nothing_drew(noise, apart, seen):
    run(*both(noise, apart, seen), size=2, tolerance=2e-6)


def test_too_few_cells_are_told(monkeypatch):
    pair = both(1e-3, [0.0, 2.0], 0)
    monkeypatch.setattr(cubature, "_CELLS", 100)
    found = run(*pair[:3])
    error = np.abs(found.log_px - pair[3].numpy())
    assert (np.isnan(error) | (error <= found.error)).all()
    assert np.isnan(error).any()


def test_a_box_that_cuts_a_peak_is_told(monkeypatch):
    pair = both(1e-4, [0.0, 2.0], 0)
    monkeypatch.setattr(module, "reach", lambda log_f, peaks, *_: torch.zeros_like(peaks))
    error = np.abs(run(*pair[:3]).log_px - pair[3].numpy())
    assert (np.isnan(error) | (error < 2e-6)).all()
    assert np.isnan(error).any()


def test_cells_of_a_datum_do_not_depend_on_the_others():
    pair = mixed(1e-3, 1)
    together = run(*pair[:3])
    alone = [run(*pair[:3], positions=np.array([i])) for i in range(3)]
    errors = [found.error[0] for found in alone]
    np.testing.assert_allclose([found.log_px[0] for found in alone], together.log_px, atol=1e-6)
    np.testing.assert_allclose(errors, together.error, atol=1e-6)
