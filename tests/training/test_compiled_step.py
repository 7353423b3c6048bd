"""Compiled steps have the numbers of eager ones, whatever changes.

Most tests run the recorded graph (`uncompiled`). The last ones compile it.
"""

import itertools
import os
import sys
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PROGRAMS
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from small import quick_fit, same_state, small_pair, state_of
from stepping import Guide, X, agree, fresh_pair, steps_of
from torch import nn

import pvae
from pvae import SVI, PvaeError
from pvae.training import compiled_step as module

pytestmark = pytest.mark.usefixtures("unvalidated")


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO(), Trace_ELBO(3)])
def test_compiled_steps_are_eager_steps(uncompiled, loss):
    svi = agree(fresh_pair, loss=loss)
    assert svi.compiled
    assert svi.why_eager is None
    assert len(uncompiled) == 1


def test_python_runs_once(uncompiled):
    pair, calls = fresh_pair(), []
    pair[0].net.register_forward_hook(lambda *_: calls.append(1))
    steps_of(pair, "compiled", steps=20)
    assert len(calls) == 3  # eagerly twice, to compare with, and recorded


@pytest.mark.parametrize(
    "middle",
    [lambda: nn.BatchNorm1d(6).double(), lambda: nn.Dropout(0.5)],
    ids=["batch_norm", "dropout"],
)
def test_buffers_and_dropout(uncompiled, middle):
    svi = agree(lambda: fresh_pair(middle()), steps=8)
    assert svi.compiled


def test_an_annealed_kl_weight_is_an_input(uncompiled):
    def before(i, svi):
        svi.kl_weight = 0.1 * i

    svi = agree(fresh_pair, before)
    assert svi.compiled
    assert len(uncompiled) == 1


def test_a_float_attribute_that_changes_becomes_an_input(uncompiled):
    def before(i, svi):
        svi.model.beta = 1.0 + max(0, i - 2)

    svi = agree(fresh_pair, before, steps=8)
    assert svi.compiled
    assert len(uncompiled) == 2  # as a constant, and as an input


def test_an_attribute_that_changes_once_is_recorded_anew(uncompiled):
    def before(i, svi):
        svi.model.power = 1 if i < 3 else 2

    assert agree(fresh_pair, before).compiled
    assert len(uncompiled) == 2


def test_a_submodule_that_is_exchanged(uncompiled):
    def before(i, svi):
        if i == 3:
            torch.manual_seed(5)
            svi.model.net[1] = nn.ReLU()

    assert agree(fresh_pair, before).compiled
    assert len(uncompiled) == 2


def test_closures_and_globals_are_watched(uncompiled, monkeypatch):
    monkeypatch.setitem(globals(), "FACTOR", 1.0)

    def make():
        torch.manual_seed(0)
        net, scale = nn.Linear(2, 4).double(), 1.0
        guide = Guide()

        def model(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(FACTOR * net(z), scale).to_event(1), obs=x)  # noqa: F821

        def change(value):
            nonlocal scale
            scale = value

        model.change = change
        return model, guide

    def before(i, svi):
        globals()["FACTOR"] = 1.0 if i < 2 else 2.0
        svi.model.change(1.0 if i < 4 else 3.0)

    assert agree(make, before).compiled
    assert len(uncompiled) == 3


def test_a_tensor_in_a_closure_may_change_in_place(uncompiled):
    def make():
        factor = torch.ones(3, dtype=torch.float64)
        net, guide = nn.Linear(2, 4).double(), Guide()
        nn.init.ones_(net.weight)
        nn.init.ones_(guide.net.weight)

        def model(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(factor[1] * net(z), 1.0).to_event(1), obs=x)

        model.factor = factor
        return model, guide

    def before(i, svi):
        svi.model.factor.fill_(1.0 + i)

    torch.manual_seed(0)
    state = torch.get_rng_state()

    def same():
        torch.set_rng_state(state)
        return make()

    assert agree(same, before).compiled
    assert len(uncompiled) == 1


def test_what_no_watch_can_see_is_found_by_comparison(uncompiled, monkeypatch):
    monkeypatch.setattr(module, "CHECKED_EVERY", 3)

    def make():
        pair = fresh_pair()
        pair[0].net.register_forward_hook(lambda _, __, out: float(os.environ["HIDDEN"]) * out)
        return pair

    def before(i, svi):
        monkeypatch.setenv("HIDDEN", "1" if i < 3 else "2")

    assert agree(make, before, steps=9).compiled
    assert len(uncompiled) == 2  # recorded anew


def test_sums_that_are_near_zero_by_chance_are_no_difference(uncompiled):
    """A Gaussian's loss passes through zero, and rounding is then large beside it."""
    (loss,), _ = steps_of(fresh_pair(), "eager", steps=1)

    class Centred(Trace_ELBO):
        def differentiable_loss(self, *args):
            return super().differentiable_loss(*args) - loss + 1e-11

        def loss_and_grads(self, *args):
            found = self.differentiable_loss(*args)
            found.backward()
            return found.item()

    pair, calls = fresh_pair(), itertools.count()
    pair[0].net.register_forward_hook(lambda _, __, out: out + 1e-13 * next(calls))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses, svi = steps_of(pair, "compiled", steps=1, loss=Centred())
    assert svi.compiled
    assert abs(losses[0]) < 1e-9


