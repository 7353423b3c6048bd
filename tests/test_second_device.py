"""Every pair on a device that is not the CPU: what is mixed there is an error on a GPU."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from asking import evaluate
from second_device import There, second_device
from test_zoo import POINTS
from zoo import ZOO, make

import pvae
from pvae.cli import main
from pvae.estimators import Inpainting
from pvae.importance.bits import _weights, digest

ESTIMATED = ["dense", "two layers", "VQ-VAE with a prior", "categorical", "MADE"]


@pytest.fixture(autouse=True)
def device():
    _weights.cache_clear()
    with second_device():
        yield


def test_refuses_what_a_gpu_refuses():
    there, here = torch.zeros(3, device="cuda"), torch.ones(3)
    assert (type(there), there.device.type) == (There, "cuda")
    assert (there + here.to("cuda")).cpu().tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_a_digest_is_that_of_the_cpu():
    """Evaluations take it of all parameters, but those of a pretended device are left out."""
    x = torch.randn(5)
    with torch.device("cuda"):
        found = digest(x.cuda())
    assert int(found) == int(digest(x))


@pytest.mark.parametrize("name", ZOO)
def test_trains_draws_and_is_evaluated(name, tmp_path, recwarn):
    model, guide, observation = make(name)
    digits = pvae.data.load("digits", observation=observation)
    x = digits.train.observe(slice(0, 64))[0]
    digits = dataclasses.replace(digits, train=digits.train.take(torch.arange(70)))
    options = {"device": "cuda", "progress": False}
    pvae.fit(model, guide, digits, epochs=1, batch_size=35, mode="eager", out=tmp_path, **options)
    assert {type(p.data) for p in model.parameters()} <= {There}
    assert pvae.generate(model, 3).device.type == "cuda"
    assert len(pvae.reconstruct(model, guide, x[:3])) == 3
    found = again = evaluate(model, guide, x[:8], num_samples=6, **options)
    if name in ESTIMATED:
        few = {"num_chains": 2, "num_temperatures": 2, "num_leapfrog": 1} | options
        some = {"prior_samples": 4, "ais": 1, "bdmc": 1, "gap": int(name == "dense"), "hasty": True}
        found = evaluate(model, guide, x[:8], num_samples=6, **some, **few)
    assert not [w for w in recwarn if "Error" in str(w.message)], "an estimator was left out"
    if name not in POINTS:
        assert np.isfinite(found.elbo).all()
        assert np.allclose(again.elbo, found.elbo)
        assert pvae.log_weights(model, guide, x[:3].cuda(), num_samples=4).device.type == "cuda"


@pytest.mark.parametrize("name", ZOO)
def test_is_made_where_new_tensors_are_on_the_device(name):
    """As after torch.set_default_device("cuda") in a notebook."""
    with torch.device("cuda"):
        model, guide, observation = make(name)
        x = pvae.data.load("digits", observation=observation).train.observe(slice(0, 6))[0]
        assert pvae.generate(model, 2).device.type == "cuda"
        if name not in POINTS:
            log_w = pvae.log_weights(model, guide, x.cuda(), num_samples=2)
            assert log_w.isfinite().all()


def test_a_random_order_is_that_of_the_cpu():
    def order():
        return pvae.models.MADE((1, 4, 4), hidden_dims=[8], order="random").network.order

    expected = order()
    with torch.device("cuda"):
        assert torch.equal(order().cpu(), expected)


def test_reports_in_the_shell(tmp_path, capsys, recwarn):
    run = str(tmp_path / "run")
    options = ["--num_samples", "20", "--ais", "2", "--num_temperatures", "4", "--num_chains", "2"]
    where = ["--epochs", "1", "--device", "cuda", "--progress", "false", "--out", run]
    assert main(["run", "--model.hidden_dims", "[8]", *where, *options]) == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert not [w for w in recwarn if "Error" in str(w.message)], "an estimator was left out"


@pytest.mark.parametrize("new_there", [False, True])
def test_missing_values_are_learned_and_completed(new_there, recwarn):
    options = {"device": "cuda", "progress": False}
    made = torch.device("cuda") if new_there else contextlib.nullcontext()
    with made:
        digits = pvae.data.load("digits", mask="any")
        model, guide, _ = make("any mask")
        pvae.fit(model, guide, digits, epochs=1, batch_size=500, mode="eager", **options)
        found = pvae.evaluate(model, guide, digits, num_samples=6, num_data=8, **options)
        assert np.isfinite(found.findings["inpainting"].error).all()
        x, mask = digits.test.observe(slice(3))
        assert pvae.generate(model, 6, x, mask).device.type == "cuda"

        model, guide, _ = make("dense")
        few = {"num_chains": 2, "num_steps": 2}
        asked = [Inpainting(4, "center", **few)]
        data = pvae.data.load("digits")
        found = pvae.evaluate(
            model, guide, data, num_samples=6, num_data=8, estimators=asked, **options
        )
        assert np.isfinite(found.findings["inpainting"].log_px_missing).all()
        drawn = pvae.inpaint(model, guide, x.cuda(), known=mask, num_proposals=20, **few)
        assert drawn.device.type == "cuda"
        assert not [w for w in recwarn if "left out" in str(w.message).lower()]
