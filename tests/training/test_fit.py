"""fit: what it learns, with every optimiser and objective, and what it refuses."""

import functools
import os
import subprocess
import sys
import textwrap

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import linear_gaussian
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from small import quick_fit, same_state, small_pair, state_of
from torch import nn

import pvae
from pvae import PvaeError


@pytest.fixture(scope="module")
def digits():
    return pvae.data.load("digits")


def test_elbo_rises_to_what_evaluation_finds(digits):
    pair = small_pair()
    fit = quick_fit(pair, digits, epochs=30)
    elbos = [row["elbo"] for row in fit.history]
    assert elbos[-1] > elbos[0] + 10
    result = pvae.evaluate(*pair, digits, num_samples=20, progress=False)
    assert abs(result.elbo.mean() - elbos[-1]) < 1.5
    assert fit.loss == "TraceMeanField_ELBO"
    assert fit.num_parameters == sum(p.numel() for side in pair for p in side.parameters())


def test_learns_the_exact_marginal_of_a_linear_gaussian_model():
    _, _, x, _ = linear_gaussian(dtype=torch.float32)
    torch.manual_seed(0)
    decoder, encoder = nn.Linear(2, 5), nn.Linear(5, 2)

    class Model(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.net = decoder
            self.scale = pyro.nn.PyroParam(torch.tensor(1.0), dist.constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)

    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.net = encoder
            self.scale = pyro.nn.PyroParam(torch.full((2,), 0.5), dist.constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x), self.scale).to_event(1))

    model, guide = Model(), Guide()
    before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
    quick_fit((model, guide), x, epochs=250, batch_size=50, lr=2e-2)
    after = [*model.parameters(), *guide.parameters()]
    # Both own `.net` and `.scale`: neither may share with, or hide, the other.
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    covariance = torch.cov(x.T, correction=0).double()
    best = dist.MultivariateNormal(x.mean(0).double(), covariance).log_prob(x.double()).mean()
    result = pvae.evaluate(model, guide, x, num_samples=500, progress=False)
    # Probabilistic PCA with two of five dimensions: just below the full-covariance optimum.
    assert best - 0.4 < result.log_px.mean() < best + 0.02
    assert list(pyro.get_param_store().keys()) == []


def test_two_pairs_in_one_process_equal_two_processes(digits, tmp_path):
    def trained(seed):
        pair = small_pair(seed, likelihood="gaussian", scale="learned")
        quick_fit(pair, digits, seed=seed)
        return state_of(pair)

    script = """
        import sys, torch, pvae
        sys.path.insert(0, sys.argv[1])
        from small import quick_fit, small_pair, state_of
        pair = small_pair(1, likelihood="gaussian", scale="learned")
        quick_fit(pair, pvae.data.load("digits"), seed=1)
        torch.save(state_of(pair), sys.argv[2])
    """
    here, file = os.path.dirname(os.path.dirname(__file__)), str(tmp_path / "alone.pt")
    command = [sys.executable, "-c", textwrap.dedent(script), here, file]
    subprocess.run(command, check=True)
    first, second = trained(0), trained(1)
    assert not same_state(first, second)
    assert same_state(second, torch.load(file))


def test_a_gradient_that_is_not_finite_never_reaches_the_parameters():
    weight = nn.Parameter(torch.zeros(2))
    module = nn.Module()
    module.weight = weight

    def model(x):
        pyro.module("m", module)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = z + weight.sqrt()  # finite at zero, its derivative is not
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    with pytest.raises(PvaeError, match="gradient is not finite"):
        pvae.fit(model, guide, torch.randn(8, 2), epochs=1, batch_size=8, progress=False)
    assert (weight == 0).all()


