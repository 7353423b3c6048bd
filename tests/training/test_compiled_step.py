"""Compiled steps: the numbers of the eager ones, whatever changes, or one line that says why not.

What is recorded is the point of most tests here: they run the recorded graph as it is, in place
of what the compiler makes of it (`uncompiled`). The last ones compile.
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
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from small import quick_fit, same_state, small_pair, state_of, take_steps
from torch import nn

import pvae
from pvae import SVI, PvaeError
from pvae.training import compiled_step as module


@pytest.fixture(autouse=True)
def _own_store():
    pyro.clear_param_store()
    with pyro.validation_enabled(False):
        yield
    pyro.clear_param_store()


class Model(PyroModule):
    """z ~ N(0, I), x ~ N(b W z, 1)."""

    def __init__(self, *middle):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 6), *middle, nn.Tanh(), nn.Linear(6, 4)).double()
        self.beta = 1.0
        self.power = 1

    def forward(self, x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
            z = pyro.sample("z", prior)
            loc = self.beta * self.net(z) ** self.power
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4).double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc, raw = self.net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
X = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _pair(*middle):
    torch.manual_seed(0)
    return Model(*middle), Guide()


def _steps(pair, mode, x=X, **options):
    return take_steps(pair, mode, x, **options)


def _agree(make, before=None, **options):
    """Eager and compiled steps have the same losses and parameters; returns the compiled SVI."""
    eager, compiled = make(), make()
    expected, _ = _steps(eager, "eager", before=before, **options)
    found, svi = _steps(compiled, "compiled", before=before, **options)
    assert found == pytest.approx(expected, rel=1e-12)
    for a, b in zip(eager, compiled, strict=True):
        if isinstance(a, nn.Module):
            for name, value in a.state_dict().items():
                torch.testing.assert_close(value, b.state_dict()[name], rtol=1e-10, atol=1e-12)
    return svi


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO(), Trace_ELBO(3)])
def test_compiled_steps_are_eager_steps(uncompiled, loss):
    svi = _agree(_pair, loss=loss)
    assert svi.compiled
    assert svi.why_eager is None
    assert len(uncompiled) == 1


def test_python_runs_once(uncompiled):
    pair, calls = _pair(), []
    pair[0].net.register_forward_hook(lambda *_: calls.append(1))
    _steps(pair, "compiled", steps=20)
    assert len(calls) == 3  # eagerly twice, to compare with, and recorded


@pytest.mark.parametrize(
    "middle",
    [lambda: nn.BatchNorm1d(6).double(), lambda: nn.Dropout(0.5)],
    ids=["batch_norm", "dropout"],
)
def test_buffers_and_dropout(uncompiled, middle):
    svi = _agree(lambda: _pair(middle()), steps=8)
    assert svi.compiled


def test_an_annealed_kl_weight_is_an_input(uncompiled):
    def before(i, svi):
        svi.kl_weight = 0.1 * i

    svi = _agree(_pair, before)
    assert svi.compiled
    assert len(uncompiled) == 1


def test_a_float_attribute_that_changes_becomes_an_input(uncompiled):
    def before(i, svi):
        svi.model.beta = 1.0 + max(0, i - 2)

    svi = _agree(_pair, before, steps=8)
    assert svi.compiled
    assert len(uncompiled) == 2  # as a constant, and as an input


def test_an_attribute_that_changes_again_and_again_is_run_eagerly(uncompiled):
    def before(i, svi):
        svi.model.power = 1 + max(0, i - 2)

    with pytest.warns(UserWarning, match=r"runs eagerly .*: model.power changes again and again"):
        svi = _agree(_pair, before, steps=8)
    assert not svi.compiled


def test_an_attribute_that_changes_once_is_recorded_anew(uncompiled):
    def before(i, svi):
        svi.model.power = 1 if i < 3 else 2

    assert _agree(_pair, before).compiled
    assert len(uncompiled) == 2


def test_a_submodule_that_is_exchanged(uncompiled):
    def before(i, svi):
        if i == 3:
            torch.manual_seed(5)
            svi.model.net[1] = nn.ReLU()

    assert _agree(_pair, before).compiled
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

    assert _agree(make, before).compiled
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

    assert _agree(same, before).compiled
    assert len(uncompiled) == 1


def test_what_no_watch_can_see_is_found_by_comparison(uncompiled, monkeypatch):
    monkeypatch.setattr(module, "CHECKED_EVERY", 3)

    def make():
        pair = _pair()
        pair[0].net.register_forward_hook(lambda _, __, out: float(os.environ["HIDDEN"]) * out)
        return pair

    def before(i, svi):
        monkeypatch.setenv("HIDDEN", "1" if i < 3 else "2")

    assert _agree(make, before, steps=9).compiled
    assert len(uncompiled) == 2  # recorded anew


def test_what_is_another_at_each_comparison_ends_compiling(uncompiled, monkeypatch):
    """A constant that no watch sees, and that each minibatch makes anew."""

    def make():
        model, guide = _pair()
        model.net.register_forward_hook(lambda _, __, out: out + float(os.environ["HIDDEN"]))
        return model, guide

    def before(i, svi):
        monkeypatch.setenv("HIDDEN", str(i))

    with pytest.warns(UserWarning, match=r"runs eagerly .*compiled, the loss differs by .* again"):
        svi = _agree(make, before)
    assert not svi.compiled


def test_sums_that_are_near_zero_by_chance_are_no_difference(uncompiled):
    """A Gaussian's loss passes through zero, and rounding is then large beside it."""
    (loss,), _ = _steps(_pair(), "eager", steps=1)

    class Centred(Trace_ELBO):
        def differentiable_loss(self, *args):
            return super().differentiable_loss(*args) - loss + 1e-11

        def loss_and_grads(self, *args):
            found = self.differentiable_loss(*args)
            found.backward()
            return found.item()

    pair, calls = _pair(), itertools.count()
    pair[0].net.register_forward_hook(lambda _, __, out: out + 1e-13 * next(calls))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses, svi = _steps(pair, "compiled", steps=1, loss=Centred())
    assert svi.compiled
    assert abs(losses[0]) < 1e-9


