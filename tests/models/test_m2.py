"""M2: known and unknown labels, exactly; samples given a label; the classifier of its guide."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close as close

import pvae
from pvae.errors import PvaeError
from pvae.estimators import Classifier, Quadrature
from pvae.guides import LabelThenCode
from pvae.models import M2, VAE
from pvae.objectives import SemiSupervised_ELBO

SIZES = {"hidden_dims": [8]}
TIGHT = {"rtol": 1e-5, "atol": 1e-4}


def pair(label="enumerated", **options):
    torch.manual_seed(0)
    model = M2((1, 8, 8), 3, 1, **SIZES, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model, LabelThenCode(model, (1, 8, 8), label, **SIZES)


def data(size=6):
    torch.manual_seed(1)
    return torch.rand(size, 1, 8, 8).round(), torch.arange(size) % 3


def by_quadrature(model, guide, *batch):
    options = {"num_samples": 2, "estimators": [Quadrature()], "progress": False}
    found = pvae.evaluate(model, guide, batch, **options)
    return torch.from_numpy(found.findings["quadrature"].log_px)


def test_an_unknown_label_is_the_sum_over_known_ones():
    model, guide = pair()
    x, y = data()
    each = torch.stack([by_quadrature(model, guide, x, torch.full_like(y, c)) for c in range(3)])
    close(each.logsumexp(0), by_quadrature(model, guide, x, y - 3), **TIGHT)
    known = each[y, torch.arange(6)]
    mixed = by_quadrature(model, guide, x, torch.where(y > 0, y, -1))
    close(mixed, torch.where(y > 0, known, each.logsumexp(0)), **TIGHT)
    given = pvae.models.ConditionalVAE((1, 8, 8), 3, 1, **SIZES)
    given.load_state_dict(model.state_dict())
    its_guide = pvae.guides.ConditionalMeanField(given, (1, 8, 8), **SIZES)
    close(by_quadrature(given, its_guide, x, y) - math.log(3), known, **TIGHT)


@pytest.mark.parametrize("label", ["enumerated", "sampled"])
def test_weights_are_unbiased(label):
    model, guide = pair(label)
    x, y = data()
    y = torch.where(y > 0, y, -1)
    exact = by_quadrature(*pair(), x, y)
    found = pvae.evaluate(model, guide, (x, y), num_samples=20_000, estimators=[], progress=False)
    assert (torch.tensor(found.log_px) - exact).abs().max() < 0.2


def test_unknown_labels_are_negative_or_nan_or_not_given():
    model, guide = pair()
    x, _ = data()
    torch.manual_seed(0)
    expected = pvae.log_weights(model, guide, x, num_samples=4)
    for unknown in (torch.full((6,), -1), torch.full((6,), math.nan)):
        torch.manual_seed(0)
        close(pvae.log_weights(model, guide, x, unknown, num_samples=4), expected)


def test_it_generates_what_it_is_told():
    model, _ = pair()
    drawn = pvae.generate(model, 4, y=torch.tensor([0, 1, 2, 2]))
    assert drawn.shape == (4, 1, 8, 8)
    one = pvae.generate(model, 4, y=torch.tensor(1))
    close(one[1], drawn[1])
    assert not torch.equal(one[0], drawn[0])
    assert pvae.generate(model, 5).shape == (5, 1, 8, 8)


@pytest.mark.parametrize("label", ["enumerated", "sampled"])
@pytest.mark.parametrize("network", ["dense", "conv"])
def test_its_error_is_that_of_its_classifier(label, network):
    options = {"network": network, "channels": [2, 2], "hidden_dims": [16]}
    model = M2((1, 8, 8), 10, 2, **options)
    guide = LabelThenCode(model, (1, 8, 8), label, **options)
    digits = pvae.data.load("digits", labelled=200, observation="threshold")
    loss = SemiSupervised_ELBO(alpha=20.0, num_particles=1 if label == "enumerated" else 3)
    pvae.fit(model, guide, digits, epochs=2, lr=1e-2, loss=loss, progress=False)
    options = {"estimators": [Classifier()], "progress": False}
    found = pvae.evaluate(model, guide, digits, num_samples=1, **options)
    x, y = digits.test.tensors()
    log_q = guide.classify(x).detach()
    np.testing.assert_allclose(found.findings["classifier"].log_probs, log_q, atol=1e-5)
    error = found.summary()["classifier"]["error"]["mean"]
    assert error == pytest.approx(float((log_q.argmax(1) != y).double().mean()))
    assert error < 0.8 or network == "conv"
    assert found.missing == {}


def test_recorded_steps_are_eager_ones(uncompiled):
    x, y = data(12)
    y = torch.where(y > 0, y, -1)
    losses = []
    for mode in ("eager", "compiled"):
        svi = pvae.SVI(*pair(), torch.optim.Adam, SemiSupervised_ELBO(1, 3.0, 0.5), mode=mode)
        torch.manual_seed(2)
        losses.append([svi.step(x, y.roll(i)) for i in range(4)])
    assert svi.compiled, svi.why_eager
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_wrong_labels_and_models_are_refused():
    model, _ = pair()
    x, y = data()
    with pytest.raises(PvaeError, match="y holds 3, but the labels of this model are 0 to 2"):
        pvae.check(model, LabelThenCode(model, (1, 8, 8)), x, y + 1)
    with pytest.raises(PvaeError, match="label='all' is not valid: give 'enumerated' or"):
        LabelThenCode(model, (1, 8, 8), "all")
    with pytest.raises(PvaeError, match="VAE has no labels: LabelThenCode is for M2"):
        LabelThenCode(VAE((1, 8, 8)), (1, 8, 8))


def test_one_hot_labels_are_refused():
    x, y = data()
    with pytest.raises(PvaeError, match=r"y of shape \(6, 3\) is not valid.*y\.argmax\(-1\)"):
        pvae.fit(*pair(), {"x": x, "y": torch.eye(3)[y]}, epochs=1, progress=False)


def test_a_class_without_a_label(recwarn):
    x, y = data()
    y[0] = -1
    pvae.fit(*pair(), {"x": x, "y": y}, epochs=1, batch_size=6, progress=False)
    assert not recwarn.list
    y[y == 1] = -1
    with pytest.warns(UserWarning, match="no label of class 1, so that the pair cannot learn"):
        pvae.fit(*pair(), {"x": x, "y": y}, epochs=1, batch_size=6, progress=False)
