"""Compiled steps in bfloat16, and steps that do not wait for a GPU."""

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from small import quick_fit, same_state, small_pair, state_of
from stepping import X, fresh_pair

import pvae
from pvae import SVI, PvaeError

pytestmark = pytest.mark.usefixtures("unvalidated")


PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


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


def test_on_a_gpu_nothing_waits_and_what_is_not_finite_is_found_later(uncompiled, monkeypatch):
    """The way of a GPU, taken on the CPU: fused optimisers can be masked there too."""
    monkeypatch.setattr("pvae.training.svi._on_gpu", lambda loss: isinstance(loss, torch.Tensor))
    pair, plain = fresh_pair(), fresh_pair()
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
    model, guide = fresh_pair()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(_epoch_seed()))
    step = 1 + int((order == 60).nonzero()) // 8
    assert 1 < step < 8
    options = {"batch_size": 8, "epochs": 1, "mode": "compiled", "progress": False}
    with pytest.raises(PvaeError, match=f"stopped at step {step} of epoch 1"):
        pvae.fit(model, guide, x, **options)


def _epoch_seed():
    from pvae.training.loop import _mix

    return _mix(0, 0)