def test_a_program_that_counts_is_run_eagerly(uncompiled):
    def make():
        model, guide = _pair()
        model.calls = 0

        def count(*_):
            model.calls += 1

        model.net.register_forward_hook(count)
        return model, guide

    with pytest.warns(UserWarning, match="model.calls is changed by the programs themselves"):
        _agree(make)


def _decides():
    model, guide = _pair()
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
        svi = _agree(_decides)
    said = [str(w.message) for w in caught if "eagerly" in str(w.message)]
    line = Deciding.forward.__code__.co_firstlineno + 2
    assert said == [
        "SVI runs eagerly from here on: a program decides by the value of a tensor "
        f"(if, float(), int() or an index) at {__file__}:{line}."
    ]
    assert not svi.compiled


def test_an_elbo_without_a_differentiable_loss_is_run_eagerly(uncompiled):
    with pytest.warns(UserWarning, match="TraceGraph_ELBO has no differentiable_loss"):
        _agree(_pair, loss=TraceGraph_ELBO())


def test_inside_of_another_handler_steps_are_eager(uncompiled):
    pair = _pair()
    svi = SVI(*pair, None, Trace_ELBO(), mode="compiled")
    with (
        poutine.scale(scale=2.0),
        pytest.warns(UserWarning, match=r"inside of a ScaleMessenger"),
    ):
        svi.step(X)
    assert not uncompiled


def test_an_argument_of_another_kind(uncompiled):
    model, guide = _pair()
    svi = SVI(
        lambda x, options: model(x), lambda x, options: guide(x), None, Trace_ELBO(),
        mode="compiled",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="an argument is a object, no tensor, number or string"):
        svi.step(X, object())


def test_smaller_minibatches_are_eager_and_larger_ones_recorded(uncompiled):
    sizes = [8, 8, 5, 8, 5, 12, 12, 8, 5]
    x = torch.cat([X, X])
    svi = _agree(_pair, steps=9, x=lambda i: x[: sizes[i]])
    assert svi.why_eager is None
    assert len(uncompiled) == 2


