"""Edits of linear pairs, whose codes and means are known, and spherical interpolation."""

import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae import guides, models
from pvae.errors import PvaeError

D, Z = 6, 3


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear():
    torch.manual_seed(0)
    model, guide = models.PPCA((D,), Z), guides.Code((D,), Z, hidden_dims=())
    return model, guide


def data(num=4000):
    """x ~ N(a δ, S) with an attribute a; half of the data have it."""
    has = torch.arange(num) % 2 == 1
    x = rand(num, D, seed=1) @ rand(D, D, seed=2) + has[:, None] * rand(D, seed=3)
    fields = {"x": x, "y": has.long()}
    return pvae.data.Split(fields, "as_given", names=("x",)), has


def codes_of(guide, x):
    return pvae.encode(guide, x)["z"]


def test_the_mean_difference_is_the_image_of_the_datas():
    _, guide = linear()
    part, has = data()
    z = codes_of(guide, part.x)
    step = z[has].mean(0) - z[~has].mean(0)
    v = pvae.directions(guide, part, has)["z"]
    assert v.shape == (1, Z)
    torch.testing.assert_close(v[0], step.detach(), rtol=1e-4, atol=1e-5)
    # A shift of x by δ moves the codes of a linear guide by the same vector everywhere.
    error = 4 * (z.var(0) * 4 / len(z)).sqrt()
    moved = codes_of(guide, part.x + rand(D, seed=3)) - z
    assert ((moved[0] - v[0]).abs() < error).all()


def test_the_probe_is_the_normal_of_the_optimal_linear_classifier():
    """Of two Gaussians with one covariance Σ it is Σ⁻¹ (m₁ − m₀)."""
    _, guide = linear()
    part, has = data(20000)
    z = codes_of(guide, part.x).detach().double()
    step = z[has].mean(0) - z[~has].mean(0)
    within = torch.cat([z[has] - z[has].mean(0), z[~has] - z[~has].mean(0)])
    best = torch.linalg.solve(within.T @ within / len(z), step)
    v = pvae.directions(guide, part, has, how="probe")["z"][0].double()
    cosine = torch.cosine_similarity(v, best, 0)
    assert cosine > 0.99
    assert torch.cosine_similarity(step, best, 0) < 0.95  # the mean difference is another
    assert v @ best / best.norm() == pytest.approx(float(step @ best / best.norm()), rel=0.02)


def test_labels_give_a_direction_for_each_class():
    _, guide = linear()
    part, has = data()
    v = pvae.directions(guide, part)["z"]
    torch.testing.assert_close(v[1], -v[0])
    torch.testing.assert_close(v[1:], pvae.directions(guide, part, has)["z"])


@pytest.mark.parametrize("unknown", [-1, torch.nan])
def test_data_without_a_label_are_left_out(unknown):
    _, guide = linear()
    part, has = data()
    y = has.double() if isinstance(unknown, float) else has.long()
    y[::3] = unknown
    some = pvae.data.Split({"x": part.x, "y": y}, "as_given", names=("x",))
    known = part.take(torch.arange(len(y))[torch.arange(len(y)) % 3 > 0])
    torch.testing.assert_close(pvae.directions(guide, some), pvae.directions(guide, known))
    y[:] = unknown
    with pytest.raises(PvaeError, match="None of the 4000 labels is known"):
        pvae.directions(guide, some)


def test_a_tensor_is_data_and_a_collapsed_site_has_no_step():
    torch.manual_seed(0)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
            pyro.sample("w", dist.Normal(0 * x + 2, 1.0).to_event(1))

    part, has = data(100)
    for how in ("mean", "probe"):
        v = pvae.directions(guide, part, has, how=how)
        torch.testing.assert_close(pvae.directions(guide, part.x, has, how=how), v)
        assert (v["w"] == 0).all()
        assert v["z"].abs().min() > 0
        with pytest.raises(PvaeError, match="gives all data the same code"):
            pvae.directions(pyro.poutine.block(guide, hide=["z"]), part.x, has, how=how)