def test_learning_rate_decays_to_three_per_cent(digits):
    rows = quick_fit(small_pair(), digits, epochs=10).history
    rates = [row["learning_rate"] for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(3e-5, rel=0.05)
    burda = quick_fit(small_pair(), digits, schedule="burda", epochs=40, lr=1.0).history
    # Two thirds of the run, 3^7 of 3280 epochs, are the last stage; 3^6 the one before.
    stages = {12: 6, 13: 7, 39: 7}
    for epoch, stage in stages.items():
        assert burda[epoch]["learning_rate"] == pytest.approx(10 ** (-stage / 7))
    constant = quick_fit(small_pair(), digits, schedule="constant").history
    assert {row["learning_rate"] for row in constant} == {1e-3}
    halved = quick_fit(small_pair(), digits, schedule=lambda share: 0.5).history
    assert {row["learning_rate"] for row in halved} == {5e-4}


def test_kl_warmup_scales_both_programs_alike():
    """With β = 0 the prior has no pull: the loss is the reconstruction alone."""
    model, guide, x, _ = linear_gaussian()
    from pvae.objectives import LatentScale

    plain = pvae.evaluate(model, guide, x, num_samples=2000, progress=False)
    torch.manual_seed(0)
    for loss in (Trace_ELBO(2000, vectorize_particles=True), TraceMeanField_ELBO(2000)):
        for weight in (0.0, 0.5):
            with LatentScale(weight):
                value = -loss.loss(model, guide, x[:20]) / 20
            expected = (plain.reconstruction - weight * plain.kl)[:20].mean()
            assert value == pytest.approx(expected, abs=0.1)


def test_kl_warmup_is_applied_step_by_step(digits):
    plain, warmed = small_pair(), small_pair()
    rows = quick_fit(plain, digits).history
    assert [row["kl_weight"] for row in rows] == [1.0, 1.0, 1.0]
    rows = quick_fit(warmed, digits, kl_warmup=2).history
    assert [row["kl_weight"] for row in rows] == [0.5, 1.0, 1.0]
    assert not same_state(state_of(plain), state_of(warmed))


def test_clipping_bounds_the_update(digits):
    before = state_of(small_pair())
    for clip in (1e-6, None):
        pair = small_pair()
        sgd = functools.partial(torch.optim.SGD, lr=1.0 / 128)
        quick_fit(pair, digits, epochs=1, batch_size=1500, clip_norm=clip, optim=sgd)
        after = state_of(pair)
        moved = sum((after[n] - before[n]).square().sum() for n in after).sqrt()
        assert moved > 0
        if clip:
            assert moved == pytest.approx(clip * 1500 / 128, rel=0.05)


@pytest.mark.parametrize(
    "optim",
    [
        torch.optim.AdamW,
        functools.partial(torch.optim.SGD, lr=1e-4, momentum=0.9),
        pyro.optim.ClippedAdam({"lr": 1e-3}),
        pyro.optim.Adam(lambda name: {"lr": 1e-3 if "decoder" in name else 2e-3}),
        pyro.optim.ExponentialLR(
            {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-3}, "gamma": 0.5}
        ),
    ],
    ids=["AdamW", "SGD", "ClippedAdam", "per-parameter", "ExponentialLR"],
)
def test_any_optimiser_trains_and_resumes(digits, tmp_path, optim, monkeypatch):
    import copy

    whole, fresh = small_pair(), copy.deepcopy(optim)
    fit = quick_fit(whole, digits, epochs=4, optim=copy.deepcopy(optim))
    assert fit.history[-1]["elbo"] > fit.history[0]["elbo"]
    if isinstance(optim, pyro.optim.PyroOptim) and "Exponential" in str(
        getattr(optim, "pt_scheduler_constructor", "")
    ):
        rates = [row["learning_rate"] for row in fit.history]
        assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4])

    class Killed(BaseException):
        pass

    real, count = pvae.SVI.update, []

    def step(self, *batch):
        count.append(1)
        if len(count) > 17:
            raise Killed
        return real(self, *batch)

    monkeypatch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(pvae.SVI, "update", step)
    with pytest.raises(Killed):
        quick_fit(small_pair(), digits, epochs=4, optim=copy.deepcopy(fresh), out=tmp_path)
    monkeypatch.setattr(pvae.SVI, "update", real)
    resumed = small_pair()
    quick_fit(resumed, digits, epochs=4, optim=fresh, out=tmp_path, resume=True)
    assert same_state(state_of(whole), state_of(resumed))