def test_many_kinds_of_minibatches_end_compiling(uncompiled):
    with pytest.warns(UserWarning, match="more than 8 kinds"):
        _steps(_pair(), "compiled", steps=12, x=lambda i: X.repeat(1 + i, 1))
    assert len(uncompiled) == module.MOST_GRAPHS


def test_a_new_dtype_in_mid_run(uncompiled):
    pair = small_pair()
    x = torch.zeros(8, 1, 8, 8)
    svi = SVI(*pair, None, Trace_ELBO(), mode="compiled")
    svi.step(x)
    with pytest.raises(RuntimeError, match=r"[Dd]ouble"):  # as eagerly: the pair cannot take it
        svi.step(x.double())
    assert svi.step(x) > 0


def test_floats_and_keywords_among_the_arguments(uncompiled):
    def run(mode):
        model, guide = _pair()

        def scaled(x, factor, *, power):
            pyro.module("net", model.net)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                loc = factor * model.net(z) ** power
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        def ignoring(x, factor, *, power):
            return guide(x)

        svi = SVI(scaled, ignoring, None, Trace_ELBO(), mode=mode)
        torch.manual_seed(1)
        steps = [(1.0, 1), (2.0, 1), (3.0, 2), (0.5, 2), (0.25, 1)]
        return [svi.step(X, factor, power=power) for factor, power in steps], svi.compiled

    (eager, _), (found, compiled) = run("eager"), run("compiled")
    assert found == pytest.approx(eager, rel=1e-12)
    assert compiled
    assert len(uncompiled) == 2  # one for each power: an integer is no input


def test_one_tensor_as_two_arguments_is_not_two(uncompiled):
    def run(mode):
        model, guide = _pair()

        def halved(x, y):
            return model(x - 0.5 * y)

        svi = SVI(halved, lambda x, y: guide(y), None, Trace_ELBO(), mode=mode)
        torch.manual_seed(1)
        return [svi.step(X, y) for y in (X, 2 * X, X, 3 * X)]

    assert run("compiled") == pytest.approx(run("eager"), rel=1e-12)


def test_nan_is_named_and_nothing_is_updated(uncompiled):
    pair = _pair()
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

    _agree(_pair, before)
    pair, same = _pair(), _pair()
    _steps(pair, "compiled", before=before)
    _steps(same, "compiled", before=frozen)
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
    svi = SVI(*_pair(), None, Trace_ELBO())
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


def test_names_that_are_not_known():
    with pytest.raises(PvaeError, match="mode='fast': one of auto, eager, compiled"):
        SVI(*_pair(), None, Trace_ELBO(), mode="fast")
    with pytest.raises(PvaeError, match="precision='fp8': one of float32, bf16"):
        SVI(*_pair(), None, Trace_ELBO(), precision="fp8")


def test_products_in_bfloat16_and_all_else_in_single_precision(uncompiled, monkeypatch):
    monkeypatch.setattr("pvae.runtime.precision.able", lambda device: True)
    x = torch.rand(64, 1, 8, 8).round()
    losses = {}
    for precision in ("float32", "bf16"):
        pair = small_pair()
        svi = SVI(*pair, None, TraceMeanField_ELBO(), mode="compiled", precision=precision)
        torch.manual_seed(1)
        losses[precision] = torch.tensor([svi.step(x) for _ in range(30)])
        assert svi.compiled, svi.why_eager
        assert all(p.dtype == torch.float32 for p in svi.optim.parameters)
    low, full = losses["bf16"], losses["float32"]
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, rtol=5e-3, atol=0)
    nodes = [n for n in uncompiled[-1].graph.nodes if n.op == "call_function"]
    products = [n for n in nodes if n.target in PRODUCTS]
    assert len(products) >= 8  # four layers, forwards and backwards
    assert all(n.meta["tensor_meta"].dtype == torch.bfloat16 for n in products)
    aten = torch.ops.aten
    others = {aten.relu.default, aten.softplus.default}
    others |= {aten.binary_cross_entropy_with_logits.default, aten.expand.default}
    rest = [n for n in nodes if n.target in others]
    assert len(rest) >= 4
    assert all(n.meta["tensor_meta"].dtype == torch.float32 for n in rest)


