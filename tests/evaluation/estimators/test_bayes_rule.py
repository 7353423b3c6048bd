"""Bayes' rule on pairs whose p(x|y) is known: labels, their probabilities and their errors."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pvae
from pvae import guides, models
from pvae.cli import main
from pvae.errors import PvaeError
from pvae.estimators import BayesRule, Quadrature, Rejection
from pvae.evaluation.estimators.bayes_rule import BayesClassification, posterior
from pvae.report.subject import Subject

D, Z, C, SCALE = 5, 2, 3, 0.7


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Linear(nn.Module):
    """z ~ N(0, I), x ~ N(W z + b_y, s² I); b is 0 for y = 1."""

    def __init__(self, labels="integers"):
        super().__init__()
        self.register_buffer("weight", rand(D, Z, seed=0))
        self.register_buffer(
            "bias", torch.stack([rand(D, seed=1), torch.zeros(D), rand(D, seed=2)])
        )
        self.labels = labels

    def mean(self, y):
        return y.float() @ self.bias if self.labels == "one-hot" else self.bias[y]

    def forward(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            loc = z @ self.weight.T + self.mean(y)
            pyro.sample("x", dist.Normal(loc, SCALE).to_event(1), obs=x)

    def guide(self, x, y):
        """The posterior, with scales 1.3 times too wide."""
        cov = torch.linalg.inv(torch.eye(Z) + self.weight.T @ self.weight / SCALE**2)
        loc = (x - self.mean(y)) @ self.weight @ cov / SCALE**2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, 1.69 * cov))

    def log_px(self, x):
        """log p(x|y) for every y, [N, C]."""
        cov = self.weight @ self.weight.T + SCALE**2 * torch.eye(D)
        p = dist.MultivariateNormal(self.bias.double(), cov.double())
        return p.log_prob(x[:, None].double()).numpy()

    def draw(self, y, seed=3):
        x = rand(len(y), Z, seed=seed) @ self.weight.T + SCALE * rand(len(y), D, seed=seed + 1)
        return x + self.bias[y]


def log_posterior(log_px, shares):
    log_joint = log_px + np.log(shares)
    return log_joint - np.logaddexp.reduce(log_joint, 1, keepdims=True)


Y = torch.tensor([0, 1, 2, 2] * 50)


@pytest.mark.parametrize("labels", ["integers", "one-hot"])
def test_probabilities_are_exact_within_their_stated_errors(labels):
    model = Linear(labels)
    x = model.draw(Y)
    y = torch.eye(C)[Y] if labels == "one-hot" else Y
    found = pvae.classify(model, model.guide, (x, y), num_samples=400, progress=False)
    exact = model.log_px(x)
    assert found.log_px_given_y.shape == (200, C)
    for ours, error, truth in [
        (found.log_px_given_y, found.log_px_given_y_se, exact),
        (found.log_probs, found.log_probs_se, log_posterior(exact, [1 / 3] * 3)),
    ]:
        z = ((ours - truth) / error)[error > 0]
        assert np.abs(z).max() < 6
        assert 0.8 < z.std() < 1.25  # neither too small nor too large
    assert (found.log_probs_se > 0).all()
    log_px = np.logaddexp.reduce(exact - math.log(3), 1)
    np.testing.assert_allclose(found.log_px, log_px, atol=6 * found.log_px_given_y_se.max())
    np.testing.assert_allclose(np.exp(found.log_probs).sum(1), 1)
    picked = found.y.argmax(1) if labels == "one-hot" else found.y
    sure = np.sort(log_posterior(exact, [1 / 3] * 3), 1)
    sure = sure[:, -1] - sure[:, -2] > 1
    assert (picked == exact.argmax(1))[sure].all()
    assert sure.mean() > 0.5


def test_the_values_of_y_and_the_size_of_the_data_do_not_matter():
    model = Linear()
    x = model.draw(Y)
    options = {"num_samples": 300, "progress": False}
    found = pvae.classify(model, model.guide, (x, Y), **options)
    other = pvae.classify(model, model.guide, (x, Y.flip(0)), **options)
    np.testing.assert_array_equal(found.log_probs, other.log_probs)
    blind = pvae.classify(model, model.guide, x, num_classes=C, **options)
    np.testing.assert_array_equal(found.log_probs, blind.log_probs)
    one = pvae.classify(model, model.guide, x[:1], num_classes=C, **options)
    assert one.log_probs.shape == (1, C)
    assert np.abs(one.log_probs - log_posterior(model.log_px(x[:1]), [1 / 3] * 3)).max() < (
        6 * one.log_probs_se.max()
    )


def test_the_prior_is_that_of_the_training_data_or_the_callers():
    model = Linear()
    fields = {"x_train": model.draw(Y), "y_train": Y, "x_test": model.draw(Y, 9), "y_test": Y}
    fields = {name: value.numpy() for name, value in fields.items()}
    data = pvae.data.load(fields, observation="as_given", labels=True)
    options = {"num_samples": 500, "progress": False}
    for prior, shares in [(None, [0.25, 0.25, 0.5]), ([0.8, 0.1, 0.1], [0.8, 0.1, 0.1])]:
        found = pvae.classify(model, model.guide, data, prior=prior, **options)
        exact = log_posterior(model.log_px(data.test.x), shares)
        assert np.abs((found.log_probs - exact) / found.log_probs_se).max() < 6
    lacking = fields | {"y_train": np.minimum(fields["y_train"], 1)}
    data = pvae.data.load(lacking, observation="as_given", labels=True)
    with pytest.raises(PvaeError, match="Label 2 occurs in the evaluated data and not"):
        pvae.classify(model, model.guide, data, **options)


def test_an_explicit_density_is_exact():
    from pvae.models import MADE, Conditional

    torch.manual_seed(0)
    model = Conditional(MADE((4,), hidden_dims=[16], context_shape=(C,)))
    x, y = (torch.rand(20, 4) < 0.5).float(), torch.arange(20) % C
    found = pvae.classify(model, guides.NoLatents(), (x, y), num_samples=7, progress=False)
    exact = torch.stack([model.log_px(x, torch.full_like(y, c)) for c in range(C)], 1)
    exact = exact.detach().double().numpy()
    np.testing.assert_allclose(found.log_px_given_y, exact, rtol=1e-5)
    np.testing.assert_allclose(found.log_probs, log_posterior(exact, [1 / 3] * 3), atol=1e-5)
    assert (found.log_probs_se == 0).all()


def test_a_model_that_draws_its_label_keeps_its_prior():
    """p(x, y) with p(y) = (0.6, 0.3, 0.1), not the equal shares of the data."""
    probs, linear = torch.tensor([0.6, 0.3, 0.1]), Linear()

    def model(x, y):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(probs), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            loc = z @ linear.weight.T + linear.bias[y]
            pyro.sample("x", dist.Normal(loc, SCALE).to_event(1), obs=x)

    x = linear.draw(Y)
    found = pvae.classify(model, linear.guide, (x, Y), num_samples=400, progress=False)
    exact = log_posterior(linear.log_px(x), probs.numpy())
    assert np.abs((found.log_probs - exact) / found.log_probs_se).max() < 6


@pytest.mark.parametrize("guide", ["enumerated", "sampled"])
def test_labels_that_are_known_of_some_data(guide):
    """M2 has p(y) = 1/3, and one latent: log p(x, y) by quadrature."""
    torch.manual_seed(0)
    model = models.M2((1, 4, 4), 3, 1, hidden_dims=[8])
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    summed = guides.LabelThenCode(model, (1, 4, 4), hidden_dims=[8])
    guide = guides.LabelThenCode(model, (1, 4, 4), guide, hidden_dims=[8])
    x, y = torch.rand(20, 1, 4, 4).round(), torch.arange(20) % 3
    options = {"num_samples": 2, "estimators": [Quadrature()], "progress": False}
    exact = [
        pvae.evaluate(model, summed, (x, torch.full_like(y, c)), **options).findings["quadrature"]
        for c in range(3)
    ]
    exact = np.stack([each.log_px for each in exact], 1)
    mixed = torch.where(torch.arange(20) % 2 == 0, y, -1)
    found = pvae.classify(model, guide, (x, mixed), num_samples=3000, progress=False)
    for ours, errors, truth in [
        (found.log_px_given_y, found.log_px_given_y_se, exact),
        (found.log_probs, found.log_probs_se, log_posterior(exact, [1 / 3] * 3)),
    ]:
        assert np.abs((ours - truth) / errors).max() < 6
        assert errors.max() < 0.2
    result = pvae.evaluate(
        model, guide, (x, mixed), num_samples=2, progress=False, estimators=[
            BayesRule(num_samples=3000), Rejection(foreign={"x": x.flip(0)}, num_samples=3000)
        ],
    )  # fmt: skip
    scored = result.findings["bayes_rule"]
    assert (scored.datum == np.arange(0, 20, 2)).all()
    assert (scored.label == y[::2].numpy()).all()
    log_px = np.logaddexp.reduce(exact, 1)
    np.testing.assert_allclose(result.findings["rejection"].test[:, 0], log_px, atol=0.3)
    np.testing.assert_allclose(result.findings["rejection"].of("x")[:, 0], log_px[::-1], atol=0.3)
    options = {"num_samples": 3000, "progress": False}
    unknown = pvae.classify(model, guide, (x, torch.full_like(y, -1)), **options)
    np.testing.assert_array_equal(unknown.log_probs, found.log_probs)
    blind = pvae.classify(model, guide, x, num_classes=3, **options)
    np.testing.assert_array_equal(blind.log_probs, found.log_probs)


def test_the_delta_method_is_that_of_the_gradient():
    log_joint = rand(4, 6, seed=0).double().requires_grad_()
    se = rand(4, 6, seed=1).abs().double()
    log_probs = log_joint.log_softmax(-1)
    _, found = posterior(log_joint.detach().numpy(), se.numpy())
    for y in range(6):
        (slope,) = torch.autograd.grad(log_probs[:, y].sum(), log_joint, retain_graph=True)
        np.testing.assert_allclose(found[:, y], ((slope * se) ** 2).sum(-1).sqrt())
    impossible, errors = posterior(np.array([[0.0, -np.inf]]), np.array([[0.1, np.nan]]))
    assert (impossible == [[0, -np.inf]]).all()
    assert errors[0, 0] == 0


def test_a_finding_scores_the_labels(tmp_path):
    model, y = Linear(), Y
    x = model.draw(y)
    options = {"num_samples": 20, "progress": False, "out": tmp_path}
    result = pvae.evaluate(model, model.guide, (x, y), estimators=[BayesRule(90, 400)], **options)
    found = result.findings["bayes_rule"]
    assert len(found) == 90
    assert (found.label == y[found.datum].numpy()).all()
    exact = model.log_px(x)[found.datum]
    wrong = (exact.argmax(1) != found.label).mean()
    row = result.summary()["bayes_rule"]
    assert row["error"]["mean"] == pytest.approx(wrong, abs=row["uncertain"])
    assert 0 < wrong < 0.5
    assert row["nll"]["mean"] == pytest.approx(
        -log_posterior(exact, [1 / 3] * 3)[np.arange(90), found.label].mean(), abs=0.02
    )
    gap = np.diff(np.sort(exact, 1)[:, -2:], axis=1)[:, 0]
    assert found.uncertain[gap > 0.6].max() == 0
    assert found.uncertain[gap < 0.02].all()
    assert "labels by Bayes' rule: error" in result.table()
    again = pvae.Evaluation.load(tmp_path)
    assert isinstance(again.findings["bayes_rule"], BayesClassification)
    assert again.summary() == result.summary()
    page = pvae.write_report(tmp_path / "a.html", again).read_text()
    assert "Classification by Bayes" in page
    few = result.table().split("labels by Bayes")[1]
    assert "other samples could change the label of" in few


def test_unknown_labels_are_not_scored():
    model, y = Linear(), Y.clone()
    y[::2] = -1
    x = model.draw(Y)
    safe = Linear()
    safe.mean = lambda y: safe.bias[y.clamp(min=0)]
    result = pvae.evaluate(
        safe, safe.guide, (x, y), num_samples=2, estimators=[BayesRule()], progress=False
    )
    found = result.findings["bayes_rule"]
    assert (found.datum == np.arange(1, 200, 2)).all()
    assert found.log_probs.shape == (100, 2)  # label 1 and 2 are known of some


def test_what_cannot_be_classified_is_refused():
    x = torch.zeros(6, 1, 8, 8)
    pair = models.VAE((1, 8, 8), 2), guides.MeanField((1, 8, 8), 2)
    with pytest.raises(PvaeError, match="needs a pair whose programs take labels y"):
        pvae.classify(*pair, x, progress=False)
    with pytest.warns(UserWarning, match="Bayes' rule was left out: Bayes' rule needs a pair"):
        pvae.evaluate(*pair, x, num_samples=2, estimators=[BayesRule()], progress=False)
    model = Linear()
    for prior in ([0.5, 0.5], [0.5, 0.5, 0.5], [1.0, 0.0, 0.0]):
        with pytest.raises(PvaeError, match="give a probability above zero for each of the 3"):
            pvae.classify(model, model.guide, (model.draw(Y), Y), prior=prior, progress=False)
    with pytest.raises(PvaeError, match="num_classes=0"):
        pvae.classify(model, model.guide, model.draw(Y), num_classes=0, progress=False)


@pytest.mark.parametrize("labels", ["integers", "one-hot"])
def test_the_page_shows_the_competition_between_labels(tmp_path, labels):
    torch.manual_seed(0)
    model = models.ConditionalVAE((1, 8, 8), 4, 2, hidden_dims=[8])
    guide = guides.ConditionalMeanField(model, (1, 8, 8), hidden_dims=[8])
    if labels == "one-hot":
        model.context = nn.Identity()
    x, y = (torch.rand(30, 1, 8, 8) < 0.5).float(), torch.arange(30) % 4
    data = (x, torch.eye(4)[y] if labels == "one-hot" else y)
    asked = [BayesRule(20, 30), Rejection(foreign="shuffled", share=0.3)]
    result = pvae.evaluate(model, guide, data, num_samples=5, estimators=asked, progress=False)
    found = result.findings["bayes_rule"]
    parts = {"model": model, "guide": guide, "data": data}
    page = pvae.write_report(tmp_path / "a.html", result, **parts).read_text()
    shown = page.split('id="competition"')[1].split("</figure>")[0]
    right, wrong = (np.flatnonzero(found.wrong == v)[:n] for v, n in ((0, 4), (1, 3)))
    assert len(right) > 1 < len(wrong)
    for i in (*right, *wrong):
        row = found.datum[i]
        assert f"y = {found.label[i]}, index {row}<" in shown
        assert f'alt="Test image {row} given label 3"' in shown
        best = f"{found.log_px[i].max():.1f}".replace("-", "−")
        assert f"<strong>{best}</strong>" in shown
    rows = shown.count("<tr>") - 1
    assert shown.count("<img") == 5 * rows
    assert rows >= len(right) + len(wrong)
    assert shown.count("<br>rejected") > 0
    subject = Subject(model, guide, data)
    given = subject.reconstruct_given(7, found.labels)
    each = torch.eye(4) if labels == "one-hot" else torch.arange(4)
    same = pvae.reconstruct(model, guide, x[7].expand(4, 1, 8, 8), each)
    np.testing.assert_allclose(given, same.detach().numpy(), rtol=1e-5)
    assert 'id="competition"' not in pvae.write_report(tmp_path / "b.html", result).read_text()


def test_the_shell_classifies(tmp_path, capsys):
    run = str(tmp_path / "run")
    small = ["--model", "ConditionalVAE", "--guide", "ConditionalMeanField", "--given", "y"]
    small += ["--model.hidden_dims", "[8]", "--guide.hidden_dims", "[8]", "--epochs", "1"]
    few = ["--num_samples", "20", "--num_data", "30", "--prior_samples", "0", "--surgery", "false"]
    quick = ["--progress", "false", "--device", "cpu"]
    assert main(["run", *small, *few, "--out", run, *quick]) == 0
    capsys.readouterr()
    assert "pvae evaluate RUN --bayes_rule 1000" in (tmp_path / "run" / "report.html").read_text()
    assert main(["evaluate", run, "--bayes_rule", "20", "--label_samples", "10", *quick]) == 0
    assert "labels by Bayes' rule: error" in capsys.readouterr().out
    found = pvae.Evaluation.load(run).findings["bayes_rule"]
    assert (len(found), found.num_samples, found.log_probs.shape) == (20, 10, (20, 10))
