"""Inpainting: log p(x_missing | x_known) and the PSNR of completions, against exact pairs."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import as_the_prior, tokens

import pvae
from pvae import guides, models
from pvae.estimators import Inpainting
from pvae.evaluation.estimators.inpainted import psnr

D, Z, NOISE = 6, 2, 0.5


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHT = rand(D, Z, seed=0)
COVARIANCE = WEIGHT @ WEIGHT.T + NOISE**2 * torch.eye(D, dtype=torch.float64)
PRECISION = torch.eye(Z, dtype=torch.float64) + WEIGHT.T @ WEIGHT / NOISE**2


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT.T, NOISE).to_event(1), obs=x)


def guide(x):
    """A little wider than the posterior."""
    loc = x @ WEIGHT @ torch.linalg.inv(PRECISION).T / NOISE**2
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=PRECISION / 1.2))


def data(size=20):
    x = rand(size, D, seed=2) @ torch.linalg.cholesky(COVARIANCE).T
    known = rand(size, D, seed=3) < 0
    known[0], known[1] = True, False
    return x, known


def log_p(x, at):
    if not at.any():
        return 0.0
    zero = torch.zeros(int(at.sum())).double()
    return float(dist.MultivariateNormal(zero, COVARIANCE[at][:, at]).log_prob(x[at]))


def evaluate(*args, **options):
    return pvae.evaluate(*args, progress=False, **{"num_samples": 1000} | options)


def test_the_difference_is_log_p_of_the_missing_values():
    x, known = data()
    exact = np.array([log_p(a, k | True) - log_p(a, k) for a, k in zip(x, known, strict=True)])
    found = evaluate(model, guide, x, estimators=[Inpainting(known=known)])
    own = found.findings["inpainting"]
    assert own.log_px_missing == pytest.approx(exact, abs=0.15)
    assert own.log_px_missing[0] == pytest.approx(0, abs=0.1)  # all known
    assert own.log_px_known[1] == pytest.approx(0, abs=0.1)  # nothing known
    assert abs((own.log_px_missing - exact).mean()) < 0.03
    assert (own.ess > 20).all()
    assert (own.ess < 990).all()
    assert np.abs(own.gap).max() < 0.03
    assert own.num_missing.tolist() == (~known).sum(1).tolist()
    summary = own.summary(found)
    assert summary["log_px_missing"]["mean"] == pytest.approx(own.log_px_missing.mean())
    assert summary["is_bound"] is False
    line = own.line(summary)
    assert "a difference of two lower bounds, which is no bound" in line
    assert "median ESS" in line


def test_the_error_is_that_of_the_exact_mean():
    x, known = data()
    own = evaluate(model, guide, x, estimators=[Inpainting(known=known, num_samples=4000)])
    own = own.findings["inpainting"]
    for i, (row, k) in enumerate(zip(x, known, strict=True)):
        if k.all():
            assert np.isnan(own.error[i])
            continue
        mean = COVARIANCE[~k][:, k] @ torch.linalg.inv(COVARIANCE[k][:, k]) @ row[k]
        assert own.error[i] == pytest.approx(
            float((row[~k] - mean).square().mean()), rel=0.3, abs=0.03
        )
    assert own.peak == pytest.approx(float(x.max() - x.min()))
    assert own.error_mean is None


def test_few_samples_are_told():
    x, known = data()
    sizes = {"num_samples": 4, "num_chains": 1, "num_steps": 1}
    found = evaluate(model, guide, 5 * x, estimators=[Inpainting(known=known, **sizes)])
    assert "may be far too high" in found.findings["inpainting"].verdict(found)


def test_an_enumerated_pair_gives_a_bound():
    table, probs = rand(3, 4, seed=5).sigmoid(), torch.tensor([0.2, 0.5, 0.3]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Bernoulli(table[y]).to_event(1), obs=x)

    x = (rand(9, 4, seed=6) > 0).double()
    known = torch.tensor([True, False, True, False])
    terms = dist.Bernoulli(table).log_prob(x[:, None])
    whole, part = (
        (probs.log() + terms[..., k].sum(-1)).logsumexp(-1) for k in (known | True, known)
    )
    own = evaluate(model, lambda x: None, x, estimators=[Inpainting(known=known)])
    found = own.findings["inpainting"]
    assert found.exact
    assert found.error is None  # y has no value
    assert found.log_px_missing == pytest.approx((whole - part).numpy(), abs=1e-9)
    assert "a lower bound, because" in found.line(found.summary(own))


def test_psnr_beside_the_mean_and_the_nearest_neighbour():
    """Two kinds of images: the known half tells which, so the nearest neighbour is the truth."""
    kinds = torch.zeros(2, 1, 4, 4)
    kinds[0, :, :2], kinds[1, :, 2:] = 1, 1
    train, test = kinds.repeat(20, 1, 1, 1), kinds.repeat(5, 1, 1, 1)
    data = pvae.data.load({"x_train": train, "x_test": test}, observation="grey")
    programs = models.VAE((1, 4, 4), 2), guides.MeanField((1, 4, 4), 2)
    asked = [Inpainting(known="center", num_samples=20, num_chains=2, num_steps=2)]
    found = evaluate(*programs, data, estimators=asked, num_samples=20)
    own = found.findings["inpainting"]
    assert own.error_nearest == pytest.approx(np.zeros(10))
    assert own.error_mean == pytest.approx(np.full(10, 0.25))
    summary = own.summary(found)
    assert summary["psnr"]["mean"]["mean"] == pytest.approx(10 * math.log10(4))
    assert summary["psnr"]["nearest"]["mean"] is None  # no error at all
    assert "mean of training 6.02" in own.line(summary)
    assert own.of == "center"
    (panel,) = own.panels(found)
    assert "mean of the training data" in panel.note
    assert "which is no bound" in panel.note
    assert "<svg" in str(panel.bodies[0])
    assert evaluate(*programs, data, estimators=asked, num_samples=20).findings[
        "inpainting"
    ].log_px_missing == pytest.approx(own.log_px_missing)


def test_a_pair_of_missing_values_has_its_own_masks(tmp_path):
    sizes = {"latent_dim": 2, "hidden_dims": [8]}
    programs = models.VAEAC((1, 8, 8), **sizes), guides.MaskedMeanField((1, 8, 8), **sizes)
    data = pvae.data.load("digits", mask="center")
    found = evaluate(*programs, data, num_samples=20, num_data=12, out=tmp_path)
    own = found.findings["inpainting"]
    assert own.log_px_missing is None
    assert (own.num_missing == 16).all()
    x, mask = found_rows(data, found.rows)
    mean = pvae.generate(programs[0], 12 * 400, x, mask, seed=1).view(400, *x.shape).mean(0)
    error = (mean - x).square()[~mask].view(12, 16).mean(1)
    assert own.error == pytest.approx(error.numpy(), abs=0.02)
    assert set(own.summary(found)["psnr"]) == {"pair", "mean", "nearest"}
    again = pvae.Evaluation.load(tmp_path).findings["inpainting"]
    assert again.error == pytest.approx(own.error)
    assert again.log_px_missing is None
    with pytest.raises(pvae.PvaeError, match="its data bring the masks"):
        evaluate(*programs, data, num_samples=5, num_data=4, estimators=[Inpainting(known="block")])


def test_a_mask_without_missing_values_is_told():
    sizes = {"latent_dim": 2, "hidden_dims": [8]}
    programs = models.VAEAC((4,), **sizes), guides.MaskedMeanField((4,), **sizes)
    x = torch.rand(6, 4).round()
    with pytest.warns(UserWarning, match="no value of these data is missing"):
        evaluate(*programs, {"x": x, "mask": x >= 0}, num_samples=5)


def found_rows(data, rows):
    return data.test.observe(torch.as_tensor(rows))


def test_what_does_not_apply_is_left_out_with_the_reason():
    x = torch.rand(6, 1, 8, 8).round()
    vae = models.VAE((1, 8, 8), 2), guides.MeanField((1, 8, 8), 2)
    small = {"num_samples": 5}
    for known, reason in (
        (torch.ones(1, 8, 8, dtype=torch.bool), "no value is missing"),
        (torch.zeros(1, 8, 8, dtype=torch.bool), "no value is given"),
        (torch.ones(8, 3, dtype=torch.bool), "is not valid"),
        ("centre", "There is no mask 'centre'"),
    ):
        with pytest.warns(UserWarning, match="Inpainting was left out"):
            found = evaluate(*vae, x, estimators=[Inpainting(known=known)], **small)
        assert reason in found.missing["inpainting"]
    pixel = models.PixelVAE((1, 8, 8), 2, features=4, num_blocks=1)
    with pytest.warns(UserWarning, match="Inpainting was left out"):
        found = evaluate(pixel, vae[1], x, estimators=[Inpainting(known="center")], **small)
    assert "does not factorise" in found.missing["inpainting"]
    assert "inpainting" not in evaluate(*vae, x, **small).findings


def test_psnr_is_that_of_the_pooled_error():
    error, num = np.array([0.01, 0.04, np.nan]), np.array([10, 30, 0])
    found = psnr(error, num, 2.0)
    assert found["mean"] == pytest.approx(10 * math.log10(4 / 0.0325))
    rng = np.random.default_rng(0)
    num = rng.integers(1, 14, (400, 1000))
    error = rng.exponential(0.02, (400, 1000)) * num  # larger where more is missing
    each = [psnr(e, n, 1.0) for e, n in zip(error, num, strict=True)]
    spread = np.std([f["mean"] for f in each])
    assert np.mean([f["se"] for f in each]) == pytest.approx(spread, rel=0.1)


def test_data_without_a_known_value_are_within_the_support():
    def positive(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.LogNormal(z[..., None], torch.ones(2)).to_event(1), obs=x)

    def wide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.log().sum(-1) / 3, 1.0))

    x = rand(8, 2, seed=0).float().exp()
    known = torch.tensor([[False, False]] * 4 + [[True, False]] * 4)
    asked = [Inpainting(known=known, num_chains=4, num_steps=2, num_samples=1 << 14)]  # one a block
    own = evaluate(positive, wide, x, num_samples=200, estimators=asked).findings["inpainting"]
    assert own.log_px_known[:4] == pytest.approx(0, abs=0.05)
    exact = dist.LogNormal(0.0, math.sqrt(2)).log_prob(x[4:, 0])
    assert own.log_px_known[4:] == pytest.approx(exact.numpy(), abs=0.05)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_the_error_of_bits_is_that_of_their_probabilities(dtype):
    probs = torch.tensor([0.9, 0.6])

    def coins(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            p = probs.expand(*z.shape, 2)
            pyro.sample("x", dist.Bernoulli(p).to_event(1), obs=x.float())

    x = torch.tensor([[1, 0], [0, 1]]).to(dtype)
    asked = [Inpainting(known=torch.tensor([True, False]), num_chains=2, num_steps=1)]
    own = evaluate(coins, as_the_prior, x, num_samples=20, estimators=asked).findings["inpainting"]
    assert own.error == pytest.approx([0.36, 0.16], abs=1e-5)


def test_classes_have_no_error():
    x = torch.tensor([[0, 2], [1, 1]])
    asked = [Inpainting(known=torch.tensor([True, False]), num_chains=2, num_steps=1)]
    found = evaluate(tokens, as_the_prior, x, num_samples=20, estimators=asked)
    assert found.findings["inpainting"].error is None
    assert found.findings["inpainting"].log_px_missing == pytest.approx(-math.log(3), abs=1e-4)
    assert "PSNR" not in found.table()
