"""Compiled steps: what may change at any step, and what is no decision by a sampled value."""

import types
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer as infer
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from small import Decoder, Encoder
from stepping import Guide, Model, X, agree, fresh_pair, steps_of
from torch import nn

from pvae import SVI
from pvae.compile.signature import Recorded
from pvae.objectives import Beta_ELBO, InfoVAE_ELBO
from pvae.pair.reach import modules

pytestmark = pytest.mark.usefixtures("unvalidated")


def _annealed(kind):
    """Steps before which something that is read, and held by a tensor or a number, is rebound."""
    model, guide = fresh_pair()
    loss = Beta_ELBO(beta=torch.tensor(1.0))
    if kind == "temperature":
        model.beta = torch.tensor(1.0)
        change = lambda t: setattr(model, "beta", torch.tensor(t))  # noqa: E731
    elif kind == "loss.beta":
        change = lambda t: setattr(loss, "beta", torch.tensor(t))  # noqa: E731
    elif kind == "loss.mmd_weight":
        loss = InfoVAE_ELBO(mmd_weight=torch.tensor(1.0))
        change = lambda t: setattr(loss, "mmd_weight", torch.tensor(t))  # noqa: E731
    elif kind == "buffer":
        model.register_buffer("scale", torch.tensor(1.0))
        model.net.register_forward_hook(lambda _, __, out: out * model.scale)
        change = lambda t: setattr(model, "scale", torch.tensor(t))  # noqa: E731
    elif kind == "list":
        values = [torch.tensor(1.0)]
        model.net.register_forward_hook(lambda _, __, out: out * values[0])
        change = lambda t: values.__setitem__(0, torch.tensor(t))  # noqa: E731
    elif kind == "closure":
        factor = 1.0

        def change(t):
            nonlocal factor
            factor = t

        model.net.register_forward_hook(lambda _, __, out: out * factor)
    elif kind == "a module of the user":
        settings = types.ModuleType("settings")
        settings.factor = 1.0
        change = lambda t: setattr(settings, "factor", t)  # noqa: E731
        model.net.register_forward_hook(lambda _, __, out: out * settings.factor)
    return model, guide, loss, change


KINDS = [
    "temperature", "loss.beta", "loss.mmd_weight", "buffer", "list", "closure",
    "a module of the user",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_rebound_at_every_step_is_an_input(kind, uncompiled):
    found = {}
    for mode in ("eager", "compiled"):
        model, guide, loss, change = _annealed(kind)
        before = lambda i, svi, change=change: change(1.0 + max(0, i - 2))  # noqa: E731
        found[mode], svi = steps_of((model, guide), mode, steps=8, loss=loss, before=before)
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-12)
    assert svi.compiled
    assert len(uncompiled) == 2  # as a constant, and as an input
    assert abs(found["eager"][7] - found["eager"][1]) > 0.1


def test_a_tensor_that_changes_its_shape_or_becomes_a_number(uncompiled):
    values = [torch.tensor(1.0), torch.tensor(2.0), torch.ones(4).double(), 3.0, 4, torch.ones(())]

    def before(i, svi):
        svi.model.beta = values[max(0, i - 2)]

    svi = agree(fresh_pair, before, steps=8)
    assert svi.compiled


@pytest.mark.parametrize("when", ["hook", "pre-hook", "every module", "function"])
def test_what_is_run_is_exchanged(when, uncompiled):
    handles = []

    def before(i, svi):
        if i != 3:
            return
        net = svi.model.net
        if when == "hook":
            handles.append(net[0].register_forward_hook(lambda _, __, out: 2 * out))
        elif when == "pre-hook":
            handles.append(net[0].register_forward_pre_hook(lambda _, given: (2 * given[0],)))
        elif when == "every module":
            double = lambda module, _, out: 2 * out if module is net[0] else None  # noqa: E731
            handles.append(nn.modules.module.register_module_forward_hook(double))
        else:
            net[0].forward = lambda z: 2 * nn.Linear.forward(net[0], z)

    def make():
        while handles:
            handles.pop().remove()
        return fresh_pair()

    try:
        svi = agree(make, before)
    finally:
        make()
    assert svi.compiled
    assert len(uncompiled) == 2


