"""Evaluation with the model's chunks compiled: the same numbers, to rounding."""

import ctypes

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from oracles import ORACLES
from programs import PROGRAMS
from pyro.nn import PyroModule
from small import small_pair

import pvae
from pvae.importance.chunks import ChunkedModel, CompiledModel, fastest
from pvae.importance.sampler import Sampler
from pvae.pair import inspect
from pvae.runtime.memory import Chunks


def _compiling(sampler, num_samples, rows=None):
    """Has a sampler's chunks, of one size, compiled."""
    chunks = Chunks(rows or sampler.chunks.rows)
    sampler._model = ChunkedModel(sampler.particles, chunks, num_samples)


def _weights(pair, batch, num_samples, rows=None, compiled=True):
    with Sampler(inspect(*pair, *batch)) as sampler:
        if compiled:
            _compiling(sampler, num_samples, rows)
        elif rows is not None:
            sampler.chunks.rows = rows
        draws = list(sampler.stream(batch, num_samples, seed=0))
        return torch.cat([d.log_w for d in draws]), sampler._model.compiled


@pytest.mark.parametrize("name", ORACLES)
def test_oracles(name, uncompiled):
    model, guide, batch, _ = ORACLES[name]()
    batch = tuple(t[:16] for t in batch)
    expected, _ = _weights((model, guide), batch, 100, 320, compiled=False)
    found, graph = _weights((model, guide), batch, 100, 320)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert graph.why_not is None
    assert len(uncompiled) == 1  # 100 samples in chunks of 20: all by one graph
    expected, _ = _weights((model, guide), batch, 90, 320, compiled=False)
    torch.testing.assert_close(_weights((model, guide), batch, 90, 320)[0], expected)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("ignore:log_weights uses")
def test_programs_that_no_one_here_wrote(name, uncompiled):
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide, batch, _ = PROGRAMS[name]()
    expected, _ = _weights((model, guide), batch, 30, compiled=False)
    found, graph = _weights((model, guide), batch, 30)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(uncompiled) == (graph is not None and graph.why_not is None)
    pyro.clear_param_store()


def test_the_last_chunk_is_compiled_too(uncompiled):
    pair, calls = small_pair(), []
    x = pvae.data.load("digits").test.tensors()[0][:32]
    expected, _ = _weights(pair, (x,), 90, compiled=False)
    with Sampler(inspect(*pair, x)) as sampler:
        _compiling(sampler, 90, 32 * 20)
        hook = pair[0].decoder.register_forward_hook(lambda *_: calls.append(1))
        found = torch.cat([d.log_w for d in sampler.stream((x,), 90, seed=0)])
        hook.remove()
    assert len(calls) == 2  # to compare with, and recorded
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)


def test_parameters_are_read_at_every_call(uncompiled):
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:32]
    with Sampler(inspect(*pair, x)) as sampler:
        _compiling(sampler, 50)
        first = next(sampler.stream((x,), 50, seed=0)).log_w
        pair[0].decoder.layers[-1].bias += 1.0
        again = next(sampler.stream((x,), 50, seed=0)).log_w
    assert len(uncompiled) == 1
    expected, _ = _weights(pair, (x,), 50, compiled=False)
    torch.testing.assert_close(again, expected)
    assert (first - again).abs().min() > 0.1


def test_what_cannot_be_compiled_is_run_as_it_is(uncompiled):
    model, guide = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:32]

    plain = model.decoder.forward
    expected, _ = _weights((model, guide), (x,), 40, compiled=False)
    model.decoder.forward = lambda z: plain(z) if z.sum() > -1e9 else plain(-z)
    with pytest.warns(UserWarning, match="evaluated without compiling it: a program decides by"):
        found, _ = _weights((model, guide), (x,), 40)
    assert torch.equal(found, expected)


def test_a_graph_that_is_wrong_is_not_used(uncompiled, monkeypatch):
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:32]
    expected, _ = _weights(pair, (x,), 40, compiled=False)

    def compile(program, inputs, options):
        return lambda *t: [1.01 * out for out in program(*t)]

    monkeypatch.setattr(torch._inductor, "compile", compile)
    with pytest.warns(UserWarning, match="compiled, log [xz] differs"):
        found, _ = _weights(pair, (x,), 40)
    assert torch.equal(found, expected)


class Outside(PyroModule):
    """p(x|z) with a scale that something outside of torch computes from the data."""

    def __init__(self, outside):
        super().__init__()
        self.outside = outside

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5 + self.outside(x)), obs=x)


class Half(PyroModule):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))


def _by_address(x):
    """As a library in C reads it, unseen by torch."""
    numbers = (ctypes.c_double * x.numel()).from_address(x.data_ptr())
    return torch.tensor(list(numbers), dtype=x.dtype).reshape(x.shape).sigmoid()


