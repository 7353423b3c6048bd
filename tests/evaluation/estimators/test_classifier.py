"""A classifier's error and calibration: by hand, and q(y|x) of every kind of pair with labels."""

import json
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.errors import PvaeError
from pvae.estimators import Classifier
from pvae.evaluation import Evaluation, compare
from pvae.evaluation.estimators.classification import Classification
from pvae.report.compare import write_comparison
from tests.masked import semi_supervised

PROBS = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
LABEL = np.array([0, 1, 1, 1])


def scored(model, guide, *batch, **options):
    estimators = [Classifier(**options)]
    return pvae.evaluate(
        model, guide, batch, num_samples=2, estimators=estimators, progress=False
    ).findings.get("classifier")


def known():
    """The label of `semi_supervised` and log q(y|x), [10, 3]."""
    _, guide, batch, _ = semi_supervised(0.5)
    trace = pyro.poutine.trace(guide).get_trace(*batch)
    return batch[1], trace.nodes["y_unobserved"]["fn"].logits.log_softmax(-1)


def test_error_log_loss_and_calibration_by_hand():
    found = Classification(np.arange(4), np.log(PROBS), LABEL)
    summary = found.summary(None)
    json.dumps(summary, allow_nan=False)
    assert found.wrong.tolist() == [0, 1, 0, 0]
    assert summary["error"] == {"mean": 0.25, "se": pytest.approx(0.25)}
    nll = -np.log([0.9, 0.3, 0.8, 0.6])
    assert summary["nll"]["mean"] == pytest.approx(nll.mean())
    assert summary["nll"]["se"] == pytest.approx(nll.std(ddof=1) / 2)
    # every datum has a bin of its own, except that 0.8 is in the bin of [12/15, 13/15)
    gaps = [1 - 0.9, 0.7, 1 - 0.8, 1 - 0.6]
    assert summary["calibration_error"] == pytest.approx(np.mean(gaps))
    assert [c["num_data"] for c in summary["classes"]] == [1, 3]
    assert summary["classes"][1]["error"]["mean"] == pytest.approx(1 / 3)
    line = found.line(summary)
    assert "labels by q(y|x): error 25 ± 25 %" in line.replace(".0", "")
    assert "calibration error 35.0 %, on 4 labelled data" in line


def test_bins_pool_data_of_similar_confidence():
    probs = np.array([[0.81, 0.19], [0.85, 0.15], [0.19, 0.81], [1.0, 0.0]])
    with np.errstate(divide="ignore"):
        found = Classification(np.arange(4), np.log(probs), np.array([0, 1, 1, 1]))
    first, last = found.bins()
    assert (first["num_data"], last["num_data"]) == (3, 1)
    assert first["accuracy"] == pytest.approx(2 / 3)
    assert first["confidence"] == pytest.approx(np.mean([0.81, 0.85, 0.81]))
    summary = found.summary(None)
    gap = abs(2 / 3 - np.mean([0.81, 0.85, 0.81]))
    assert summary["calibration_error"] == pytest.approx((3 * gap + 1) / 4)
    assert summary["nll"] == {"mean": None, "se": None}  # a label of probability zero


@pytest.mark.parametrize("where", ["guide", "both", "sampled"])
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("mask", ["obs_mask", "distribution"])
@pytest.mark.parametrize("labelled", [0.5, 1.0])
def test_labels_are_hidden_and_only_known_ones_are_scored(where, one_hot, mask, labelled):
    model, guide, batch, _ = semi_supervised(labelled, where, mask, one_hot=one_hot)
    found = scored(model, guide, *batch)
    y, log_q = known()
    num = round(10 * labelled)
    assert found.datum.tolist() == list(range(num))
    assert found.label.tolist() == y[:num].tolist()
    np.testing.assert_allclose(found.log_probs, log_q[:num], atol=1e-6)


def test_pairs_without_known_labels_or_without_q_of_y_have_no_classifier():
    unlabelled = semi_supervised(0.0)
    assert scored(*unlabelled[:2], *unlabelled[2]) is None
    summed_in_model = semi_supervised(0.5, "model")
    assert scored(*summed_in_model[:2], *summed_in_model[2]) is None
    model, guide = pvae.models.VAE((2,), 2), pvae.guides.MeanField((2,), 2)
    assert scored(model, guide, torch.zeros(4, 2)) is None


def by_none(through_z=False, binary=False):
    """Labels are an argument that may be None, as in Pyro's example; the guide sees x first.

    With `through_z`, q(y|x) = ½ q(y|z = 1) + ½ q(y|z = 0).
    """
    logits = torch.tensor([0.5, -1.0, 2.0])
    given = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]).log()

    def label():
        return dist.Bernoulli(0.3) if binary else dist.OneHotCategorical(torch.ones(3))

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            if through_z:
                pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("y", label(), obs=y)
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            own = x[:, None] * logits
            if through_z:
                own = given[pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5))).long()]
            if y is None:
                fn = dist.Bernoulli(logits=x) if binary else dist.OneHotCategorical(logits=own)
                pyro.sample("y", fn)

    return model, guide, logits


