"""The objective of partly labelled data: exact pairs, the classifier's term, and its scale."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch.testing import assert_close as close

import pvae
from pvae.data.mixed_order import mixed_order
from pvae.errors import PvaeError
from pvae.objectives import LatentScale, SemiSupervised_ELBO
from tests.importance.test_enumeration import _terms
from tests.masked import semi_supervised

SHARES = pytest.mark.parametrize("labelled", [0.0, 0.5, 1.0], ids=["none", "some", "all"])


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def exactly(labelled, alpha):
    """J of each datum, [10], of `semi_supervised` without z."""
    model, guide, batch, exact = semi_supervised(labelled, latent=False)
    _, joint, q = (v.squeeze(0) for v in _terms(model, guide, *batch))
    y, known = batch[1:]
    at_label = exact + alpha * q[y, torch.arange(10)]
    return torch.where(known, at_label, (q.exp() * (joint - q)).sum(0))


@SHARES
@pytest.mark.parametrize("where", ["guide", "both"])
@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("one_hot", [False, True])
def test_the_sum_over_labels_is_exact(double, labelled, where, alpha, one_hot):
    model, guide, batch, _ = semi_supervised(labelled, where, latent=False, one_hot=one_hot)
    for num_particles in (1, 3):
        loss = SemiSupervised_ELBO(num_particles, alpha).loss(model, guide, *batch)
        assert -loss == pytest.approx(float(exactly(labelled, alpha).sum()), rel=1e-6)
    if not alpha:
        assert loss == pytest.approx(TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, *batch))


@SHARES
def test_a_sampled_label_has_the_same_mean_and_gradient(labelled):
    torch.manual_seed(0)
    model, _, batch, _ = semi_supervised(labelled, latent=False)
    logits = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64))

    def guide_with(infer):
        def guide(x, y, known):
            with pyro.plate("data", len(x)), pyro.poutine.mask(mask=~known):
                fn = dist.Categorical(logits=logits.expand(len(x), 3))
                pyro.sample("y_unobserved", fn, infer=infer)

        return guide

    def step(objective, guide):
        logits.grad = None
        loss = objective.loss_and_grads(model, guide, *batch)
        return torch.cat([torch.tensor([loss]), logits.grad])

    exact = step(SemiSupervised_ELBO(1, 2.0), guide_with({"enumerate": "parallel"}))
    objective = SemiSupervised_ELBO(40, 2.0)
    found = torch.stack([step(objective, guide_with({})) for _ in range(40)])
    error = 5 * found.std(0) / math.sqrt(len(found)) + 1e-6
    assert ((found.mean(0) - exact).abs() < error).all()


def test_beside_a_continuous_latent_it_is_pyros_bound(double):
    torch.manual_seed(0)
    model, guide, batch, _ = semi_supervised(0.5)
    theirs = TraceEnum_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    ours = SemiSupervised_ELBO(4000).loss(model, guide, *batch)
    assert abs(ours - theirs.loss(model, guide, *batch)) < 0.2


def test_a_kl_weight_leaves_known_labels_alone():
    """log p(x|y) of known data does not change, and the KL of the unknown labels does."""
    model, guide, batch, _ = semi_supervised(1.0, latent=False)
    one = [SemiSupervised_ELBO().loss(model, guide, *batch)]
    with LatentScale(0.25):
        one.append(SemiSupervised_ELBO().loss(model, guide, *batch))
    assert one[0] == pytest.approx(one[1])
    model, guide, batch, _ = semi_supervised(0.0, latent=False)
    _, joint, q = (v.squeeze(0) for v in _terms(model, guide, *batch))
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()[:, None]
    weighed = (q.exp() * (joint - prior - 0.25 * (q - prior))).sum()
    with LatentScale(0.25):
        loss = SemiSupervised_ELBO().loss(model, guide, *batch)
    assert -loss == pytest.approx(float(weighed), rel=1e-6)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_mixed_minibatches_have_the_mean_of_all_data(share):
    """Σ over batches of B is J in expectation, and at once if the batch is all data."""
    labelled, alpha, size = 0.3, 2.0, 4
    model, guide, batch, _ = semi_supervised(labelled, latent=False)
    exact, known = exactly(labelled, alpha), batch[2]
    objective = SemiSupervised_ELBO(1, alpha, labelled)
    assert -objective.loss(model, guide, *batch) == pytest.approx(float(exact.sum()), rel=1e-6)
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(60):
        for rows in mixed_order(known, share, size, generator).split(size)[:2]:
            loss = objective.loss(model, guide, *(t[rows] for t in batch))
            found.append(-loss / size)
    found = torch.tensor(found)
    error = 5 * found.std() / math.sqrt(len(found))
    assert abs(found.mean() - exact.mean()) < error
    plain = exact[mixed_order(known, share, size, generator)].mean()  # what it would be unweighed
    assert share < 0.5 or abs(plain - exact.mean()) > error


def test_fit_weighs_the_minibatches_of_mixed_data():
    data = pvae.data.load("digits", labelled=30, labelled_share=0.5, observation="threshold")
    model = pvae.models.M2(data.event_shape, latent_dim=2, hidden_dims=[4])
    guide = pvae.guides.LabelThenCode(model, data.event_shape, hidden_dims=[4])
    options = {"epochs": 1, "lr": 1e-12, "batch_size": 300, "progress": False}
    found = pvae.fit(model, guide, data, **options)
    assert found.loss == "SemiSupervised_ELBO"
    plain = pvae.data.load("digits", labelled=30, observation="threshold")
    whole = pvae.fit(model, guide, plain, **options)
    assert whole.loss == "TraceEnum_ELBO"
    labelled = pvae.evaluate(
        model, guide, plain.train.take(plain.train.known.nonzero()[:, 0]), num_samples=1,
        estimators=[], progress=False,
    )  # fmt: skip
    apart = abs(labelled.elbo.mean() - whole.history[0]["elbo"])  # a label costs log 10 and more
    assert abs(found.history[0]["elbo"] - whole.history[0]["elbo"]) < 0.25 * apart
    with pytest.raises(PvaeError, match="labelled_share, and Trace_ELBO would count labelled data"):
        pvae.fit(model, guide, data, **options, loss="Trace_ELBO")


def test_wrong_options_and_pairs_are_refused():
    with pytest.raises(PvaeError, match="alpha"):
        SemiSupervised_ELBO(alpha=-1)
    with pytest.raises(PvaeError, match=r"labelled=1\.5 is not valid"):
        SemiSupervised_ELBO(labelled=1.5)
    pair = pvae.models.VAE((2,), 2), pvae.guides.MeanField((2,), 2)
    SemiSupervised_ELBO().loss(*pair, torch.zeros(3, 2))
    with pytest.raises(PvaeError, match="the pair has none: in the model"):
        SemiSupervised_ELBO(alpha=1).loss(*pair, torch.zeros(3, 2))
    with pytest.raises(PvaeError, match="the pair has none"):
        pvae.fit(*pair, torch.zeros(8, 2), loss=SemiSupervised_ELBO(alpha=1), progress=False)


def test_weights_are_those_of_the_definition():
    known = torch.tensor([True, False, False, False])
    weights = SemiSupervised_ELBO(labelled=0.1)._weights(known)
    close(weights, torch.tensor([0.4, 1.2, 1.2, 1.2]))
    close(SemiSupervised_ELBO(labelled=0.1)._weights(~known & known), torch.ones(4))


def test_a_killed_run_draws_the_same_mixed_minibatches(tmp_path, monkeypatch):
    monkeypatch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0)
    data = pvae.data.load("digits", labelled=30, labelled_share=0.5)
    seen = {}

    def train(out, stop=None):
        torch.manual_seed(0)
        model = pvae.models.M2(data.event_shape, latent_dim=2, hidden_dims=[4])
        guide = pvae.guides.LabelThenCode(model, data.event_shape, hidden_dims=[4])
        steps = []

        def note(_, batch):
            if torch.is_grad_enabled():
                steps.append(batch[1])
            if stop and len(steps) > stop:
                raise RuntimeError("killed")

        guide.register_forward_pre_hook(note)
        options = {"epochs": 2, "batch_size": 300, "progress": False, "mode": "eager"}
        pvae.fit(model, guide, data, out=tmp_path / out, resume=True, **options)
        seen[out] = steps
        return model

    whole = train("whole")
    with pytest.raises(PvaeError, match="killed"):
        train("part", stop=8)  # in the second epoch
    part = train("part")
    assert len(seen["part"]) < len(seen["whole"])
    assert torch.equal(seen["part"][-1], seen["whole"][-1])
    for a, b in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(a, b)
