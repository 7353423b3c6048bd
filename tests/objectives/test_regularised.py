"""ELBOs that weigh the KL: their values by hand, and training with them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pvae import SVI, PvaeError, log_weights
from pvae.objectives import (
    IWAE_ELBO,
    STL_ELBO,
    Beta_ELBO,
    DReG_ELBO,
    FreeBits_ELBO,
    InfoVAE_ELBO,
    LatentScale,
)
from pvae.objectives.regularised import _mmd


class Sites:
    """Two latent sites of known Gaussians and one observation, and their terms on a seed's draws.

    KL(q(a) ‖ p(a)) is 0.5 in the mean, KL(q(b) ‖ p(b)) is 2.
    """

    def __init__(self):
        self.loc = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
        self.loc = {name: loc.double().requires_grad_() for name, loc in self.loc.items()}
        self.x = torch.linspace(-1, 1, 6, dtype=torch.float64)

    def model(self, x, size=None):
        one = torch.ones((), dtype=torch.float64)
        with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
            a, b = (pyro.sample(name, dist.Normal(0 * one, one)) for name in "ab")
            pyro.sample("x", dist.Normal(a + b, 1.5), obs=x)

    def guide(self, x, size=None):
        with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
            for name in "ab":
                pyro.sample(name, dist.Normal(self.loc[name], 1.0))

    def terms(self, num):
        """Log likelihood, KL terms of a and of b, each [num, 6], on the draws of seed 0."""
        torch.manual_seed(0)
        z = {n: self.loc[n] + torch.randn(num, 6, dtype=torch.float64) for n in "ab"}
        likelihood = dist.Normal(z["a"] + z["b"], 1.5).log_prob(self.x)
        kl = [
            dist.Normal(self.loc[n], 1.0).log_prob(z[n]) - dist.Normal(0.0, 1.0).log_prob(z[n])
            for n in "ab"
        ]
        return likelihood, *kl, z

    def loss(self, objective, *size):
        torch.manual_seed(0)
        return objective.differentiable_loss(self.model, self.guide, self.x, *size)


def test_beta_by_hand_and_as_a_latent_scale():
    pair = Sites()
    likelihood, a, b, _ = pair.terms(3)
    expected = -(likelihood - 0.3 * (a + b)).mean(0).sum()
    objective = Beta_ELBO(3, beta=0.3)
    torch.testing.assert_close(pair.loss(objective), expected)
    assert pair.loss(objective, 60).item() == pytest.approx(10 * expected.item())
    with LatentScale(0.3):
        torch.testing.assert_close(pair.loss(Beta_ELBO(3)), expected)
        torch.testing.assert_close(pair.loss(STL_ELBO(3)), expected)
    with LatentScale(torch.tensor(0.3, dtype=torch.float64)):
        torch.testing.assert_close(pair.loss(STL_ELBO(3)), expected)
        log_w = likelihood - 0.3 * (a + b)
        bound = (log_w.logsumexp(0) - math.log(3)).sum()
        for many in (IWAE_ELBO(3), DReG_ELBO(3)):
            torch.testing.assert_close(pair.loss(many), -bound)
            # The plate's scale stands outside the logarithm, the KL weight inside.
            torch.testing.assert_close(pair.loss(many, 60), -10 * bound)
    # Annealing: an attribute, a number or a tensor.
    objective.beta = 0.0
    torch.testing.assert_close(pair.loss(objective), -likelihood.mean(0).sum())
    objective.beta = torch.tensor(2.0, dtype=torch.float64)
    torch.testing.assert_close(pair.loss(objective), -(likelihood - 2 * (a + b)).mean(0).sum())


def test_free_bits_by_hand():
    pair = Sites()
    likelihood, a, b, _ = pair.terms(4)
    assert a.mean() < 1 < min(a.sum(), b.mean())
    # Single draws of b's KL are on both sides of λ: it is the mean that counts.
    assert (b < 1).any()
    expected = -likelihood.mean(0).sum() + 6 * (1 + b.mean())
    loss = pair.loss(FreeBits_ELBO(4, free_bits=1.0))
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, list(pair.loc.values()))
    theirs = torch.autograd.grad(expected, list(pair.loc.values()))
    torch.testing.assert_close(ours, theirs)
    scaled = pair.loss(FreeBits_ELBO(4, free_bits=1.0, beta=0.2), 60).item()
    likelihood, a, b, _ = pair.terms(4)
    assert scaled == pytest.approx(
        10 * (-likelihood.mean(0).sum() + 0.2 * 6 * (1 + b.mean())).item()
    )
    with pytest.raises(PvaeError, match="free_bits=-1"):
        FreeBits_ELBO(free_bits=-1)


def test_mmd_by_hand():
    z, other = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [2.0]]])
    e = math.exp
    cross = (1 + e(-2) + e(-0.5) + e(-0.5)) / 4
    assert _mmd(z, other, 1.0).item() == pytest.approx(e(-0.5) + e(-2) - 2 * cross)
    cross = (1 + e(-0.5) + e(-0.125) + e(-0.125)) / 4
    assert _mmd(z, other, 2.0).item() == pytest.approx(e(-0.125) + e(-0.5) - 2 * cross)
    assert _mmd(z[:, :1], other[:, 1:], 1.0).item() == pytest.approx(-2 * e(-2))
    # Without bias: zero in the mean for two samples of one distribution, however small.
    torch.manual_seed(0)
    same = torch.stack([_mmd(torch.randn(1, 3, 2), torch.randn(1, 3, 2), 1.0) for _ in range(3000)])
    assert abs(same.mean()) < 4 * same.std() / 3000**0.5
    # Particles are averaged, and never pooled.
    two = torch.cat([z, z + 5]), torch.cat([other, other + 5])
    torch.testing.assert_close(_mmd(*two, 1.0), _mmd(z, other, 1.0))


def test_infovae_by_hand():
    pair = Sites()
    likelihood, a, b, z = pair.terms(2)
    prior = [torch.randn(2, 6, dtype=torch.float64) for _ in "ab"]  # drawn after the guide's
    mmd = _mmd(torch.stack([z["a"], z["b"]], -1), torch.stack(prior, -1), math.sqrt(2))
    expected = -likelihood.mean(0).sum() + 0.25 * (a + b).mean(0).sum() + 6 * 30.0 * mmd
    loss = pair.loss(InfoVAE_ELBO(2, beta=0.25, mmd_weight=30.0))
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, list(pair.loc.values()))
    theirs = torch.autograd.grad(expected, list(pair.loc.values()))
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(PvaeError, match="bandwidth=0"):
        InfoVAE_ELBO(bandwidth=0)


def test_what_an_objective_penalises_is_not_evaluated():
    losses, weights = set(), []
    for objective in (
        Beta_ELBO(2), Beta_ELBO(2, beta=3.0), FreeBits_ELBO(2, 9.0), InfoVAE_ELBO(2)
    ):  # fmt: skip
        pair = Sites()
        losses.add(pair.loss(objective).item())
        torch.manual_seed(1)
        weights.append(log_weights(pair.model, pair.guide, pair.x, num_samples=4))
        with LatentScale(0.2):
            torch.manual_seed(1)
            weights.append(log_weights(pair.model, pair.guide, pair.x, num_samples=4))
    assert len(losses) == 4
    assert all(torch.equal(weights[0], other) for other in weights)


@pytest.mark.parametrize("kind", [SVI, pyro.infer.SVI])
def test_training_by_each_objective_raises_its_bound(kind):
    objectives = [IWAE_ELBO(3), DReG_ELBO(3), STL_ELBO(3), Beta_ELBO(3), FreeBits_ELBO(3, 0.01),
                  InfoVAE_ELBO(3, mmd_weight=5.0)]  # fmt: skip
    for objective in objectives:
        pyro.clear_param_store()
        encoder, decoder = (torch.nn.Linear(*n) for n in ((4, 2), (2, 4)))

        def model(x, decoder=decoder):
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

        def guide(x, encoder=encoder):
            pyro.module("encoder", encoder)
            scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(encoder(x), scale).to_event(1))

        torch.manual_seed(0)
        x = torch.randn(64, 2) @ torch.randn(2, 4)
        svi = kind(model, guide, pyro.optim.Adam({"lr": 0.02}), objective)
        losses = [svi.step(x) for _ in range(60)]
        assert losses[-1] < 0.7 * losses[0], type(objective).__name__
        assert pyro.param("scale").item() != 0.5