@pytest.mark.parametrize(
    "weights",
    [
        (0, 0, 1, 1, 1), (0.5, 0.5, 1, 1, 1), (1, 1, 0.5, 0.5), (None, None, 0, 1.0, 0.5),
        (np.float32(0), np.float32(0), np.float32(1), np.int64(1)), (False, False, True, True),
        (0.5, 0.5, torch.tensor(1.0), torch.tensor(1.0), 1),
    ],
)  # fmt: skip
def test_a_kl_weight_of_any_kind(weights, uncompiled):
    def before(i, svi):
        svi.kl_weight = weights[i]

    svi = agree(fresh_pair, before, steps=len(weights))
    assert svi.compiled
    # No weight, a number and a tensor are three kinds of input, and want a graph each.
    kinds = {None if w is None else isinstance(w, torch.Tensor) for w in weights}
    assert len(uncompiled) == len(kinds)


def test_another_loss_model_or_precision_of_the_same_svi(uncompiled):
    def before(i, svi):
        if i == 2:
            svi.loss = Beta_ELBO(beta=4.0)
        if i == 4:
            torch.manual_seed(7)
            svi.model = Model(nn.Linear(6, 6).double())

    found = {
        mode: steps_of(fresh_pair(), mode, steps=7, before=before) for mode in ("eager", "compiled")
    }
    assert found["compiled"][0] == pytest.approx(found["eager"][0], rel=1e-12)
    svi = found["compiled"][1]
    assert svi.compiled
    assert {id(p) for p in svi.model.parameters()} <= svi.optim.names.keys()


def test_default_dtype_and_autocast_are_part_of_the_kind(uncompiled):
    def run(mode):
        torch.manual_seed(0)
        third = lambda: torch.ones(()) / 3  # noqa: E731  (in the default dtype)
        model = Decoder(lambda x, loc: dist.Normal(loc * third(), 1.0)).double()

        def before(i, svi):
            torch.set_default_dtype(torch.float64 if i >= 3 else torch.float32)

        try:
            return steps_of((model, Guide()), mode, before=before)
        finally:
            torch.set_default_dtype(torch.float32)

    (expected, _), (found, svi) = run("eager"), run("compiled")
    assert found == pytest.approx(expected, rel=1e-13)
    assert svi.compiled
    assert len(uncompiled) == 2


def test_a_bias_before_batch_normalisation_has_no_size_to_be_compared_with(uncompiled, monkeypatch):
    """Its gradient is rounding, and a compiler rounds in another way."""
    torch.manual_seed(0)
    run = Recorded.run

    def rounded(self, inputs):
        loss, norm, *gradients = run(self, inputs)
        return [loss, norm, *(g + 1e-7 * norm * torch.ones_like(g) for g in gradients)]

    monkeypatch.setattr(Recorded, "run", rounded)
    net = lambda a, b: nn.Sequential(  # noqa: E731
        nn.Linear(a, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, b)
    )
    enc, dec = net(4, 2), net(2, 4)
    pair = Decoder(net=dec), Encoder(net=enc)
    _, svi = steps_of(pair, "compiled", lambda i: torch.randn(32, 4), steps=3)
    assert svi.compiled, svi.why_eager
    size = _gradient_of(enc[0].bias, svi)
    assert size < 1e-5 * _gradient_of(enc[3].weight, svi)


def _gradient_of(parameter, svi):
    loss = svi.loss.differentiable_loss(svi.model, svi.guide, torch.randn(32, 4))
    return torch.autograd.grad(loss, parameter)[0].norm()


def _first_call(kind):
    torch.manual_seed(0)
    model = Decoder().double()

    def posterior(loc):
        draw = lambda: torch.rand(2).double() + 0.5  # noqa: E731
        return dist.Normal(loc, pyro.param("scale", draw) if kind == "param" else 1.0)

    guide = AutoNormal(model) if kind == "autoguide" else Encoder(posterior).double()
    particles = {"num_particles": 3, "vectorize_particles": True} if kind == "particles" else {}
    return model, guide, infer.Trace_ELBO(**particles)


@pytest.mark.parametrize("kind", ["autoguide", "param", "particles"])
def test_a_first_call_that_draws_more_than_the_others(kind, uncompiled):
    found = {}
    for mode in ("eager", "compiled"):
        pyro.clear_param_store()
        model, guide, loss = _first_call(kind)
        found[mode], svi = steps_of((model, guide), mode, loss=loss)
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-10)
    assert svi.compiled
    assert len(uncompiled) == 1


