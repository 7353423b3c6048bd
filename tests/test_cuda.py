"""The same pipeline on a GPU; skipped, with the reason, where there is none."""

import gc

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from programs import PROGRAMS
from pyro.infer import TraceMeanField_ELBO
from small import Decoder, Encoder, take_steps

import pvae
from pvae.runtime import in_precision

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def _pair(network="dense"):
    torch.manual_seed(0)
    return (
        pvae.models.VAE((1, 8, 8), latent_dim=4, network=network),
        pvae.guides.MeanField((1, 8, 8), latent_dim=4, network=network),
    )


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_trains_and_evaluates_as_well_as_the_cpu(network):
    digits = pvae.data.load("digits")
    bounds = []
    for device in ("cuda", "cpu"):
        pair = _pair(network)
        pvae.fit(*pair, digits, epochs=10, device=device, progress=False)
        result = evaluate(*pair, digits, num_samples=200, device=device, progress=False)
        bounds.append(result.log_px.mean())
        assert result.data["hash"] == digits.test.hash
    assert abs(bounds[0] - bounds[1]) < 1.0


def test_resumes_from_a_checkpoint(tmp_path):
    digits = pvae.data.load("digits")
    pair = _pair()
    fit = pvae.fit(*pair, digits, epochs=3, device="cuda", out=tmp_path, progress=False)
    again = _pair()
    options = {"out": tmp_path, "resume": True, "device": "cuda", "progress": False}
    assert pvae.fit(*again, digits, epochs=3, **options).history == fit.history
    for a, b in zip(pair[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_pictures_follow_the_pair():
    digits = pvae.data.load("digits")
    pair = _pair()
    pvae.fit(*pair, digits, epochs=1, device="cuda", progress=False)
    (x,) = digits.test.observe(slice(0, 5))
    assert pvae.reconstruct(*pair, x).shape == x.shape
    assert pvae.generate(pair[0], 5).shape == x.shape
    assert pvae.encode(pair[1], x)["z"].shape == (5, 4)


@pytest.mark.parametrize("name", ["closures", "concatenating", "global_param"])
def test_programs_that_name_no_device(name):
    """Their torch.zeros(...) are made on the GPU while pvae runs them there."""
    model, guide, batch, exact = PROGRAMS[name]()
    options = {"device": "cuda", "progress": False}
    pvae.fit(model, guide, batch, epochs=2, batch_size=16, **options)
    result = evaluate(model, guide, batch, num_samples=2000, **options)
    for module in pvae.pair.modules(model, guide).values():
        module.cpu()
    error = result.log_px - exact(*batch).cpu().numpy()
    trusted = result.khat < result.khat_threshold
    assert np.mean(np.abs(error[trusted]) < 4 * result.log_px_se[trusted] + 1e-3) > 0.95


def test_every_estimator_as_on_the_cpu():
    x = pvae.data.load("digits").test.tensors()[0][:40]
    torch.manual_seed(0)
    pair = pvae.models.VAE((1, 8, 8), 2), pvae.guides.MeanField((1, 8, 8), 2)
    options = {"ais": 6, "bdmc": 6, "gap": 4, "quadrature": True, "num_temperatures": 100}
    cpu, cuda = (
        evaluate(*pair, x, num_samples=2000, device=device, progress=False, **options)
        for device in ("cpu", "cuda")
    )
    assert cuda.findings.keys() == cpu.findings.keys()
    assert not cuda.missing
    assert abs(cuda.log_px.mean() - cpu.log_px.mean()) < 0.05
    for name in ("quadrature", "ais_prior", "ais_guide"):
        assert np.abs(cuda.findings[name].log_px - cpu.findings[name].log_px).mean() < 0.2
    # Chunks regroup the same units: on a GPU the numbers agree to rounding.
    again = evaluate(*pair, x, num_samples=2000, device="cuda", memory=1, progress=False)
    np.testing.assert_allclose(again.log_px, cuda.log_px, atol=1e-3)


def test_out_of_memory_halves_the_chunk():
    """With a third of the memory that the evaluation took when it had enough."""
    torch.manual_seed(0)
    pair = pvae.models.VAE((1, 28, 28)), pvae.guides.MeanField((1, 28, 28))
    x = (torch.rand(32, 1, 28, 28) < 0.3).float()
    options = {"num_samples": 5000, "prior_samples": 0, "memory": 100_000, "progress": False}
    evaluate(*pair, x, **{**options, "num_samples": 100}, device="cuda")  # loads libraries
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    expected = evaluate(*pair, x, device="cuda", **options)
    needed = torch.cuda.max_memory_reserved() - before
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + needed / 3
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
    try:
        with pytest.warns(UserWarning, match="Out of memory. The work continues with"):
            result = evaluate(*pair, x, device="cuda", **options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(result.log_px, expected.log_px, rtol=1e-4)


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_compiled_steps_are_eager_ones(network):
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round().cuda()
    found, loss = {}, TraceMeanField_ELBO()
    for mode in ("eager", "compiled"):
        pair = [module.cuda() for module in _pair(network)]
        found[mode], svi = take_steps(pair, mode, x, steps=50, loss=loss)
        assert svi.compiled == (mode == "compiled"), svi.why_eager
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-3)


def test_an_evaluation_of_many_samples_is_the_same_each_time(monkeypatch):
    """Its chunks are CUDA graphs, whose tensors must live as long as they do."""
    for name in ("_WORTH_TUNING", "_WORTH_COMPILING"):
        monkeypatch.setattr(f"pvae.evaluation.estimators.importance.{name}", 10_000)
    x = pvae.data.load("digits").test.tensors()[0]
    pair, found = _pair(), []
    for _ in range(4):
        options = {"num_samples": 500, "prior_samples": 0, "device": "cuda", "progress": False}
        found.append(evaluate(*pair, x, **options).log_px)
        gc.collect()
        torch.cuda.empty_cache()
        kept = [torch.full((n,), torch.nan, device="cuda") for n in (1, 2, 20) * 200]
        del kept
    for again in found[1:]:
        np.testing.assert_allclose(again, found[0], rtol=1e-5)


@pytest.mark.parametrize("made", [torch.tensor, lambda value: torch.tensor(value).cuda()])
def test_programs_that_make_numbers(made):
    """Their numbers are made on the GPU when they are recorded, and do not change later."""
    x, found, loss = torch.randn(64, 4).cuda(), {}, TraceMeanField_ELBO()

    def fill_memory(i, svi):
        kept = [torch.full((n,), torch.nan) for n in (1, 2, 20) * 20]
        del kept

    for mode in ("eager", "compiled"):
        torch.manual_seed(0)
        model = Decoder(lambda x, loc: dist.Normal(made(0.5) * loc, 1.5)).cuda()
        pair = model, Encoder(lambda loc: dist.Normal(loc, 0.7)).cuda()
        found[mode], svi = take_steps(pair, mode, x, steps=40, loss=loss, before=fill_memory)
    assert svi.compiled, svi.why_eager
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-3)


def test_a_compiled_step_does_not_wait_for_the_device():
    x = torch.rand(64, 1, 8, 8).round().cuda()
    pair = [module.cuda() for module in _pair()]
    svi = pvae.SVI(*pair, torch.optim.Adam, TraceMeanField_ELBO(), mode="compiled")
    for _ in range(18):  # two are compared with eager ones, and the 16th replay with its graph
        svi.step(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [svi.update(x) for _ in range(14)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(loss.is_cuda for loss in losses)
    svi.settle()


def test_what_is_not_finite_is_found_later_and_changes_nothing():
    x = torch.rand(64, 1, 8, 8).round().cuda()
    pair = [module.cuda() for module in _pair()]
    svi = pvae.SVI(*pair, torch.optim.Adam, TraceMeanField_ELBO(), mode="compiled")
    for _ in range(5):
        svi.step(x)
    before = [p.clone() for module in pair for p in module.parameters()]
    for batch in (x * torch.nan, x, x):
        svi.update(batch)
    for p, q in zip(before, (p for m in pair for p in m.parameters()), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(pvae.PvaeError, match="The loss is nan") as caught:
        svi.settle()
    assert caught.value.steps_ago == 2
    assert svi.step(x) > 0


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_products_have_the_precision_that_was_asked_for(precision):
    """24, 11 or 8 bits; torch's own default would compute this convolution in TF32."""
    x, weight = torch.rand(8, 64, 16, 16, device="cuda"), torch.rand(64, 64, 3, 3, device="cuda")
    exact = torch.nn.functional.conv2d(x.double(), weight.double())
    with in_precision(precision):
        error = (torch.nn.functional.conv2d(x, weight) / exact - 1).abs().mean()
    least, most = {"float32": (0, 1e-5), "tf32": (3e-6, 2e-3), "bf16": (3e-5, 1e-2)}[precision]
    assert least <= error < most


def test_a_lower_precision_is_as_good():
    digits = pvae.data.load("digits")
    bounds = []
    for precision in ("float32", "tf32", "bf16"):
        pair = _pair()
        options = {"mode": "compiled", "precision": precision, "progress": False}
        pvae.fit(*pair, digits, epochs=20, device="cuda", **options)
        options = {"device": "cuda", "precision": precision, "progress": False}
        result = evaluate(*pair, digits, num_samples=200, **options)
        bounds.append(result.log_px.mean())
    assert max(bounds) - min(bounds) < 0.5
