"""Steps that are not compiled: one warning says why, where, and what to change."""

import functools
import itertools
import os
import warnings

import pyro
import pyro.distributions as dist
import pytest
import small
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from pyro.nn import PyroModule
from stepping import X, agree, fresh_pair, steps_of

from pvae import SVI, PvaeError
from pvae.training import compiled_step as module

pytestmark = pytest.mark.usefixtures("unvalidated")


def test_an_attribute_that_changes_again_and_again_is_run_eagerly(uncompiled):
    def before(i, svi):
        svi.model.power = 1 + max(0, i - 2)

    with pytest.warns(UserWarning, match=r"runs eagerly .*: model.power changes again and again"):
        svi = agree(fresh_pair, before, steps=8)
    assert not svi.compiled


def test_what_is_another_at_each_comparison_ends_compiling(uncompiled, monkeypatch):
    """A constant that no watch sees, and that each minibatch makes anew."""

    def make():
        model, guide = fresh_pair()
        model.net.register_forward_hook(lambda _, __, out: out + float(os.environ["HIDDEN"]))
        return model, guide

    def before(i, svi):
        monkeypatch.setenv("HIDDEN", str(i))

    with pytest.warns(
        UserWarning,
        match=r"runs eagerly .*differ .* again and again \(the loss differs by .*file, a clock",
    ):
        svi = agree(make, before)
    assert not svi.compiled


def test_a_program_that_counts_is_run_eagerly(uncompiled):
    def make():
        model, guide = fresh_pair()
        model.calls = 0

        def count(*_):
            model.calls += 1

        model.net.register_forward_hook(count)
        return model, guide

    with pytest.warns(UserWarning, match=r"each call .* changes model\.calls, .*register_buffer"):
        agree(make)


def _decides():
    model, guide = fresh_pair()
    return model, Deciding(guide)


class Deciding(PyroModule):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        loc, raw = self.inner.net(x).chunk(2, -1)
        scale = raw.exp() if loc.sum() > 0 else 0.5 * raw.exp()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def test_a_decision_by_a_value_is_run_eagerly(uncompiled):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svi = agree(_decides)
    said = [str(w.message) for w in caught if "eagerly" in str(w.message)]
    line = Deciding.forward.__code__.co_firstlineno + 2
    assert said == [
        f"SVI runs eagerly from here on: a program decides by the value of a tensor (at {__file__}:"
        f"{line}), as if, float(), int() and an index do. Keep the value a tensor, for example "
        "with torch.where or torch.gather. mode='eager' avoids this warning."
    ]
    assert {w.filename for w in caught if "eagerly" in str(w.message)} == {small.__file__}
    assert not svi.compiled


def test_an_elbo_without_a_differentiable_loss_is_run_eagerly(uncompiled):
    with pytest.warns(
        UserWarning, match="TraceGraph_ELBO has no method differentiable_loss.*Use .*Trace_ELBO"
    ):
        agree(fresh_pair, loss=TraceGraph_ELBO())


def test_inside_of_another_handler_steps_are_eager(uncompiled):
    pair = fresh_pair()
    svi = SVI(*pair, None, Trace_ELBO(), mode="compiled")
    with (
        poutine.scale(scale=2.0),
        pytest.warns(UserWarning, match=r"inside a Pyro handler \(ScaleMessenger\).*Apply"),
    ):
        svi.step(X)
    assert not uncompiled


def test_an_argument_of_another_kind(uncompiled):
    model, guide = fresh_pair()
    svi = SVI(
        lambda x, options: model(x), lambda x, options: guide(x), None, Trace_ELBO(),
        mode="compiled",
    )  # fmt: skip
    with pytest.warns(
        UserWarning, match="an argument has the type object, and compiled steps take"
    ):
        svi.step(X, object())


def test_many_kinds_of_minibatches_end_compiling(uncompiled):
    with pytest.warns(
        UserWarning, match="more than 8 different signatures .*minibatches of one size"
    ):
        steps_of(fresh_pair(), "compiled", steps=12, x=lambda i: X.repeat(1 + i, 1))
    assert len(uncompiled) == module.MOST_GRAPHS


def test_names_that_are_not_known():
    with pytest.raises(
        PvaeError, match="mode='fast' is not known: use one of auto, eager, compiled"
    ):
        SVI(*fresh_pair(), None, Trace_ELBO(), mode="fast")
    with pytest.raises(
        PvaeError, match="precision='fp8' is not valid: give 'float32', 'tf32' or 'bf16'"
    ):
        SVI(*fresh_pair(), None, Trace_ELBO(), precision="fp8")


def test_without_a_compiler_steps_are_eager(monkeypatch):
    def fail(*_, **__):
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "compile", fail)
    with pytest.warns(UserWarning, match=r"runs eagerly .*finds no C\+\+ compiler.*Install one"):
        svi = agree(fresh_pair)
    assert not svi.compiled


@pytest.mark.parametrize("factor", [2.0, 1.01, 0.0])
def test_a_gradient_that_is_wrong_is_still_found(factor, uncompiled):
    model, guide = fresh_pair()
    calls = itertools.count()

    def hook(_, __, out):  # called eagerly, and in the recording
        return out.detach() + (out - out.detach()) * (factor if next(calls) == 1 else 1.0)

    model.net[0].register_forward_hook(hook)
    with pytest.warns(
        UserWarning, match=r"runs eagerly .*compiled step differs .*\(the gradient of .* differs"
    ):
        steps_of((model, guide), "compiled", steps=2)


def test_a_float_argument_that_decides_and_changes_ends_compiling(uncompiled):
    model, guide = fresh_pair()

    def scaled(x, beta):
        with poutine.scale(scale=1.0 if beta > 0.3 else 2.0):
            model(x)

    svi = SVI(scaled, lambda x, beta: guide(x), None, Trace_ELBO(), mode="compiled")
    said = "decides by a number among its arguments, and this number changes"
    with pytest.warns(UserWarning, match=said):
        [svi.step(X, 0.1 * i + 0.05) for i in range(8)]
    assert not svi.compiled


def test_a_decision_that_is_one_names_its_line(uncompiled):
    def guide(x, inner):
        scale = 1.0 if inner.net(x).sum() > 0 else 2.0
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], scale).to_event(1))

    model, inner = fresh_pair()
    program = functools.partial(guide, inner=inner)
    line = guide.__code__.co_firstlineno + 1
    said = rf"decides by the value of a tensor \(at {__file__}:{line}\)"
    with pytest.warns(UserWarning, match=said):
        SVI(model, program, None, Trace_ELBO(), mode="compiled").step(X)