def _no_decision(kind):
    torch.manual_seed(0)
    enc, dec = nn.Linear(4, 3).double(), nn.Linear(3, 4).double()
    bits = kind in ("one-hot", "enumerated")
    options = {"infer": {"enumerate": "parallel"}} if kind == "enumerated" else {}

    def model(x, beta=None):
        pyro.module("dec", dec)
        size = torch.prod(torch.tensor(x.shape[1:])).item() if kind == "size" else 4
        scale = (beta or 2.0) if beta is None or kind != "compared" else 1.0 if beta > 0.3 else 2.0
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=scale):
            prior = dist.OneHotCategorical(torch.ones(3).double() / 3)
            prior = prior if bits else dist.Normal(x.new_zeros(3), 1.0).to_event(1)
            z = pyro.sample("z", prior)
            for i in pyro.plate("parts", 2) if kind == "plate" else range(1):
                name = "x" + "ab"[i]
                pyro.sample(name, dist.Normal(dec(z), 1.0).to_event(1), obs=x.reshape(-1, size))

    def guide(x, beta=None):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)):
            h = enc(x)
            z = dist.OneHotCategorical(logits=h) if bits else dist.Normal(h, 1.0).to_event(1)
            pyro.sample("z", z, **options)

    return model, guide


@pytest.mark.parametrize(
    ("kind", "betas"),
    [
        ("size", (None,) * 4), ("plate", (None,) * 4), ("one-hot", (None,) * 4),
        ("enumerated", (None,) * 4), ("or", (0.5,) * 4), ("or", (0.0, 0.0, 0.0, 0.1, 0.2, 0.3)),
        ("compared", (0.5, 0.5, 0.5, 0.5, 0.1, 0.1)),
    ],
)  # fmt: skip
def test_what_is_no_decision_by_a_sampled_value(kind, betas, uncompiled):
    found = {}
    for mode in ("eager", "compiled"):
        pyro.clear_param_store()
        loss = infer.Trace_ELBO()
        if kind == "enumerated":
            loss = infer.TraceEnum_ELBO(max_plate_nesting=1)
        svi = SVI(*_no_decision(kind), torch.optim.Adam, loss, mode=mode)
        torch.manual_seed(1)
        found[mode] = [svi.step(X, *() if b is None else (b,)) for b in betas]
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-10)
    assert svi.compiled, svi.why_eager


def test_terms_without_probability_in_an_enumerated_elbo(uncompiled):
    """DiCE leaves them out, since their cost may be infinite; a graph takes zeros."""
    found = {}
    for mode in ("eager", "compiled"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        enc, weight = nn.Linear(4, 3).double(), nn.Parameter(torch.ones(3).double())

        class Both(nn.Module):
            def model(self, x):
                pyro.module("both", self)
                with pyro.plate("data", len(x)):
                    allowed = torch.tensor([0.5, 0.5, 0.0]).double()
                    z = pyro.sample("z", dist.Categorical(allowed))
                    pyro.sample("x", dist.Normal(self.weight[z], 1.0), obs=x.sum(-1))

            def guide(self, x):
                with pyro.plate("data", len(x)):
                    probs = self.enc(x).softmax(-1) * torch.tensor([1.0, 1.0, 0.0])
                    z = dist.Categorical(probs / probs.sum(-1, keepdim=True))
                    pyro.sample("z", z, infer={"enumerate": "parallel"})

        both = Both()
        both.enc, both.weight = enc, weight
        loss = infer.TraceEnum_ELBO(max_plate_nesting=1)
        found[mode] = steps_of((both.model, both.guide), mode, loss=loss)[0]
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-10)


def test_modules_that_are_kept_in_lists_are_compared_too(uncompiled):
    """Batch normalisation out of a module's sight: its statistics move once a step."""
    statistics = {}
    for mode in ("eager", "compiled"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        nets = [nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)).double()]

        def model(x, nets=nets):
            pyro.module("net", nets[0])
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(nets[0](z), 1.0).to_event(1), obs=x)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, svi = steps_of((model, Guide()), mode, steps=4)
        assert any(nets[0] is module for module in modules(model, model).values())
        statistics[mode] = nets[0][1].running_mean.clone()
    assert svi.compiled
    torch.testing.assert_close(statistics["compiled"], statistics["eager"])
