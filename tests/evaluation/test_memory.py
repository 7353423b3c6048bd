"""Memory: chunks change no number, and running out of it is not the fault of a pair."""

import subprocess
import sys
import textwrap

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import assert_same, evaluate
from small import small_pair

import pvae
from pvae.errors import PvaeError
from pvae.importance.density import Density
from pvae.importance.sampler import Sampler
from pvae.pair import inspect
from pvae.runtime.memory import Chunks, LiveBytes

FULL = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"


def raising(*_):
    raise RuntimeError(FULL)


def pair(decode, draw=None):
    """z ~ N(0, I), x ~ N(decode(z), 1); `draw` replaces the guide's distribution."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            fn = (draw or dist.Normal)(0.5 * x, 0.8)
            pyro.sample("z", fn.to_event(1))

    return model, guide, torch.randn(20, 2)


def full(z):
    return raising() if z.ndim == 3 else z


class Full(dist.Normal):
    def log_prob(self, value):
        return raising() if value.ndim == 3 else super().log_prob(value)


@pytest.mark.parametrize("parts", [(full,), (lambda z: z, Full)], ids=["decoder", "density"])
def test_a_plate_that_does_not_fit_is_no_reason_for_a_tile(parts, recwarn):
    model, guide, x = pair(*parts)
    for run in (
        lambda: pvae.log_weights(model, guide, x, num_samples=3),
        lambda: evaluate(model, guide, x, num_samples=3, progress=False),
    ):
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            run()
    assert not [w for w in recwarn if "uses a" in str(w.message)]


@pytest.mark.filterwarnings("ignore:AIS from the prior was left out")
def test_a_guide_that_does_not_fit_is_not_one_without_a_density(monkeypatch):
    model, guide, x = pair(lambda z: z)
    with Sampler(inspect(model, guide, x)) as sampler:
        assert Density(sampler, (x,)).no_guide is None
        monkeypatch.setattr(Density, "log_guide", raising)
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            Density(sampler, (x,))
    with pytest.warns(UserWarning, match=r"AIS from the guide was left out.*DefaultCPUAllocator"):
        found = evaluate(model, guide, x, num_samples=3, ais=2, progress=False)
    assert found.missing["ais_guide"] == f"RuntimeError: {FULL}"


def test_any_other_error_is_a_property_of_the_pair():
    def bound(z):
        if z.ndim == 3:
            raise RuntimeError("only [B, D]")
        return z

    model, guide, x = pair(bound)
    with pytest.warns(UserWarning, match=r"uses a tile.*only \[B, D\]"):
        pvae.log_weights(model, guide, x, num_samples=3)


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_small_and_large_chunks(network):
    torch.manual_seed(0)
    model = pvae.models.VAE((1, 8, 8), latent_dim=4, network=network)
    guide = pvae.guides.MeanField((1, 8, 8), latent_dim=4)
    x = pvae.data.load("digits").test.tensors()[0][:70]
    options = {"num_samples": 200, "prior_samples": 20, "progress": False, "ais": 3}
    options |= {"num_chains": 6, "num_temperatures": 4, "num_leapfrog": 2, "hasty": True}
    usual = evaluate(model, guide, x, **options)
    peaks = []
    for memory in (0.1, 1, 1000):
        assert_same(evaluate(model, guide, x, memory=memory, **options), usual)
        with Sampler(inspect(model, guide, x[:32]), memory=memory) as sampler, LiveBytes() as made:
            next(sampler.stream((x[:32],), 200))
        peaks.append(made.peak / 2**20)
    assert peaks[0] < peaks[1] < peaks[2]  # the chunks did differ
    assert 0.2 < peaks[1] < 2


def test_out_of_memory_halves_the_chunk_and_changes_nothing(monkeypatch):
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:40]
    usual = evaluate(*pair, x, num_samples=300, progress=False)
    model, decoder = pair[0], pair[0].decoder
    most, forward = 600, decoder.forward

    def limited(z):
        if z.ndim == 3 and z.shape[1] == 32 and z.shape[:-1].numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return forward(z)

    monkeypatch.setattr(decoder, "forward", limited)
    with pytest.warns(UserWarning, match="Out of memory. The work continues with"):
        again = evaluate(model, pair[1], x, num_samples=300, progress=False, prior_samples=0)
    np.testing.assert_array_equal(again.log_px, usual.log_px)
    most = 31
    with pytest.raises(PvaeError, match="not enough memory for one sample of 32 data"):
        evaluate(model, pair[1], x, num_samples=300, progress=False, prior_samples=0)


def test_live_bytes_counts_what_is_alive():
    x = torch.zeros(1000)
    with LiveBytes() as found:
        y = x + 1
        y = y + 1
        y.view(10, 100)
        del y
    assert found.peak == 2 * 4000
    assert found.total == 2 * 4000


def test_chunks_cover_every_sample_once():
    chunks = Chunks(10)
    out = chunks.run(7, 3, lambda a, b: {"k": torch.arange(a, b)[:, None].expand(-1, 3)})
    assert out["k"][:, 0].tolist() == list(range(7))


def test_memory_must_be_positive():
    with pytest.raises(PvaeError, match="memory=0"):
        evaluate(*small_pair(), torch.zeros(3, 1, 8, 8), memory=0, progress=False)


@pytest.mark.parametrize("growing", ["samples", "data"])
def test_memory_grows_neither_with_samples_nor_with_data(growing):
    script = """
        import resource, sys, torch, pvae
        torch.set_num_threads(1)
        model, guide = pvae.models.VAE((784,), 5), pvae.guides.MeanField((784,), 5)
        x = torch.zeros(40, 784)
        pvae.evaluate(model, guide, x, num_samples=50, progress=False)
        for size in sys.argv[1:]:
            samples, data = map(int, size.split(","))
            x = torch.zeros(data, 784)
            pvae.evaluate(model, guide, x, num_samples=samples,
                          estimators=[pvae.estimators.Surgery()], progress=False)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    sizes = {"samples": ((500, 4), (20_000, 4)), "data": ((2, 300), (2, 3000))}[growing]
    command = [sys.executable, "-c", textwrap.dedent(script), *(f"{k},{n}" for k, n in sizes)]
    done = subprocess.run(command, check=True, capture_output=True)
    few, many = map(int, done.stdout.split())  # KiB, the most until then
    own = (sizes[1][1] - sizes[0][1]) * 784 * 4 / 1024
    assert many < few + own + 64 * 1024
