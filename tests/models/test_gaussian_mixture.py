"""EM never falls, ends where scikit-learn's does, and its bound is that of the pair."""

import numpy as np
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Theirs

import pvae
from pvae import PvaeError
from pvae.guides import Responsibilities
from pvae.models import VAE, GaussianMixture

DIM = 4


@pytest.fixture(scope="module")
def x():
    """Digits, by their first principal components, [1797, 4]."""
    codes = PCA(DIM, svd_solver="full").fit_transform(load_digits().data)
    return torch.tensor(codes / 10)


def mixture(x, num_components=5, seed=0):
    torch.manual_seed(seed)
    return GaussianMixture((DIM,), num_components).double().start_from(x)


def test_em_never_falls_from_a_hundred_starts(x):
    for seed in range(100):
        model = mixture(x[seed::9], 2 + seed % 4, seed)
        history = np.array(model.em(x[seed::9], num_steps=25, tol=0.0))
        assert len(history) > 20
        assert (np.diff(history) > -1e-10 * np.abs(history[1:])).all()
        assert history[-1] > history[0] + 10


def test_em_ends_where_scikit_learn_does(x):
    model = mixture(x)
    theirs = Theirs(
        5,
        reg_covar=0,
        tol=1e-10,
        max_iter=3000,
        weights_init=model.weights.detach().numpy(),
        means_init=model.loc.detach().numpy(),
        precisions_init=torch.linalg.inv(model.scale_tril() @ model.scale_tril().mT)
        .detach()
        .numpy(),
    ).fit(x.numpy())
    assert theirs.converged_
    model.em(x, num_steps=3000, tol=1e-10)
    assert float(model.log_px(x).mean()) == pytest.approx(theirs.score(x.numpy()), abs=1e-6)
    np.testing.assert_allclose(model.weights.detach(), theirs.weights_, atol=1e-4)
    np.testing.assert_allclose(model.loc.detach(), theirs.means_, atol=1e-4)
    covariance = (model.scale_tril() @ model.scale_tril().mT).detach()
    np.testing.assert_allclose(covariance, theirs.covariances_, atol=1e-4)


def test_the_bound_is_that_of_the_pair(x):
    """L(q, θ) by Pyro's TraceEnum_ELBO, for a q that is not the posterior and for one that is."""
    model, other = mixture(x), mixture(x, seed=1)
    for guide_of in (other, model):
        svi = pvae.SVI(model, Responsibilities(guide_of), None, TraceEnum_ELBO(max_plate_nesting=1))
        found = -svi.evaluate_loss(x)
        assert found == pytest.approx(float(model.elbo(x, guide_of.responsibilities(x))), rel=1e-10)
    assert found == pytest.approx(float(model.log_px(x).sum()), rel=1e-10)
    assert -svi.evaluate_loss(x) > float(model.elbo(x, other.responsibilities(x))) + 10


def test_the_m_step_is_the_maximum(x):
    """No parameter has a gradient left, for q fixed."""
    model, other = mixture(x), mixture(x, seed=1)
    q = other.responsibilities(x).detach()
    before = float(model.elbo(x, q))
    model.maximise(x, q)
    model.elbo(x, q).backward()
    assert float(model.elbo(x, q)) > before
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() < 1e-8 * len(x), name


def test_gradient_steps_are_a_partial_m_step(x):
    model = mixture(x)
    best = mixture(x)
    best.em(x, num_steps=500)
    options = {"epochs": 30, "batch_size": 200, "lr": 3e-2, "mode": "eager", "progress": False}
    fitted = pvae.fit(model, Responsibilities(model), x, **options)
    assert fitted.loss == "TraceEnum_ELBO"
    found, wanted = (float(m.log_px(x).mean()) for m in (model, best))
    assert wanted - 0.1 < found < wanted + 0.1


def test_evaluation_is_exact(x):
    model = mixture(x)
    model.em(x)
    assert pvae.check(model, Responsibilities(model), x).enumerated == ("y",)
    found = pvae.evaluate(model, Responsibilities(model), x[:50], num_samples=3, progress=False)
    assert found.exact
    np.testing.assert_allclose(found.log_px, model.log_px(x[:50]).detach(), rtol=1e-10)


def test_images_and_pixels_that_never_change():
    digits = pvae.data.load("digits", observation="grey")
    x = digits.train.x
    torch.manual_seed(0)
    model = GaussianMixture((1, 8, 8), 3).start_from(x)
    with pytest.raises(PvaeError, match=r"Component 0 of 3 has degenerated.*reg_covar=1e-6"):
        model.em(x)
    history = model.em(x, num_steps=10, reg_covar=1e-3)
    assert history[-1] > history[0]
    assert model(size=5).shape == (5, 1, 8, 8)


def test_what_degenerates_is_named_and_changes_nothing(x):
    few = x[:8]
    model = mixture(few, 3)
    before = [p.clone() for p in model.parameters()]
    q = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 0, 0, 0, 0, 0, 0, 1])]
    with pytest.raises(PvaeError, match=r"Component 2 of 3 .* holds 0 of 8 data"):
        model.maximise(few, q)
    with pytest.raises(PvaeError, match=r"Component 1 of 2 .* holds 1 of 8 data"):
        mixture(few, 2).maximise(few, q[:, :2])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(PvaeError, match="num_components=9 is larger than the data"):
        mixture(few, 9)
    with pytest.raises(PvaeError, match="num_components=0: it must be at least 1"):
        GaussianMixture((2,), 0)
    with pytest.raises(PvaeError, match="VAE has no responsibilities"):
        Responsibilities(VAE((2,), 2))