def test_an_edit_moves_the_mean_of_a_linear_model_by_its_matrix():
    model, guide = linear()
    x, v = rand(5, D, seed=4), {"z": rand(2, Z, seed=5)}
    by = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.5, -1.0]])
    found = pvae.edit(model, guide, x, along=v, by=by)
    assert found.shape == (5, 3, D)
    same = pvae.reconstruct(model, guide, x)
    torch.testing.assert_close(found[:, 0], same)
    expected = same[:, None] + (by @ v["z"]) @ model.weight.detach().T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    one = pvae.edit(model, guide, x[:1], along=v, by=[0.5, -1.0])
    torch.testing.assert_close(one, found[:1, 2])


def test_a_given_label_stays_the_datums_own():
    model = models.ConditionalVAE((1, 4, 4), 3, 2, hidden_dims=[8])
    guide = guides.ConditionalMeanField(model, (1, 4, 4), hidden_dims=[8])
    x, y = torch.rand(6, 1, 4, 4).round(), torch.arange(6) % 3
    found = pvae.edit(model, guide, x, y, along={"z": torch.ones(1, 2)}, by=[[0.0], [1.0]])
    torch.testing.assert_close(found[:, 0], pvae.reconstruct(model, guide, x, y))
    z = pvae.encode(guide, x, y)["z"] + 1
    torch.testing.assert_close(found[:, 1], pvae.decode(model, {"z": z}, x, y))


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (torch.ones(4000), "Attribute 0 is 1 for all 4000 data"),
        (torch.ones(3), r"shape \[3, 1\] are not valid.*each of the 4000 data"),
        (torch.arange(4000), "give 0 and 1"),
    ],
)
def test_wrong_attributes_are_one_message(attributes, said):
    _, guide = linear()
    with pytest.raises(PvaeError, match=said):
        pvae.directions(guide, data()[0], attributes)


def test_wrong_directions_are_one_message():
    model, guide = linear()
    x = rand(5, D, seed=4)
    with pytest.raises(PvaeError, match="has no latent site 'w'; its sites are z"):
        pvae.edit(model, guide, x, along={"w": torch.ones(1, Z)}, by=[1.0])
    with pytest.raises(PvaeError, match=r"shape \[2, 3\], for 1 amounts and codes \[3\]"):
        pvae.edit(model, guide, x, along={"z": torch.ones(2, Z)}, by=[1.0])
    with pytest.raises(PvaeError, match="how='best'"):
        pvae.directions(guide, data()[0], how="best")
    with pytest.raises(PvaeError, match="path='round'"):
        pvae.interpolate(model, guide, x, x, path="round")


def test_a_spherical_path_keeps_its_length_and_turns_evenly(monkeypatch):
    model, guide = linear()
    x = rand(4, D, seed=6), rand(4, D, seed=7)
    a, b = (codes_of(guide, each) for each in x)
    seen = {}
    module = sys.modules["pvae.predictive.traverse"]
    decode = module.decode

    def record(model, latents, *rows, **options):
        seen.update(latents)
        return decode(model, latents, *rows, **options)

    monkeypatch.setattr(module, "decode", record)
    ends = {}
    for path in ("straight", "spherical"):
        found = pvae.interpolate(model, guide, *x, steps=5, path=path)
        ends[path] = found[:, [0, -1]]
        z = seen["z"].unflatten(0, (4, 5)).detach().double()
        if path == "straight":
            torch.testing.assert_close(z[:, 2], (a + b).detach().double() / 2)
    torch.testing.assert_close(*ends.values(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(z[:, 0], a.detach().double(), rtol=1e-4, atol=1e-5)
    # In the plane of both codes, each divided by its length: a unit circle, in equal turns.
    for row in z:
        basis = torch.stack([row[0], row[-1]])
        gram = basis @ basis.T
        weights = torch.linalg.lstsq(basis.T, row.T).solution.T
        scale = gram.diagonal().sqrt()
        flat = weights @ torch.linalg.cholesky(gram / scale[:, None] / scale)
        turns = torch.cosine_similarity(flat[1:], flat[:-1], 1).acos()
        np.testing.assert_allclose(turns, turns.mean(), rtol=1e-3)
        unit = flat.norm(dim=1)
        np.testing.assert_allclose(unit, 1, rtol=1e-3)
    same = pvae.interpolate(model, guide, x[0], x[0], steps=3, path="spherical")
    assert torch.isfinite(same).all()
    torch.testing.assert_close(same[:, 1], same[:, 0])