def test_labels_are_left_out_where_the_pair_takes_none():
    model, guide, logits = by_none()
    x, y = torch.linspace(-1, 1, 300), torch.arange(300) % 3
    found = scored(model, guide, x, torch.eye(3)[y])
    assert found.label.tolist() == y.tolist()
    np.testing.assert_allclose(found.log_probs, (x[:, None] * logits).log_softmax(-1), atol=1e-6)
    some = scored(model, guide, x, torch.eye(3)[y], num_data=7)
    assert len(some) == 7
    np.testing.assert_array_equal(some.log_probs, found.log_probs[some.datum])
    model, guide, _ = by_none(binary=True)
    found = scored(model, guide, x, (y > 0).float())
    np.testing.assert_allclose(found.log_probs[:, 1], x.sigmoid().log(), atol=1e-6)
    assert found.label.tolist() == (y > 0).long().tolist()


def test_other_latents_of_the_guide_are_averaged_out():
    model, guide, _ = by_none(through_z=True)
    y = torch.eye(3)[torch.arange(50) % 3]
    found = scored(model, guide, torch.zeros(50), y, num_samples=400)
    exact, error = np.array([0.45, 0.1, 0.45]), 0.35 / np.sqrt(400)
    probs = np.exp(found.log_probs)
    assert np.abs(probs - exact).max() < 5 * error
    assert np.abs(probs.mean(0) - exact).max() < 5 * error / np.sqrt(50)
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-6)


def test_a_label_that_the_guide_cannot_do_without_is_none():
    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.ones(3)), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    assert scored(model, guide, torch.zeros(5), torch.arange(5) % 3) is None


def test_labels_may_begin_after_the_first_block():
    model, guide, (x, y, _), _ = semi_supervised(0.5)
    x, y = x.repeat(40, 1), y.repeat(40)
    found = scored(model, guide, x, y, torch.arange(400) >= 300)
    assert found.datum.tolist() == list(range(300, 400))


def test_it_is_saved_shown_and_compared(tmp_path):
    model, guide, batch, _ = semi_supervised(1.0)
    with warnings.catch_warnings(action="error"):  # known labels are no codes to count
        found = pvae.evaluate(model, guide, batch, num_samples=3, progress=False, out=tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["classifier"]["num_classes"] == 3
    assert "labels by q(y|x): error" in found.table()
    kept = Evaluation.load(tmp_path)
    np.testing.assert_array_equal(
        kept.findings["classifier"].log_probs, found.findings["classifier"].log_probs
    )
    (panel,) = kept.findings["classifier"].panels(kept)
    assert panel.missing is None
    assert panel.note.startswith("Labels by q(y|x): error")
    assert "error" in repr(kept.findings["classifier"])

    better = Classification(np.arange(10), np.log(np.eye(3)[batch[1]] + 1e-9), batch[1].numpy())
    other = Evaluation.load(tmp_path)
    other.findings["classifier"] = better
    comparison = compare({"a": kept, "b": other})
    title = "error of q(y|x)"
    assert (
        comparison.runs[1].scores[title].difference.mean
        == -kept.findings["classifier"].wrong.mean()
    )
    assert any(line.startswith(title) for line in comparison.table().splitlines())
    page = write_comparison(tmp_path / "compare.html", comparison).read_text()
    assert title in page
    del other.findings["classifier"]
    assert compare({"a": kept, "b": other}).runs[0].scores == {}


def test_labels_that_later_data_do_not_let_hide():
    """All labels of the first block are known by a mask, those of the second by no argument."""

    def model(x, y):
        known = torch.tensor(len(x) == 256 and bool((y >= 0).all() or (y < 0).all()))
        with pyro.plate("data", len(x)):
            label = dist.Categorical(torch.ones(len(x), 2))
            mask = (y >= 0) if known else torch.ones(len(x), dtype=torch.bool)
            pyro.sample("y", label, obs=y.clamp(min=0), obs_mask=mask)
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y_unobserved", dist.Categorical(torch.ones(len(x), 2)).mask(y < 0))

    batch = torch.zeros(300), torch.arange(300) % 2
    with pytest.warns(UserWarning, match="Classification .* was left out: The labels of data 256"):
        assert scored(model, guide, *batch) is None


def test_options_are_checked():
    with pytest.raises(PvaeError, match="num_samples"):
        Classifier(num_samples=0)
