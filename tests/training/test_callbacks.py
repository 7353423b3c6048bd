"""Callbacks of fit: when they are called, what they see, how they stop a run, and failures."""

import math

import pytest
import torch
from small import quick_fit, same_state, small_pair, state_of

from pvae import PvaeError
from pvae.callbacks import Callback
from pvae.objectives import Beta_ELBO
from pvae.training.checkpoint import read_checkpoint
from pvae.training.hooks import hooked

X = torch.randint(0, 2, (72, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()
SIZES = {"batch_size": 16, "epochs": 3}  # five steps in an epoch


class Log(Callback):
    """Notes its calls, and draws random numbers where it may."""

    def __init__(self):
        self.calls = []

    def note(self, hook, training):
        seen = training.epoch, training.step, len(training.history), training.finished
        self.calls.append((hook, *seen))

    def start(self, training):
        torch.rand(3)
        self.note("start", training)

    def epoch(self, training):
        torch.rand(3)
        self.note("epoch", training)

    def end(self, training):
        self.note("end", training)


class Steps(Log):
    def step(self, training):
        self.note("step", training)
        self.losses = [*getattr(self, "losses", []), training.loss]


class Fails(Callback):
    def __init__(self, hook, at):
        self.at = at
        setattr(self, hook, self._fail)

    def _fail(self, training):
        if training.step == self.at:
            raise KeyError("a bug")


def test_hooks_are_called_in_order_and_change_no_number():
    log, plain, watched = Steps(), small_pair(), small_pair()
    expected = quick_fit(plain, X, **SIZES)
    found = quick_fit(watched, X, callbacks=[log], **SIZES)
    assert same_state(state_of(plain), state_of(watched))
    assert found.history == expected.history
    calls = [("start", 0, 0, 0, False)]
    for epoch in range(3):
        calls += [("step", epoch, 5 * epoch + i, epoch, False) for i in range(1, 6)]
        calls.append(("epoch", epoch + 1, 5 * epoch + 5, epoch + 1, False))
    assert log.calls == [*calls, ("end", 3, 15, 3, True)]
    sizes = [16, 16, 16, 16, 8]  # the losses are per datum
    total = sum(loss * size for loss, size in zip(log.losses[:5], sizes, strict=True))
    assert -total / 72 == pytest.approx(found.history[0]["elbo"], rel=1e-6)


def test_a_callback_without_a_step_is_not_called_after_steps():
    class Seen(Callback):
        def epoch(self, training):
            self.loss = training.loss

    seen = Seen()
    assert hooked([seen], "step") == []
    quick_fit(small_pair(), X, callbacks=[seen], **SIZES)
    assert math.isnan(seen.loss), "the loss was prepared for nobody"


@pytest.mark.parametrize(("hook", "epochs"), [("start", 0), ("step", 1), ("epoch", 1)])
def test_a_callback_ends_training_after_the_epoch(hook, epochs):
    class Stops(Callback):
        def end(self, training):
            self.finished = training.finished

    stops = Stops()
    setattr(stops, hook, lambda training: training.stop())
    assert len(quick_fit(small_pair(), X, callbacks=[stops], **SIZES).history) == epochs
    assert stops.finished


@pytest.mark.parametrize(
    ("hook", "at", "progress"),
    [("step", 7, [1, 2]), ("step", 10, [1, 5]), ("epoch", 10, [2, 0])],
)
def test_a_failure_is_saved_first_and_names_the_callback(tmp_path, hook, at, progress):
    whole, resumed, log = small_pair(), small_pair(), Log()
    expected = quick_fit(whole, X, average=0.9, **SIZES)
    out = {"out": tmp_path / "run", "average": 0.9, **SIZES}
    said = rf"The callback Fails failed in `{hook}`, .*KeyError: 'a bug'\. The run is saved in"
    with pytest.raises(PvaeError, match=said):
        quick_fit(small_pair(), X, callbacks=[log, Fails(hook, at)], **out)
    assert log.calls[-1][0] == "end"
    assert not log.calls[-1][-1], "training was not complete"
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["progress"][:2] == progress
    found = quick_fit(resumed, X, resume=True, **out)
    assert found.history == expected.history
    assert same_state(state_of(whole), state_of(resumed))


def test_a_failure_at_the_start_frees_the_folder(tmp_path):
    with pytest.raises(PvaeError, match=r"Fails failed in `start`\. .* Nothing has been trained"):
        quick_fit(small_pair(), X, callbacks=[Fails("start", 0)], out=tmp_path / "run", **SIZES)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_what_a_callback_keeps_is_there_after_resuming(tmp_path):
    class Counts(Callback):
        def epoch(self, training):
            training.kept["epochs"] = training.kept.get("epochs", 0) + 1
            self.count = training.kept["epochs"]

    counts, again = Counts(), Counts()
    out = {"out": tmp_path, **SIZES}
    with pytest.raises(PvaeError):
        quick_fit(small_pair(), X, callbacks=[counts, Fails("epoch", 10)], **out)
    quick_fit(small_pair(), X, callbacks=[again], resume=True, **out)
    assert (counts.count, again.count) == (2, 3)


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        ([Log], r"Log is a class\. Give an object, Log\(\)"),
        (Log(), "give a list"),
        ([print], "is not a callback"),
        ([Callback()], "has no method start, step, epoch or end"),
    ],
)
def test_what_is_no_callback_is_refused(callbacks, said):
    with pytest.raises(PvaeError, match=said):
        quick_fit(small_pair(), X, callbacks=callbacks)


def test_the_bar_says_when_it_compiles(capsys):
    quick_fit(small_pair(), X[:16], batch_size=16, epochs=2, mode="compiled", progress=True)
    assert "epoch 1/2, compiling" in capsys.readouterr().err


@pytest.mark.parametrize(("loss", "name"), [("auto", "ELBO"), (Beta_ELBO(beta=4.0), "objective")])
def test_the_bar_calls_no_objective_with_penalties_an_elbo(loss, name, capsys):
    quick_fit(small_pair(), X[:16], batch_size=16, epochs=1, loss=loss, progress=True)
    assert f" {name}=" in capsys.readouterr().err