def test_bfloat16_needs_hardware(monkeypatch):
    monkeypatch.setattr("pvae.runtime.precision.able", lambda device: False)
    svi = SVI(*small_pair(), None, Trace_ELBO(), precision="bf16")
    with pytest.raises(PvaeError, match="this CPU has no instructions for bfloat16"):
        svi.step(torch.zeros(8, 1, 8, 8))
    digits = pvae.data.load("digits")
    with pytest.raises(PvaeError, match="this CPU has no instructions for bfloat16"):
        quick_fit(small_pair(), digits, precision="bf16", device="cpu")


def test_without_a_compiler_steps_are_eager(monkeypatch):
    def fail(*_, **__):
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "compile", fail)
    with pytest.warns(UserWarning, match=r"runs eagerly .*finds no C\+\+ compiler"):
        svi = _agree(_pair)
    assert not svi.compiled


def test_the_compiler_itself_in_float64(compiler):
    svi = _agree(_pair, steps=200)
    assert svi.compiled


def test_on_a_gpu_nothing_waits_and_what_is_not_finite_is_found_later(uncompiled, monkeypatch):
    """The way of a GPU, taken on the CPU: fused optimisers can be masked there too."""
    monkeypatch.setattr("pvae.training.svi._on_gpu", lambda loss: isinstance(loss, torch.Tensor))
    pair, plain = _pair(), _pair()
    svi = SVI(*pair, torch.optim.Adam, Trace_ELBO(), mode="compiled")
    reference = SVI(*plain, torch.optim.Adam, Trace_ELBO(), mode="compiled")
    bad = X.clone()
    bad[2, 1] = torch.nan
    with monkeypatch.context() as patch:
        patch.setattr("pvae.training.svi._on_gpu", lambda loss: False)
        torch.manual_seed(1)
        expected = [reference.step(X) for _ in range(4)]
    torch.manual_seed(1)
    losses = [svi.update(X) for _ in range(4)]
    assert [float(loss) for loss in losses] == expected
    for batch in (bad, X, X):
        svi.update(batch)
    assert same_state(state_of(pair), state_of(plain))  # masked from the bad step on
    with pytest.raises(PvaeError, match=r"The loss is nan: .*'z' in the guide") as caught:
        svi.settle()
    assert caught.value.steps_ago == 2
    noise = torch.get_rng_state()  # that of the bad step
    after = [svi.step(X) for _ in range(2)]
    torch.set_rng_state(noise)
    with monkeypatch.context() as patch:
        patch.setattr("pvae.training.svi._on_gpu", lambda loss: False)
        assert after == [reference.step(X) for _ in range(2)]
    for _ in range(49):
        svi.update(X)
    with pytest.raises(PvaeError, match="The loss is nan"):
        svi.update(bad)  # the fiftieth


def test_on_a_gpu_fit_names_the_step(uncompiled, monkeypatch):
    monkeypatch.setattr("pvae.training.svi._on_gpu", lambda loss: isinstance(loss, torch.Tensor))
    x = X.repeat(8, 1)
    x[60, 0] = 1e200  # its square overflows
    model, guide = _pair()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(_epoch_seed()))
    step = 1 + int((order == 60).nonzero()) // 8
    assert 1 < step < 8
    options = {"batch_size": 8, "epochs": 1, "mode": "compiled", "progress": False}
    with pytest.raises(PvaeError, match=f"stopped at step {step} of epoch 1"):
        pvae.fit(model, guide, x, **options)


def _epoch_seed():
    from pvae.training.loop import _mix

    return _mix(0, 0)


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

    assert _agree(_pair, before, steps=7).compiled
    assert len(uncompiled) == 3


def test_parameters_that_appear_later(uncompiled, monkeypatch):
    monkeypatch.setattr(module, "CHECKED_EVERY", 3)

    def run(mode):
        pyro.clear_param_store()
        (_, guide), hidden = _pair(), [False]

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
