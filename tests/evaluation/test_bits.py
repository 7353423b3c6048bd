"""Bits per dimension: of discrete and of dequantised values, and left out if some are masked."""

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate

import pvae

QUICK = {"num_samples": 2, "prior_samples": 0, "surgery": False, "progress": False}


def test_bits_per_dimension():
    data = pvae.data.load("digits", observation="dequantize")

    def model(x):
        with pyro.plate("data", len(x)):
            # Uniform on the unit cube: log p(x) = 0, and 64 pixels of log2(17) bits each.
            low = torch.zeros(1, 8, 8)
            pyro.sample("x", dist.Uniform(low, low + 1, validate_args=False).to_event(3), obs=x)

    found = evaluate(model, lambda x: None, data, num_samples=2, progress=False).summary()
    assert found["bits_per_dim"]["log_px"] == pytest.approx(np.log2(data.levels))
    assert found["exact"]
    binary = pvae.data.load("digits")

    def coins(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(torch.full((1, 8, 8), 0.5)).to_event(3), obs=x)

    found = evaluate(coins, lambda x: None, binary, num_samples=2, progress=False).summary()
    assert found["bits_per_dim"]["log_px"] == pytest.approx(1.0)
    json.dumps(found, allow_nan=False)


def test_bits_of_the_elbo_are_those_of_log_px_where_nothing_is_latent():
    data = pvae.data.load("digits")
    p = torch.linspace(0.2, 0.7, 64).reshape(1, 8, 8)

    def coins(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(p).to_event(3), obs=x)

    found = evaluate(coins, lambda x: None, data, num_samples=2, progress=False).summary()
    log_px = dist.Bernoulli(p).log_prob(data.test.tensors()[0]).flatten(1).sum(1)
    bits = -log_px.mean().item() / math.log(2) / 64
    assert found["bits_per_dim"] == pytest.approx({"elbo": bits, "log_px": bits}, rel=1e-5)


@pytest.mark.parametrize("by", ["poutine", "obs_mask", "distribution"])
def test_a_mask_leaves_no_bits_without_a_word(by, tmp_path):
    """Half of the pixels count: fair coins of one bit each would pass for half a bit."""
    seen = torch.arange(64).reshape(1, 8, 8) % 2 == 0

    def model(x):
        with pyro.plate("data", len(x), dim=-4), pyro.plate_stack("pixels", (1, 8, 8)):
            fn = dist.Bernoulli(torch.tensor(0.5))
            if by == "poutine":
                with pyro.poutine.mask(mask=seen):
                    pyro.sample("x", fn, obs=x)
            elif by == "obs_mask":
                pyro.sample("x", fn, obs=x, obs_mask=seen)
            else:
                pyro.sample("x", fn.expand(x.shape).mask(seen), obs=x)

    def guide(x):
        if by == "obs_mask":  # what is not observed is latent
            pixels = pyro.plate_stack("pixels", (1, 8, 8))
            with pyro.plate("data", len(x), dim=-4), pixels, pyro.poutine.mask(mask=~seen):
                pyro.sample("x_unobserved", dist.Bernoulli(torch.tensor(0.5)))

    found = evaluate(model, guide, pvae.data.load("digits"), out=tmp_path, **QUICK)
    assert found.log_px == pytest.approx(-32 * math.log(2))
    assert found.summary()["bits_per_dim"] is None
    assert "has a mask" in found.summary()["missing"]["bits_per_dim"]
    assert "bits/dim left out: Site 'x" in found.table()
    page = pvae.write_report(tmp_path / "report.html", found).read_text()
    assert "Left out: Bits per dimension. Site &#39;x" in page


def test_a_part_of_x_leaves_no_bits_without_a_word():
    def model(x):
        with pyro.plate("data", len(x)):
            fn = dist.Bernoulli(torch.full((32,), 0.5)).to_event(1)
            pyro.sample("x", fn, obs=x.flatten(1)[:, :32])

    found = evaluate(model, lambda x: None, pvae.data.load("digits"), **QUICK)
    assert found.summary()["bits_per_dim"] is None
    assert "has 32 values for each datum, and x has 64" in found.missing["bits_per_dim"]


def test_a_mask_that_counts_everything_is_none():
    def model(x):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=True):
            pyro.sample("x", dist.Bernoulli(torch.full((1, 8, 8), 0.5)).to_event(3), obs=x)

    found = evaluate(model, lambda x: None, pvae.data.load("digits"), **QUICK)
    assert found.summary()["bits_per_dim"]["log_px"] == pytest.approx(1.0)
    assert not found.missing
