"""The training loop: it repeats, resumes after any interruption, and stops when it should."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from small import quick_fit, same_state, small_pair, state_of
from torch import nn

import pvae
from pvae import PvaeError
from pvae.runs.folder import read_history
from pvae.training.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def digits():
    return pvae.data.load("digits")


def test_same_seed_repeats_bit_for_bit_and_leaves_the_global_generator(digits):
    first, second, other = small_pair(), small_pair(), small_pair()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    quick_fit(first, digits, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(321)
    quick_fit(second, digits, seed=5)
    quick_fit(other, digits, seed=6)
    assert same_state(state_of(first), state_of(second))
    assert not same_state(state_of(first), state_of(other))


@pytest.mark.parametrize("stop_after", [0, 1, 7, 12, 20, 31])
def test_resumed_run_equals_the_uninterrupted_one(digits, tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    data = pvae.data.load("digits", validation=100)
    whole = small_pair()
    options = {"epochs": 3, "kl_warmup": 2, "clip_norm": 1.0}
    expected = quick_fit(whole, data, out=tmp_path / "whole", **options)

    class Killed(BaseException):
        pass

    steps, real = [], pvae.SVI.update

    def step(self, *batch):
        if len(steps) == stop_after:
            raise Killed
        steps.append(1)
        return real(self, *batch)

    broken, out = small_pair(), tmp_path / "broken"
    monkeypatch.setattr(pvae.SVI, "update", step)
    with pytest.raises(Killed):
        quick_fit(broken, data, out=out, resume=True, **options)
    monkeypatch.setattr(pvae.SVI, "update", real)
    resumed = small_pair()
    got = quick_fit(resumed, data, out=out, resume=True, **options)
    assert same_state(state_of(whole), state_of(resumed))
    assert got.history == expected.history
    a, b = (read_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("whole", "broken"))
    times = [each.pop("made") for each in (a, b)]
    assert all(made["seconds"] > 0 and made["device"].startswith("CPU") for made in times)
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
        import sys, pvae, pvae.training.loop
        sys.path.insert(0, sys.argv[1])
        from small import quick_fit, small_pair
        pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0
        quick_fit(small_pair(), pvae.data.load("digits"), epochs=15, out=sys.argv[2], resume=True)
    """
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(script),
        os.path.dirname(os.path.dirname(__file__)),
    ]
    whole = small_pair()
    quick_fit(whole, digits, epochs=15)
    out = tmp_path / "run"
    for wait in (0.0, 0.13, 0.31):
        process = subprocess.Popen([*command, str(out)])
        while process.poll() is None and not (out / "checkpoint.pt").exists():
            time.sleep(0.01)
        time.sleep(wait)
        process.kill()
        process.wait()
    assert read_checkpoint(out / "checkpoint.pt")["progress"][0] < 15
    subprocess.run([*command, str(out)], check=True)
    resumed = small_pair()
    pvae.load(out, model=resumed[0], guide=resumed[1])
    assert same_state(state_of(whole), state_of(resumed))


def test_resuming_a_finished_run_trains_no_further(digits, tmp_path):
    pair = small_pair()
    quick_fit(pair, digits, out=tmp_path)
    before = state_of(pair)
    again = small_pair(1)
    fit = quick_fit(again, digits, out=tmp_path, resume=True)
    assert len(fit.history) == 3
    assert same_state(before, state_of(again))


def test_resuming_with_other_settings_is_refused(digits, tmp_path):
    quick_fit(small_pair(), digits, out=tmp_path)
    said = r"other settings: epochs 3 → 2; batch_size 128 → 64; lr 0.001 → 0.5\. .* same run"
    again = {"out": tmp_path, "resume": True}
    with pytest.raises(PvaeError, match=said):
        quick_fit(small_pair(), digits, epochs=2, batch_size=64, lr=0.5, **again)


def test_a_folder_with_a_run_is_not_overwritten(digits, tmp_path):
    quick_fit(small_pair(), digits, out=tmp_path)
    with pytest.raises(PvaeError, match="resume=True"):
        quick_fit(small_pair(), digits, out=tmp_path)


def test_ctrl_c_saves_and_says_how_to_go_on(digits, tmp_path, capsys):
    pressed = []

    def schedule(share):
        if share > 0.4 and not pressed:  # in the middle of an epoch
            pressed.append(share)
            signal.raise_signal(signal.SIGINT)
        return 1 - share

    pair, before = small_pair(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        quick_fit(pair, digits, schedule=schedule, out=tmp_path)
    assert f"pvae run --resume {tmp_path}" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    assert read_checkpoint(tmp_path / "checkpoint.pt")["progress"][:2] == [1, 4]
    whole, resumed = small_pair(), small_pair()
    quick_fit(whole, digits, schedule=schedule)
    quick_fit(resumed, digits, schedule=schedule, out=tmp_path, resume=True)
    assert same_state(state_of(whole), state_of(resumed))


def test_nan_names_site_step_and_batch_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
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
                steps.extend([1] * torch.is_grad_enabled())  # those of training
                if len(steps) > 5:
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


def test_early_stopping_returns_to_the_best_epoch():
    data = pvae.data.load("digits", observation="fixed", validation=1200)
    pair = small_pair(hidden_dims=[64])
    fit = quick_fit(pair, data, epochs=400, lr=1e-2, patience=3, schedule="constant", batch_size=50)
    scores = [row["validation_elbo"] for row in fit.history]
    assert len(scores) < 400
    assert len(scores) - fit.best_epoch == 3
    assert scores[fit.best_epoch - 1] == max(scores)
    shorter = small_pair(hidden_dims=[64])
    options = {"lr": 1e-2, "schedule": "constant", "batch_size": 50}
    quick_fit(shorter, data, epochs=fit.best_epoch, **options)
    assert same_state(state_of(shorter), state_of(pair))


def test_without_a_validation_part_nothing_stops_early(digits):
    assert len(quick_fit(small_pair(), digits, epochs=4, patience=1).history) == 4


def test_a_folder_that_cannot_be_written(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PvaeError, match="Cannot write"):
        quick_fit(small_pair(), digits, out=tmp_path / "file" / "run")


def test_full_disk_keeps_training_then_says_so(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    pair = small_pair()
    before = state_of(pair)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with (
        pytest.warns(UserWarning, match="No space left.*Training goes on"),
        pytest.raises(PvaeError, match="No space left"),
    ):
        quick_fit(pair, digits, out=tmp_path)
    assert not same_state(before, state_of(pair))  # what was learned is in memory still


def test_history_file(digits, tmp_path):
    fit = quick_fit(small_pair(), digits, out=tmp_path)
    assert read_history(tmp_path) == fit.history
    assert [row["epoch"] for row in fit.history] == [1, 2, 3]


def test_history_does_not_depend_on_when_checkpoints_are_written(digits, tmp_path, monkeypatch):
    real, found = pvae.SVI.update, []
    # As a compiled step returns it.
    monkeypatch.setattr(pvae.SVI, "update", lambda self, *x: torch.tensor(real(self, *x)))
    for interval in (1e9, 0.0):
        monkeypatch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", interval)
        fitted = quick_fit(small_pair(), digits, batch_size=32, out=tmp_path / str(interval))
        found.append(fitted.history)
    assert found[0] == found[1]
    monkeypatch.setattr(pvae.SVI, "update", real)
    assert quick_fit(small_pair(), digits, batch_size=32).history == found[0]