def test_nan_is_named_and_nothing_is_updated(uncompiled):
    pair = fresh_pair()
    svi = SVI(*pair, torch.optim.Adam, Trace_ELBO(), mode="compiled")
    svi.step(X)
    svi.step(X)
    assert svi.compiled
    before = state_of(pair)
    bad = X.clone()
    bad[2, 1] = torch.nan
    with pytest.raises(PvaeError, match=r"The loss is nan: .*'z' in the guide"):
        svi.step(bad)
    assert same_state(state_of(pair), before)
    assert svi.step(X) > 0
    assert svi.compiled


def test_clipping_and_learning_rates(uncompiled):
    def before(i, svi):
        svi.optim.set_lr(1.0 / (1 + i)) if i else None
        svi.clip_norm = 1.0 + i

    def frozen(i, svi):
        svi.clip_norm = 1.0

    agree(fresh_pair, before)
    pair, same = fresh_pair(), fresh_pair()
    steps_of(pair, "compiled", before=before)
    steps_of(same, "compiled", before=frozen)
    assert not same_state(state_of(pair), state_of(same))


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_no_one_here_wrote(name, uncompiled):
    found = {}
    for mode in ("eager", "compiled"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide, batch, _ = PROGRAMS[name]()
        svi = SVI(model, guide, torch.optim.Adam, Trace_ELBO(), mode=mode)
        torch.manual_seed(1)
        found[mode] = [svi.step(*batch) for _ in range(4)]
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-5)
    assert svi.compiled or svi.why_eager


def test_auto_waits_until_it_is_worth_it(uncompiled, monkeypatch):
    monkeypatch.setattr("pvae.training.svi._EAGER_STEPS", 3)
    svi = SVI(*fresh_pair(), None, Trace_ELBO())
    used = []
    for _ in range(5):
        svi.step(X)
        used.append(svi.compiled)
    assert used == [False, False, False, True, True]


def test_fit_compiles_long_runs_and_resumes_them(uncompiled, monkeypatch, tmp_path):
    digits = pvae.data.load("digits")
    quick_fit(small_pair(), digits)
    assert not uncompiled  # 36 steps
    monkeypatch.setattr(sys.modules["pvae.training.fit"], "_STEPS_WORTH_COMPILING", 30)
    options = {"kl_warmup": 2, "clip_norm": 1.0}
    whole = small_pair()
    history = quick_fit(whole, digits, **options).history
    assert len(uncompiled) == 1
    eager = small_pair()
    expected = quick_fit(eager, digits, mode="eager", **options).history
    for a, b in zip(history, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-4)

    resumed = small_pair()

    def stop(share):
        if share > 0.4 and stop.on:
            raise KeyboardInterrupt
        return 1.0

    stop.on = True
    monkeypatch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        quick_fit(resumed, digits, out=tmp_path, schedule=stop, **options)
    stop.on = False
    again, straight = small_pair(), small_pair()
    quick_fit(again, digits, out=tmp_path, resume=True, schedule=stop, **options)
    quick_fit(straight, digits, schedule=stop, **options)
    assert same_state(state_of(again), state_of(straight))


def test_the_compiler_itself_in_float64(compiler):
    svi = agree(fresh_pair, steps=200)
    assert svi.compiled


def test_random_numbers_are_drawn_in_order(uncompiled):
    """A compiler that does the last operation first: several draws are taken out of its reach."""
    from pvae.compile.graph import Graph

    x = torch.ones(3, 4)

    def several():
        noise = [torch.empty(3, 4).normal_(), torch.rand(3, 4), torch.randn_like(x)]
        return [x * sum(noise), torch.nn.functional.dropout(x, 0.5), noise[0]]

    def by_value():
        return [torch.bernoulli(0.3 * x), x * torch.rand(3, 4)]

    for function, inside in ((several, 0), (by_value, 2), (lambda: [x * torch.rand(3, 4)], 1)):
        graph = Graph(function, [x])
        seeded = torch.Tag.nondeterministic_seeded
        nodes = uncompiled[-1].graph.nodes
        found = [n for n in nodes if seeded in getattr(n.target, "tags", ())]
        assert len(found) == inside
        torch.manual_seed(0)
        expected = function()
        torch.manual_seed(0)
        for ours, theirs in zip(graph([x]), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_parameters_that_are_frozen_and_thawed(uncompiled):
    def before(i, svi):
        svi.guide.net.requires_grad_(not 2 <= i < 4)

    assert agree(fresh_pair, before, steps=7).compiled
    assert len(uncompiled) == 3


def test_parameters_that_appear_later(uncompiled, monkeypatch):
    monkeypatch.setattr(module, "CHECKED_EVERY", 3)

    def run(mode):
        pyro.clear_param_store()
        (_, guide), hidden = fresh_pair(), [False]

        def model(x):
            shift = pyro.param("shift", torch.zeros(4).double()) if hidden[0] else 0.0
            scale = pyro.param("scale", torch.ones(4).double())
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                loc = scale * z.sum(-1, keepdim=True) + shift
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        svi = SVI(model, guide, torch.optim.Adam, Trace_ELBO(), mode=mode)
        torch.manual_seed(1)
        losses = []
        for i in range(9):
            hidden[0] = i >= 3
            losses.append(svi.step(X))
        return losses, svi.compiled

    (expected, _), (found, compiled) = run("eager"), run("compiled")
    assert found == pytest.approx(expected, rel=1e-12)
    assert compiled
    assert len(uncompiled) == 2
