"""SVI and fit with every ELBO of Pyro, sparse gradients, and inside of no_grad: right, or said."""

import contextlib
import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.nn import PyroModule
from torch import nn

import pvae
from pvae import PvaeError
from pvae.objectives import Beta_ELBO, FreeBits_ELBO, InfoVAE_ELBO, LatentScale


class Model(PyroModule):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.decoder = nn.Linear(2, 6, dtype=dtype)

    def forward(self, x, word=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, dtype=torch.float32, sparse=None):
        super().__init__()
        self.encoder = nn.Linear(6, 4, dtype=dtype)
        self.table = None if sparse is None else nn.Embedding(5, 4, sparse=sparse, dtype=dtype)

    def forward(self, x, word=None, observations=None):
        loc, raw = (self.encoder(x) + (0 if word is None else self.table(word))).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def pair(dtype=torch.float32, **options):
    torch.manual_seed(0)
    return Model(dtype), Guide(dtype, **options)


def data(num=32, dtype=torch.float32):
    return torch.randint(0, 2, (num, 6), generator=torch.Generator().manual_seed(0)).to(dtype)


def after(programs):
    return [p.detach().clone() for program in programs for p in program.parameters()]


@pytest.mark.parametrize(("mode", "dtype"), [("eager", torch.float32), ("compiled", torch.float64)])
def test_both_losses_of_wake_sleep_are_those_of_pyro(mode, dtype, recwarn):
    x = data(dtype=dtype)
    losses, weights = [], []
    for make in (
        lambda *args: pyro.infer.SVI(*args[:2], pyro.optim.Adam({"lr": 1e-2}), args[2]),
        lambda *args: pvae.SVI(
            *args[:2], functools.partial(torch.optim.Adam, lr=1e-2), args[2], mode=mode
        ),
    ):
        pyro.clear_param_store()
        programs = pair(dtype)
        svi = make(*programs, ReweightedWakeSleep(4, max_plate_nesting=1))
        pyro.set_rng_seed(1)
        losses.append([svi.step(x), svi.step(x), svi.evaluate_loss(x)])
        weights.append(after(programs))
    pyro.clear_param_store()
    assert losses[1] == [pytest.approx(pair) for pair in losses[0]]
    assert all(isinstance(loss, float) for pair in losses[1] for loss in pair)
    torch.testing.assert_close(weights[0], weights[1])


def test_wake_sleep_that_overflows_never_reaches_the_parameters():
    programs = pair()
    before = after(programs)
    with torch.no_grad():
        programs[0].decoder.bias[0] = torch.inf
    svi = pvae.SVI(*programs, torch.optim.Adam, ReweightedWakeSleep(2, max_plate_nesting=1))
    with pytest.raises(PvaeError, match=r"model\.decoder\.bias holds NaN or inf"):
        svi.step(data())
    assert torch.equal(after(programs)[0], before[0])


def test_fit_says_that_wake_sleep_has_no_single_bound():
    with pytest.raises(PvaeError, match=r"ReweightedWakeSleep has two losses.*pvae\.SVI"):
        pvae.fit(*pair(), data(), loss=ReweightedWakeSleep(2), batch_size=16, progress=False)


@pytest.mark.parametrize(
    ("jit", "plain"),
    [
        (JitTrace_ELBO, Trace_ELBO),
        (JitTraceEnum_ELBO, TraceEnum_ELBO),
        (JitTraceMeanField_ELBO, TraceMeanField_ELBO),
        (JitTraceGraph_ELBO, TraceGraph_ELBO),
    ],
)
def test_a_jitted_elbo_is_the_plain_one(jit, plain):
    found = []
    for kind in (jit, plain):
        programs = pair()
        svi = pvae.SVI(*programs, torch.optim.Adam, kind(num_particles=2), mode="eager")
        pyro.set_rng_seed(1)
        found.append([svi.step(data()), *after(programs)])
        loss = kind(num_particles=2)
        fitted = pvae.fit(*pair(), data(), epochs=1, batch_size=16, loss=loss, progress=False)
        assert fitted.loss == plain.__name__
        assert type(loss) is kind, "the ELBO that was given stays as it was"
        found[-1].append(fitted.history[0]["elbo"])
    assert found[0][0] == found[1][0]
    assert found[0][-1] == found[1][-1]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1:-1], found[1][1:-1], strict=True))