def test_a_plateau_schedule_sees_the_bound(digits):
    optim = pyro.optim.ReduceLROnPlateau(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-3}, "factor": 0.1, "patience": 0,
         "threshold": 1e9, "threshold_mode": "abs"}
    )  # fmt: skip
    rows = quick_fit(small_pair(), digits, optim=optim).history
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 1e-3, 1e-4])


def test_an_optimiser_made_beforehand_must_hold_every_parameter(digits):
    model, guide = small_pair()
    both = torch.optim.Adam([*model.parameters(), *guide.parameters()], 1e-3)
    quick_fit((model, guide), digits, optim=both)
    with pytest.raises(PvaeError, match=r"does not hold.*guide\.encoder"):
        quick_fit((model, guide), digits, optim=torch.optim.Adam(model.parameters(), 1e-3))


def test_pyro_elbos_and_particles(digits):
    pair = small_pair()
    fit = quick_fit(pair, digits, loss="Trace_ELBO", num_particles=3)
    assert fit.loss == "Trace_ELBO"
    assert fit.history[-1]["elbo"] > fit.history[0]["elbo"]
    fit = quick_fit(
        pair, digits, loss=TraceMeanField_ELBO(num_particles=2, vectorize_particles=True)
    )
    assert fit.loss == "TraceMeanField_ELBO"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"loss": "Trace_ELB"}, "Did you mean Trace_ELBO"),
        ({"num_particles": 0}, "num_particles=0"),
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"clip_norm": -1.0}, "clip_norm=-1"),
        ({"device": "tpu9"}, "device='tpu9'"),
        ({"optim": 3}, "optim=3"),
        ({"optim": torch.optim.LBFGS}, "LBFGS evaluates the loss several times"),
    ],
)
def test_bad_arguments_get_one_message(digits, options, said):
    with pytest.raises(PvaeError, match=said):
        quick_fit(small_pair(), digits, **options)


def test_one_part_of_a_data_set_can_be_trained_on(digits):
    whole, part = small_pair(), small_pair()
    quick_fit(whole, digits)
    quick_fit(part, digits.train)
    assert same_state(state_of(whole), state_of(part))


def test_labels_reach_the_pair():
    data = pvae.data.load("digits", labels=True)
    seen = []

    def model(x, y):
        seen.append(y)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = z.sum(-1)[:, None, None, None].expand_as(x)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    encoder = nn.Linear(64, 2)

    def guide(x, y):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x.flatten(1)), 1.0).to_event(1))

    quick_fit((model, guide), data, epochs=1)
    assert {int(v) for y in seen for v in y} == set(range(10))


@pytest.mark.parametrize("loss", ["IWAE_ELBO", "DReG_ELBO", "STL_ELBO"])
def test_objectives_by_name(loss, digits):
    pair = small_pair()
    fit = quick_fit(pair, digits, loss=loss, num_particles=3)
    assert fit.loss == loss
    assert fit.history[-1]["elbo"] > fit.history[0]["elbo"]


def test_a_penalty_does_not_decide_when_to_stop():
    from pvae.objectives import FreeBits_ELBO

    data = pvae.data.load("digits", validation=200)
    pair = small_pair()
    fit = quick_fit(pair, data, loss=FreeBits_ELBO(free_bits=100.0), epochs=2)
    validation = pvae.evaluate(*pair, data.validation, num_samples=200, progress=False)
    # The objective stands 100 nats below the ELBO, but for what is free already.
    assert fit.history[-1]["elbo"] < validation.elbo.mean() - 50
    best = max(row["validation_elbo"] for row in fit.history)
    assert best == pytest.approx(validation.elbo.mean(), abs=1.0)