@pytest.mark.parametrize(
    ("outside", "why"),
    [
        (lambda x: torch.from_numpy(1 / (1 + np.exp(-x.numpy()))), "takes values out of torch"),
        (lambda x: torch.tensor(x.tolist(), dtype=x.dtype).sigmoid(), "takes values out of torch"),
        (_by_address, "compiled, log x differs for other data than those of the first batch"),
    ],
    ids=["numpy", "tolist", "address"],
)
def test_what_a_model_computes_outside_of_torch(uncompiled, monkeypatch, outside, why):
    monkeypatch.setattr("pvae.evaluation.estimators.importance._WORTH_TUNING", 3000)
    monkeypatch.setattr("pvae.evaluation.estimators.importance._WORTH_COMPILING", 3000)
    x = torch.randn(96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"num_samples": 300, "prior_samples": 0, "progress": False}
    with pytest.warns(UserWarning, match=f"evaluated without compiling it: .*{why}"):
        found = evaluate(Outside(outside), Half(), x, **options)
    recorded = len(uncompiled)
    expected = evaluate(Outside(torch.sigmoid), Half(), x, **options)
    assert len(uncompiled) > recorded  # in torch it is compiled
    np.testing.assert_allclose(found.log_px, expected.log_px, rtol=1e-9)


def test_only_long_evaluations_compile(uncompiled, monkeypatch):
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:70]
    options = {"num_samples": 300, "prior_samples": 0, "progress": False}
    usual = evaluate(*pair, x, **options)
    assert not uncompiled
    monkeypatch.setattr("pvae.evaluation.estimators.importance._WORTH_TUNING", 3000)
    tuned = evaluate(*pair, x, **options)
    assert not uncompiled
    np.testing.assert_array_equal(tuned.log_px, usual.log_px)
    monkeypatch.setattr("pvae.evaluation.estimators.importance._WORTH_COMPILING", 3000)
    found = evaluate(*pair, x, **options)
    assert len(uncompiled) == 2  # sizes of a chunk; the last 6 data have no graph of their own
    np.testing.assert_allclose(found.log_px, usual.log_px, rtol=1e-5)
    np.testing.assert_array_equal(found.log_px[64:], usual.log_px[64:])


def test_the_compiler_itself_and_any_chunk(compiler):
    """What inductor makes of it is the same bit for bit in chunks of any size."""
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:32]
    expected, _ = _weights(pair, (x,), 96, compiled=False)
    small, graph = _weights(pair, (x,), 96, 32 * 8)
    assert isinstance(graph, CompiledModel)
    assert graph.why_not is None
    torch.testing.assert_close(small, expected, rtol=1e-5, atol=1e-4)
    large, _ = _weights(pair, (x,), 96, 32 * 64)
    assert torch.equal(small, large)


class _Timed:
    """Stands for a model in chunks of some size, which takes as long as it is told."""

    compiled = None

    def __init__(self, clock, seconds, value=1.0, rows_after=None):
        self.clock, self.seconds, self.value = clock, seconds, value
        self.chunks, self._after = Chunks(64), rows_after

    def terms(self, draws, batch, num):
        self.clock[0] += self.seconds
        self.chunks.rows = self._after or self.chunks.rows
        return {"x": torch.full((num, 2), self.value)}


def _fastest(monkeypatch, *models):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    models = [_Timed(clock, *args) for args in models]
    return models.index(fastest(iter(models), None, (), 3))


def test_the_fastest_chunks_are_chosen(monkeypatch):
    assert _fastest(monkeypatch, (3.0,), (1.0,), (2.0,)) == 1


def test_chunks_that_would_change_the_last_digits_are_not_chosen(monkeypatch):
    assert _fastest(monkeypatch, (3.0,), (1.0, 1.0 + 1e-6), (2.0,)) == 2
    assert _fastest(monkeypatch, (3.0,), (1.0, 1.0 + 1e-6), (4.0,)) == 0


def test_no_larger_chunks_are_tried_where_memory_was_short(monkeypatch):
    assert _fastest(monkeypatch, (3.0, 1.0, 32), (1.0,)) == 0


def test_tuning_leaves_draws_and_chunks_as_they_were():
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:32]
    with Sampler(inspect(*pair, x)) as sampler:
        before, state = sampler.chunks.rows, torch.get_rng_state()
        with sampler.tuned((x,), 3000, compiled=False):
            assert torch.equal(torch.get_rng_state(), state)
            assert sampler.chunks is sampler._model.chunks
            assert sampler.chunks.rows in (before, *(before // n // 32 * 32 for n in (1, 2, 4)))
        assert sampler.chunks.rows == before
