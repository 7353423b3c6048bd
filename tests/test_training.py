"""fit: what it learns, that it repeats, resumes and stops, and what it refuses."""

import functools
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import linear_gaussian
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pvae
from pvae import PvaeError
from pvae.checkpoint import read_checkpoint, read_history


def _pair(seed=0, **options):
    torch.manual_seed(seed)
    options = {"latent_dim": 4, "hidden_dims": [16], **options}
    return (
        pvae.models.VAE((1, 8, 8), **options),
        pvae.guides.MeanField((1, 8, 8), latent_dim=4, hidden_dims=[16]),
    )


@pytest.fixture(scope="module")
def digits():
    return pvae.data.load("digits")


def _fit(pair, data, **options):
    options = {"epochs": 3, "progress": False, **options}
    return pvae.fit(*pair, data, **options)


def _state(pair):
    return {f"{i}.{n}": v.clone() for i, p in enumerate(pair) for n, v in p.state_dict().items()}


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_elbo_rises_to_what_evaluation_finds(digits):
    pair = _pair()
    fit = _fit(pair, digits, epochs=30)
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
    _fit((model, guide), x, epochs=250, batch_size=50, lr=2e-2)
    after = [*model.parameters(), *guide.parameters()]
    # Both own `.net` and `.scale`: neither may share with, or hide, the other.
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    covariance = torch.cov(x.T, correction=0).double()
    best = dist.MultivariateNormal(x.mean(0).double(), covariance).log_prob(x.double()).mean()
    result = pvae.evaluate(model, guide, x, num_samples=500, progress=False)
    # Probabilistic PCA with two of five dimensions: just below the full-covariance optimum.
    assert best - 0.4 < result.log_px.mean() < best + 0.02
    assert list(pyro.get_param_store().keys()) == []


def test_two_pairs_in_one_process_equal_two_processes(tmp_path):
    script = """
        import sys, torch, pvae
        sys.path.insert(0, sys.argv[1])
        from test_training import _pair, _fit, _state
        digits = pvae.data.load("digits")
        for seed in sys.argv[3:]:
            pair = _pair(int(seed), likelihood="gaussian", scale="learned")
            _fit(pair, digits, seed=int(seed))
            torch.save(_state(pair), f"{sys.argv[2]}/{'-'.join(sys.argv[3:])}.{seed}.pt")
    """
    here = os.path.dirname(__file__)
    folder = str(tmp_path)
    for seeds in (["0", "1"], ["0"], ["1"]):
        command = [sys.executable, "-c", textwrap.dedent(script), here, folder, *seeds]
        subprocess.run(command, check=True)
    for seed in "01":
        together = torch.load(f"{folder}/0-1.{seed}.pt")
        assert _same(together, torch.load(f"{folder}/{seed}.{seed}.pt"))


