"""Frames given others: against closed forms, known motions and sums over all frames."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pvae
from pvae import PvaeError
from pvae.guides import FramesMeanField, NoLatents
from pvae.models import FrameBetween, NextFrames


class Fields(nn.Module):
    """The same flow, log odds of the mask, and second output everywhere."""

    def __init__(self, down=0.0, right=0.0, odds=0.0, second=()):
        super().__init__()
        self.values = nn.Parameter(torch.tensor([down, right, odds, *second]))

    def forward(self, u):
        return self.values[:, None, None].expand(*u.shape[:-3], -1, *u.shape[-2:])


def log_p(model, x, before, after):
    with torch.no_grad():
        return model.likelihood(before, after).log_prob(x)


def frames(*shape):
    return torch.rand(3, 5, *shape).unbind()


def test_without_motion_it_is_the_mean_of_both_neighbours():
    x, before, after = frames(2, 6, 4)
    options = {"likelihood": "gaussian", "scale": 0.3}
    model = FrameBetween((2, 6, 4), network=Fields(), **options)
    expected = dist.Normal((before + after) / 2, 0.3).to_event(3).log_prob(x)
    assert torch.allclose(log_p(model, x, before, after), expected, atol=1e-4)
    first = FrameBetween((2, 6, 4), network=Fields(odds=50.0), **options)
    assert torch.allclose(first.likelihood(before, after).mean, before, atol=1e-6)


@pytest.mark.parametrize("odds", [-50.0, 0.0, 1.3, 50.0])
def test_a_known_motion_gives_the_frame_itself_from_both_sides(odds):
    """Cuts of one picture, each two pixels lower and one to the left of the one before it."""
    picture = torch.rand(4, 1, 16, 16)
    before, x, after = (picture[..., 4 - 2 * t :, 2 + t :][..., :10, :10] for t in range(3))
    model = FrameBetween((1, 10, 10), network=Fields(2.0, -1.0, odds), likelihood="gaussian")
    mean = model.likelihood(before, after).mean
    assert torch.allclose(mean[..., 2:-2, 1:-1], x[..., 2:-2, 1:-1], atol=1e-5)
    assert not torch.allclose(mean, x)  # what came in from outside is not known


def test_log_odds_of_a_bernoulli_are_moved_and_averaged():
    before, after = torch.full((1, 1, 2, 2), 0.2), torch.full((1, 1, 2, 2), 0.6)
    model = FrameBetween((1, 2, 2), network=Fields())
    odds = (before.logit() + after.logit()) / 2
    assert torch.allclose(model.likelihood(before, after).mean, odds.sigmoid())


def test_probabilities_add_up_to_one():
    levels = torch.arange(3) / 2
    every = torch.stack([torch.stack(v) for v in itertools.product(levels, repeat=4)])
    x = every.view(81, 1, 2, 2)
    options = {"likelihood": "discretized_logistic", "levels": 3, "channels": [4], "num_blocks": 0}
    model = FrameBetween((1, 2, 2), **options)
    before, after = torch.rand(2, 1, 1, 2, 2).expand(2, 81, 1, 2, 2)
    assert float(log_p(model, x, before, after).exp().sum()) == pytest.approx(1, abs=1e-5)
    data = {"x": x, "before": before, "after": after}
    found = pvae.evaluate(model, NoLatents(), data, num_samples=1, estimators=[], progress=False)
    assert found.exact
    assert torch.allclose(torch.tensor(found.log_px), log_p(model, x, before, after).double())


def test_the_network_gives_a_scale_for_each_value():
    x, before, after = frames(1, 4, 4)
    network = Fields(second=[0.7])
    model = FrameBetween((1, 4, 4), network=network, likelihood="gaussian", scale="network")
    scale = nn.functional.softplus(torch.tensor(0.7)) + 1e-4
    expected = dist.Normal((before + after) / 2, scale).to_event(3).log_prob(x)
    assert torch.allclose(log_p(model, x, before, after), expected, atol=1e-4)


def test_it_learns_a_motion():
    """Of spots that move by a pixel down and by two to the left."""
    torch.manual_seed(0)
    i, j = torch.arange(12.0)[:, None], torch.arange(12.0)
    row, column = 4 + 3 * torch.rand(2, 64, 1, 1, 1)

    def at(t):
        return (-((i - row - t) ** 2 + (j - column + 2 * t) ** 2) / 4).exp()

    before, x, after = (at(t) for t in (-1, 0, 1))
    model = FrameBetween((1, 12, 12), network=Fields(), likelihood="gaussian", scale=0.2)
    data = {"x": x, "before": before, "after": after}
    options = {"epochs": 40, "batch_size": 32, "lr": 0.1, "mode": "eager", "progress": False}
    pvae.fit(model, NoLatents(), data, **options)
    assert torch.allclose(model.network.values[:2], torch.tensor([1.0, -2.0]), atol=0.2)


class Painted(nn.Module):
    """A net whose frames are painted, linear in the code: f = A z."""

    def __init__(self, a, loc, scale):
        super().__init__()
        self.a, self.loc, self.raw = a, loc, scale.expm1().log()

    def down(self, still):
        return [still]

    def code(self, features):
        shift = features[0].mean((-3, -2, -1))[:, None]
        return torch.stack([self.loc + shift, self.raw.expand(len(shift), -1)], -2)

    def up(self, z, features):
        painted = (z @ self.a.mT).unflatten(-1, (2, 1, 2, 2))
        flow, odds = torch.zeros_like(painted).expand(*z.shape[:-1], 2, 2, 2, 2), -100 - 0 * painted
        return torch.cat([flow, odds, painted], -3)


def test_bounds_of_futures_that_are_linear_in_the_code():
    """x | s ~ N(A μ(s), A diag σ² Aᵀ + I), with the prior as the guide."""
    torch.manual_seed(0)
    a, loc, scale = 0.5 * torch.randn(8, 2), torch.tensor([0.3, -1.0]), torch.tensor([0.5, 1.2])
    model = NextFrames((2, 1, 2, 2), 2, hidden_dims=[4], likelihood="gaussian")
    model.net = Painted(a, loc, scale)

    def guide(x, still):
        with pyro.plate("data", len(x)):
            pyro.sample("z", model.prior([still]))

    x, still = torch.randn(6, 2, 1, 2, 2), torch.rand(6, 1, 2, 2)
    cov = a @ torch.diag(scale**2) @ a.mT + torch.eye(8)
    mean = (loc + still.mean((1, 2, 3))[:, None]) @ a.mT
    expected = dist.MultivariateNormal(mean, cov).log_prob(x.flatten(1)).double()
    log_w = pvae.log_weights(model, guide, x, still, num_samples=20_000)
    w = log_w.double().exp()
    relative = w.std(0) / w.mean(0) / 20_000**0.5
    assert ((w.mean(0).log() - expected).abs() < 4 * relative).all()
    assert relative.max() < 0.05


def gaussian():
    torch.manual_seed(0)
    return NextFrames((3, 1, 4, 4), 2, hidden_dims=[8], likelihood="gaussian")


def small():
    torch.manual_seed(0)
    sizes = {"latent_dim": 2, "hidden_dims": [8]}
    return NextFrames((3, 1, 4, 4), **sizes), FramesMeanField((3, 1, 4, 4), **sizes)


def test_futures_of_a_still_differ_and_those_of_a_seed_do_not():
    model = gaussian()
    still = torch.rand(1, 1, 4, 4)
    x = torch.zeros(1, 3, 1, 4, 4)
    first = pvae.generate(model, 5, x, still)
    assert first.shape == (5, 3, 1, 4, 4)
    assert torch.equal(first, pvae.generate(model, 5, x, still))
    assert (first.std(0) > 0).all()
    assert model(still=still, size=5).shape == (5, 3, 1, 4, 4)


def test_a_moved_still_is_the_mean_of_a_frame():
    model = gaussian()

    class Moved(nn.Module):
        def up(self, z, features):
            parts = torch.zeros(*z.shape[:-1], 3, 4, 4, 4)
            parts[..., 0, :, :] = torch.arange(3.0)[:, None, None]  # frame t comes from t below
            parts[..., 2, :, :] = 100
            return parts

    model.net = Moved()
    still = torch.rand(5, 1, 4, 4)
    mean = model.likelihood(torch.zeros(5, 2), still, []).mean
    for t in range(3):
        rows = (torch.arange(4) + t).clamp(max=3)
        assert torch.allclose(mean[:, t], still[:, :, rows], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, n: b(torch.zeros(5, 1, 4, 4)), r"before was not given: call model\(x, before"),
        (lambda b, n: b(before=torch.zeros(1, 1, 4, 4)), "after was not given.*frames between"),
        (lambda b, n: n(torch.zeros(5, 3, 1, 4, 4)), r"still was not given.*frames='next'"),
        (
            lambda b, n: n(torch.zeros(5, 3, 1, 4, 4), torch.zeros(5, 1, 4, 5)),
            r"still has the shape \(5, 1, 4, 5\), and this model needs \(5, 1, 4, 4\)",
        ),
        (
            lambda b, n: n(still=torch.zeros(3, 1, 4, 4), size=5),
            r"still has the shape \(3, 1, 4, 4\).* or \(1, 1, 4, 4\) for all of them",
        ),
        (lambda b, n: FrameBetween((3, 1, 4, 4)), r"it needs a frame \(C, H, W\).*between"),
        (lambda b, n: NextFrames((1, 4, 4)), r"after a still \(T, C, H, W\).*frames next"),
        (lambda b, n: FramesMeanField((1, 4, 4)), r"after a still \(T, C, H, W\).*frames next"),
        (
            lambda b, n: FrameBetween((1, 4, 4), likelihood="logistic_mixture"),
            "LogisticMixture has no location for each value.*Choose gaussian",
        ),
    ],
)
def test_what_is_not_valid(call, message):
    between, after = FrameBetween((1, 4, 4), network=Fields()), small()[0]
    with pytest.raises(PvaeError, match=message):
        call(between, after)


def test_a_guide_needs_the_still_of_its_model():
    _, guide = small()
    x = torch.zeros(5, 3, 1, 4, 4)
    with pytest.raises(PvaeError, match=r"no still was given: call guide\(x, still\)"):
        guide(x)
    with pytest.raises(PvaeError, match=r"still has the shape \(5, 1, 4, 3\)"):
        guide(x, torch.zeros(5, 1, 4, 3))
