"""The VampPrior."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal, constraints

import pvae
from pvae import PvaeError
from pvae.cli.main import main
from pvae.distributions import Head, Levels
from pvae.guides import SharedEncoder
from pvae.models import VampPriorVAE


def small(num=5, **options):
    torch.manual_seed(0)
    return VampPriorVAE((1, 8, 8), 2, num_pseudo_inputs=num, hidden_dims=[16], **options)


def digits():
    return pvae.data.load("digits").train.tensors()[0]


def test_prior_is_the_mean_of_the_posteriors_of_the_pseudo_inputs():
    model, z = small(), torch.randn(7, 2)
    parts = Normal(*model.encode(model.pseudo_inputs)).log_prob(z[:, None]).sum(-1)
    torch.testing.assert_close(model.prior().log_prob(z), parts.exp().mean(-1).log())


def test_of_all_data_it_is_the_average_posterior():
    # Then the marginal KL of the ELBO surgery, KL(q(z) || p(z)), is zero.
    x = (torch.rand(40, 1, 8, 8) < 0.5).float().clamp(0.05, 0.95)
    model = small(40, likelihood="continuous_bernoulli")
    model.start_from(x)
    found = pvae.evaluate(model, SharedEncoder(model), x, num_samples=5, progress=False)
    assert abs(found.findings["surgery"].marginal_kl) < 1e-4


def test_starts_from_data():
    x = digits()
    model = small(30)
    model.start_from(x)
    u = model.pseudo_inputs
    same = (u.round()[:, None] == x).flatten(2).all(-1)
    assert same.any(1).all()
    assert same.any(0).sum() >= 25  # thirty different data, of which a few look alike
    torch.testing.assert_close(u.min(), torch.tensor(0.05))
    real = small(30, likelihood="gaussian")
    real.start_from(x - 3)
    assert real.pseudo_inputs.min() == -3


def test_pseudo_inputs_are_trained_and_stay_in_the_unit_interval():
    model = small()
    before = model.pseudo_inputs.detach().clone()
    guide = SharedEncoder(model)
    pvae.fit(model, guide, digits()[:200], epochs=10, lr=0.1, mode="eager", progress=False)
    u = model.pseudo_inputs
    assert not torch.allclose(u, before, atol=0.1)
    assert u.min() >= 0
    assert u.max() <= 1


@pytest.mark.parametrize("likelihood", ["poisson", "zero_inflated_negative_binomial"])
def test_pseudo_inputs_of_counts_are_counts(likelihood):
    torch.manual_seed(0)
    x = torch.poisson(torch.full((60, 1, 8, 8), 7.0))
    model = small(10, likelihood=likelihood)
    assert model.pseudo_inputs.min() > 0
    model.start_from(x)
    u = model.pseudo_inputs.detach().clone()
    assert u.max() > 10
    apart = (u[:, None] - x.clamp(min=0.05)).abs().amax((2, 3, 4)).amin(1)
    assert (apart < 1e-4).all()
    options = {"batch_size": 20, "lr": 0.1, "mode": "eager", "progress": False}
    pvae.fit(model, SharedEncoder(model), x, epochs=2, **options)
    assert model.pseudo_inputs.min() > 0
    assert (model.pseudo_inputs - u).abs().max() > 0.1


class Supported(Head):
    """A head whose values have a given support."""

    def __init__(self, support):
        super().__init__()
        self.support = support

    def forward(self, f):
        return dist.Normal(f, 1.0).to_event(self.event_dim)


@pytest.mark.parametrize(
    ("support", "low", "high"),
    [
        (constraints.real, -3.0, 5.0),
        (constraints.independent(constraints.real, 3), -3.0, 5.0),
        (constraints.interval(-4.0, 6.0), -3.0, 5.0),
        (constraints.positive, 0.05, 5.0),
        (constraints.boolean, 0.05, 0.95),
        (Levels(17), 0.05, 0.95),
    ],
    ids=str,
)
def test_pseudo_inputs_have_the_range_of_the_likelihoods_values(support, low, high):
    model = small(2, likelihood=Supported(support))
    model.start_from(torch.tensor([-3.0, 5.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8))
    u = model.pseudo_inputs
    torch.testing.assert_close((u.min(), u.max()), (torch.tensor(low), torch.tensor(high)))


def test_a_checkpoint_whose_counts_had_pseudo_inputs_below_one_keeps_its_prior(tmp_path):
    x = torch.poisson(torch.full((20, 1, 8, 8), 7.0))
    model = small(5, likelihood="poisson")
    pair = model, SharedEncoder(model)
    pvae.fit(*pair, x, epochs=1, batch_size=20, out=tmp_path, mode="eager", progress=False)
    checkpoint = torch.load(tmp_path / "checkpoint.pt")
    logits = torch.randn(5, 1, 8, 8)
    (state,) = (m for m in checkpoint["state"]["modules"].values() if "pseudo.before_softplus" in m)
    del state["pseudo.before_softplus"]
    state["pseudo.logits"] = logits
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    pvae.load(tmp_path, model=model, guide=pair[1])
    torch.testing.assert_close(model.pseudo_inputs, logits.sigmoid())


def test_in_the_shell_they_are_data_from_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pair = ["train", "--model", "VampPriorVAE", "--guide", "SharedEncoder", "--epochs", "1"]
    quiet = ["--lr", "1e-12", "--progress", "false", "--out", "a"]
    few = ["--model.num_pseudo_inputs", "7"]
    assert main([*pair, *few, *quiet, "--overwrite"]) == 0
    model, _ = pvae.load("a")
    train = pvae.data.load("digits").train.tensors()[0].clamp(0.05, 0.95)
    apart = (model.pseudo_inputs[:, None] - train).abs().amax((2, 3, 4))
    assert (apart.amin(1) < 1e-5).all()
    capsys.readouterr()
    many = ["--model.num_pseudo_inputs", "1797"]
    assert main([*pair, *many, *quiet[:-1], "b"]) == 1
    assert "num_pseudo_inputs=1797 is larger than the data" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_bad_arguments():
    with pytest.raises(PvaeError, match="num_pseudo_inputs=0: it must be at least 1"):
        small(0)
    with pytest.raises(PvaeError, match=r"num_pseudo_inputs=5 is larger than the data \(4\)"):
        small(5).start_from(torch.zeros(4, 1, 8, 8))
    with pytest.raises(PvaeError, match="network='resnet'"):
        small(network="resnet")