def test_same_seed_repeats_bit_for_bit_and_leaves_the_global_generator(digits):
    first, second, other = _pair(), _pair(), _pair()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    _fit(first, digits, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(321)
    _fit(second, digits, seed=5)
    _fit(other, digits, seed=6)
    assert _same(_state(first), _state(second))
    assert not _same(_state(first), _state(other))


@pytest.mark.parametrize("stop_after", [0, 1, 7, 12, 20, 31])
def test_resumed_run_equals_the_uninterrupted_one(digits, tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr("pvae.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    data = pvae.data.load("digits", validation=100)
    whole = _pair()
    options = {"epochs": 3, "kl_warmup": 2, "clip_norm": 1.0}
    expected = _fit(whole, data, out=tmp_path / "whole", **options)

    class Killed(BaseException):
        pass

    steps, real = [], pvae.SVI.step

    def step(self, *batch):
        if len(steps) == stop_after:
            raise Killed
        steps.append(1)
        return real(self, *batch)

    broken, out = _pair(), tmp_path / "broken"
    monkeypatch.setattr(pvae.SVI, "step", step)
    with pytest.raises(Killed):
        _fit(broken, data, out=out, resume=True, **options)
    monkeypatch.setattr(pvae.SVI, "step", real)
    resumed = _pair()
    got = _fit(resumed, data, out=out, resume=True, **options)
    assert _same(_state(whole), _state(resumed))
    assert got.history == expected.history
    a, b = (read_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("whole", "broken"))
    assert _plain(a) == _plain(b)


def _plain(thing):
    if isinstance(thing, torch.Tensor):
        return thing.tolist()
    if isinstance(thing, dict):
        return {k: _plain(v) for k, v in thing.items()}
    return [_plain(v) for v in thing] if isinstance(thing, list | tuple) else thing


def test_killed_at_any_moment_and_resumed(digits, tmp_path):
    """SIGKILL, not an exception: also in the middle of writing a checkpoint."""
    script = """
        import sys, pvae, pvae.loop
        sys.path.insert(0, sys.argv[1])
        from test_training import _pair, _fit
        pvae.loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0
        _fit(_pair(), pvae.data.load("digits"), epochs=25, out=sys.argv[2], resume=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), os.path.dirname(__file__)]
    whole = _pair()
    _fit(whole, digits, epochs=25)
    out = tmp_path / "run"
    for wait in (0.0, 0.13, 0.31):
        process = subprocess.Popen([*command, str(out)])
        while process.poll() is None and not (out / "checkpoint.pt").exists():
            time.sleep(0.01)
        time.sleep(wait)
        process.kill()
        process.wait()
    assert read_checkpoint(out / "checkpoint.pt")["progress"][0] < 25
    subprocess.run([*command, str(out)], check=True)
    resumed = _pair()
    pvae.load(out, model=resumed[0], guide=resumed[1])
    assert _same(_state(whole), _state(resumed))


def test_resuming_a_finished_run_trains_no_further(digits, tmp_path):
    pair = _pair()
    _fit(pair, digits, out=tmp_path)
    before = _state(pair)
    again = _pair(1)
    fit = _fit(again, digits, out=tmp_path, resume=True)
    assert len(fit.history) == 3
    assert _same(before, _state(again))


def test_resuming_with_other_settings_is_refused(digits, tmp_path):
    _fit(_pair(), digits, out=tmp_path)
    with pytest.raises(PvaeError, match="was started with epochs=3, not epochs=5"):
        _fit(_pair(), digits, out=tmp_path, resume=True, epochs=5)


def test_a_folder_with_a_run_is_not_overwritten(digits, tmp_path):
    _fit(_pair(), digits, out=tmp_path)
    with pytest.raises(PvaeError, match="resume=True"):
        _fit(_pair(), digits, out=tmp_path)


def test_ctrl_c_saves_and_says_how_to_go_on(digits, tmp_path, capsys):
    whole = _pair()
    _fit(whole, digits, epochs=40)

    def press():
        time.sleep(0.7)
        os.kill(os.getpid(), signal.SIGINT)

    pair = _pair()
    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        _fit(pair, digits, epochs=40, out=tmp_path)
    said = capsys.readouterr().out
    assert f"pvae run --resume {tmp_path}" in said
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = _pair()
    _fit(resumed, digits, epochs=40, out=tmp_path, resume=True)
    assert _same(_state(whole), _state(resumed))


def test_nan_names_site_step_and_batch_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("pvae.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    x = torch.zeros(64, 3)
    steps = []

    class Model(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 3)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                loc = self.net(z)
                steps.append(1)
                if len(steps) > 8:
                    loc = loc * math.nan
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    model, guide = Model(), Guide()
    with pytest.raises(PvaeError, match=r"step 2 of epoch 2 .*16 data.*site 'x' in the model"):
        pvae.fit(model, guide, x, epochs=5, batch_size=16, out=tmp_path, progress=False)
    saved = read_checkpoint(tmp_path / "checkpoint.pt")["state"]["modules"]
    assert all(v.isfinite().all() for part in saved.values() for v in part.values())
    assert all(p.isfinite().all() for p in (*model.parameters(), *guide.parameters()))


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


def test_early_stopping_returns_to_the_best_epoch():
    data = pvae.data.load("digits", observation="fixed", validation=1200)
    pair = _pair(hidden_dims=[64])
    fit = _fit(pair, data, epochs=400, lr=1e-2, patience=3, schedule="constant", batch_size=50)
    scores = [row["validation_elbo"] for row in fit.history]
    assert len(scores) < 400
    assert len(scores) - fit.best_epoch == 3
    assert scores[fit.best_epoch - 1] == max(scores)
    shorter = _pair(hidden_dims=[64])
    options = {"lr": 1e-2, "schedule": "constant", "batch_size": 50}
    _fit(shorter, data, epochs=fit.best_epoch, **options)
    assert _same(_state(shorter), _state(pair))


def test_without_a_validation_part_nothing_stops_early(digits):
    assert len(_fit(_pair(), digits, epochs=4, patience=1).history) == 4


def test_learning_rate_decays_to_three_per_cent(digits):
    rows = _fit(_pair(), digits, epochs=10).history
    rates = [row["learning_rate"] for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(3e-5, rel=0.05)
    constant = _fit(_pair(), digits, schedule="constant").history
    assert {row["learning_rate"] for row in constant} == {1e-3}
    halved = _fit(_pair(), digits, schedule=lambda share: 0.5).history
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
    plain, warmed = _pair(), _pair()
    rows = _fit(plain, digits).history
    assert [row["kl_weight"] for row in rows] == [1.0, 1.0, 1.0]
    rows = _fit(warmed, digits, kl_warmup=2).history
    assert [row["kl_weight"] for row in rows] == [0.5, 1.0, 1.0]
    assert not _same(_state(plain), _state(warmed))


def test_clipping_bounds_the_update(digits):
    before = _state(_pair())
    for clip in (1e-6, None):
        pair = _pair()
        sgd = functools.partial(torch.optim.SGD, lr=1.0 / 128)
        _fit(pair, digits, epochs=1, batch_size=1500, clip_norm=clip, optim=sgd)
        after = _state(pair)
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

    whole, fresh = _pair(), copy.deepcopy(optim)
    fit = _fit(whole, digits, epochs=4, optim=copy.deepcopy(optim))
    assert fit.history[-1]["elbo"] > fit.history[0]["elbo"]
    if isinstance(optim, pyro.optim.PyroOptim) and "Exponential" in str(
        getattr(optim, "pt_scheduler_constructor", "")
    ):
        rates = [row["learning_rate"] for row in fit.history]
        assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4])

    class Killed(BaseException):
        pass

    real, count = pvae.SVI.step, []

    def step(self, *batch):
        count.append(1)
        if len(count) > 17:
            raise Killed
        return real(self, *batch)

    monkeypatch.setattr("pvae.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(pvae.SVI, "step", step)
    with pytest.raises(Killed):
        _fit(_pair(), digits, epochs=4, optim=copy.deepcopy(fresh), out=tmp_path)
    monkeypatch.setattr(pvae.SVI, "step", real)
    resumed = _pair()
    _fit(resumed, digits, epochs=4, optim=fresh, out=tmp_path, resume=True)
    assert _same(_state(whole), _state(resumed))


def test_an_optimiser_made_beforehand_must_hold_every_parameter(digits):
    model, guide = _pair()
    both = torch.optim.Adam([*model.parameters(), *guide.parameters()], 1e-3)
    _fit((model, guide), digits, optim=both)
    with pytest.raises(PvaeError, match=r"does not hold.*guide\.encoder"):
        _fit((model, guide), digits, optim=torch.optim.Adam(model.parameters(), 1e-3))


def test_pyro_elbos_and_particles(digits):
    pair = _pair()
    fit = _fit(pair, digits, loss="Trace_ELBO", num_particles=3)
    assert fit.loss == "Trace_ELBO"
    assert fit.history[-1]["elbo"] > fit.history[0]["elbo"]
    fit = _fit(pair, digits, loss=TraceMeanField_ELBO(num_particles=2, vectorize_particles=True))
    assert fit.loss == "TraceMeanField_ELBO"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2000}, r"larger than the training data \(1500\)"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"loss": "Trace_ELB"}, "Did you mean Trace_ELBO"),
        ({"num_particles": 0}, "num_particles=0"),
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"clip_norm": -1.0}, "clip_norm=-1"),
        ({"device": "tpu9"}, "device='tpu9'"),
        ({"optim": 3}, "optim=3"),
    ],
)
def test_bad_arguments_get_one_message(digits, options, said):
    with pytest.raises(PvaeError, match=said):
        _fit(_pair(), digits, **options)


def test_a_folder_that_cannot_be_written(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PvaeError, match="Cannot write"):
        _fit(_pair(), digits, out=tmp_path / "file" / "run")


def test_full_disk_keeps_training_then_says_so(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("pvae.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    pair = _pair()
    before = _state(pair)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with (
        pytest.warns(UserWarning, match="No space left.*Training goes on"),
        pytest.raises(PvaeError, match="No space left"),
    ):
        _fit(pair, digits, out=tmp_path)
    assert not _same(before, _state(pair))  # what was learned is in memory still


def test_one_part_of_a_data_set_can_be_trained_on(digits):
    whole, part = _pair(), _pair()
    _fit(whole, digits)
    _fit(part, digits.train)
    assert _same(_state(whole), _state(part))


def test_history_file(digits, tmp_path):
    fit = _fit(_pair(), digits, out=tmp_path)
    assert read_history(tmp_path) == fit.history
    assert [row["epoch"] for row in fit.history] == [1, 2, 3]


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

    _fit((model, guide), data, epochs=1)
    assert {int(v) for y in seen for v in y} == set(range(10))