def test_an_elbo_without_a_value_is_refused_at_once():
    loss = TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True)
    for run in (
        lambda: pvae.SVI(*pair(), torch.optim.Adam, loss),
        lambda: pvae.fit(*pair(), data(), loss=loss, batch_size=16, progress=False),
    ):
        with pytest.raises(PvaeError, match="TraceTailAdaptive_ELBO has a gradient and no value"):
            run()


@pytest.mark.parametrize(
    ("optim", "mode"),
    [
        (torch.optim.Adam, "eager"),
        (torch.optim.Adam, "compiled"),
        (functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), "eager"),
        (pyro.optim.ClippedAdam({"lr": 1e-3}), "eager"),
    ],
    ids=["Adam", "compiled", "SGD", "ClippedAdam"],
)
def test_sparse_gradients_are_the_dense_ones(optim, mode, recwarn):
    found = []
    for sparse in (False, True):
        programs = pair(sparse=sparse)
        how = mode if sparse else "eager"
        svi = pvae.SVI(*programs, copy.deepcopy(optim), Trace_ELBO(), clip_norm=5.0, mode=how)
        pyro.set_rng_seed(1)
        with torch.inference_mode(sparse):
            word = torch.arange(32) % 4  # one row of the table has no gradient
            losses = torch.tensor([svi.step(data(), word) for _ in range(3)])
        found.append([losses, *after(programs)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    start = after(pair(sparse=True))
    assert any(not torch.equal(a, b) for a, b in zip(start, found[1][1:], strict=True))


def test_an_optimiser_for_sparse_gradients_alone_is_refused():
    programs = pair(sparse=True)
    svi = pvae.SVI(*programs, torch.optim.SparseAdam, Trace_ELBO(), mode="eager")
    with pytest.raises(PvaeError, match="SparseAdam takes only sparse gradients"):
        svi.step(data(), torch.zeros(32, dtype=torch.long))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_steps_and_fit_learn_inside_of_no_grad(context):
    found = []
    for around in (contextlib.nullcontext, context):
        stepped, fitted = pair(), pair()
        svi = pvae.SVI(*stepped, torch.optim.Adam, Trace_ELBO(), mode="eager")
        pyro.set_rng_seed(1)
        with around():
            before = torch.is_grad_enabled()
            x = data() + 0  # an inference tensor, there
            losses = [svi.step(x), svi.step(x)]
            history = pvae.fit(*fitted, x, epochs=2, batch_size=16, progress=False).history
            assert torch.is_grad_enabled() is before
        found.append((losses, history, [t.tolist() for t in after(stepped) + after(fitted)]))
    assert found[0] == found[1]
    assert found[0][2] != [t.tolist() for t in after(pair()) * 2]


def test_a_pair_made_in_inference_mode_is_named():
    with torch.inference_mode():
        programs = pair()
    with pytest.raises(
        PvaeError, match=r"guide\.encoder\.weight was made in torch\.inference_mode"
    ):
        pvae.fit(*programs, data(), batch_size=16, progress=False)


@pytest.mark.parametrize("wrong", [-3.0, -1, float("nan"), float("inf"), True, "4", None])
def test_weights_that_train_the_opposite_are_refused(wrong):
    for make in (
        lambda: Beta_ELBO(beta=wrong),
        lambda: FreeBits_ELBO(beta=wrong),
        lambda: FreeBits_ELBO(free_bits=wrong),
        lambda: InfoVAE_ELBO(mmd_weight=wrong),
        lambda: LatentScale(wrong),
    ):
        with pytest.raises(PvaeError, match="at least 0"):
            make()
    if isinstance(wrong, float):
        with pytest.raises(PvaeError, match="at least 0"):
            Beta_ELBO(beta=torch.tensor(wrong))


def test_zero_and_tensors_are_weights():
    assert Beta_ELBO(beta=0).beta == 0.0
    beta = torch.tensor(0.5)
    assert Beta_ELBO(beta=beta).beta is beta
    for value in (0, -1, float("nan"), True):
        with pytest.raises(PvaeError, match="bandwidth"):
            InfoVAE_ELBO(bandwidth=value)
        with pytest.raises(PvaeError, match="num_particles"):
            Beta_ELBO(num_particles=value)
