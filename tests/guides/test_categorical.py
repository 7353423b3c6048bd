"""CategoricalVAE and its guide: three gradients in training, one discrete pair in evaluation."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pvae
from pvae import guides, models
from pvae.errors import PvaeError
from pvae.objectives import IWAE_ELBO, STL_ELBO, DReG_ELBO

GRADIENTS = ["score", "gumbel_softmax", "straight_through"]
SHAPE, SIZES = (1, 2, 3), {"num_latents": 2, "num_categories": 3}
CODES = torch.stack(
    [torch.eye(3)[list(each)] for each in itertools.product(range(3), repeat=2)]
)  # all z, [9, 2, 3]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(x.flatten(-3)).unflatten(-1, (2, 3))


def pair(gradient="score", **options):
    torch.manual_seed(1)
    model = models.CategoricalVAE(SHAPE, **SIZES, hidden_dims=[5])
    return model, guides.Categorical(SHAPE, **SIZES, gradient=gradient, **options)


def bits(num):
    return (torch.rand(num, *SHAPE) < 0.5).float()


def terms(model, guide, x):
    """Returns log p(x, z) and log q(z|x) of all z, each [9, B]."""
    z = CODES.to(x)[:, None].expand(-1, len(x), -1, -1)
    log_p = model.likelihood(z).log_prob(x) - 2 * math.log(3)
    log_pi = guide.encoder(x).log_softmax(-1)
    return log_p, (z * log_pi).sum((-2, -1))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_evaluation_is_that_of_the_discrete_pair(gradient):
    model, guide = pair(gradient, hidden_dims=[8])
    data = bits(400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pvae.check(model, guide, data)
        pvae.fit(model, guide, data, epochs=5, batch_size=30, lr=1e-2, progress=False)
    x = data[:6]
    assert guide.training
    with torch.no_grad():
        log_p, log_q = (each.double() for each in terms(model, guide, x))
    exact = log_p.logsumexp(0)
    elbo = (log_q.exp() * (log_p - log_q)).sum(0)
    log_w = pvae.log_weights(model, guide, x, num_samples=4000).double()
    distance = (log_w[:, None] - (log_p - log_q)[None]).abs().amin(1)
    assert distance.max() < 1e-4  # each weight is that of one of the nine z
    for found, expected, values in (
        (log_w.mean(0), elbo, log_w),
        (log_w.logsumexp(0) - math.log(4000), exact, (log_w - exact).exp()),
    ):
        assert ((found - expected).abs() <= 5 * values.std(0) / 4000**0.5 + 1e-4).all()
    found = pvae.evaluate(model, guide, x, num_samples=4000, estimators=[], progress=False)
    assert np.allclose(found.log_px, exact.numpy(), atol=0.05)
    assert guide.training


@pytest.mark.parametrize("num_particles", [1, 2])
def test_the_score_functions_gradient_is_unbiased(num_particles):
    """VIMCO (or the ELBO, for one particle) against the sum over all z of all particles."""
    torch.manual_seed(0)
    model, guide = pair(encoder=Encoder())
    model.double(), guide.double()
    x, parameters = bits(1).double(), [*guide.parameters(), *model.parameters()]
    log_p, log_q = (each[:, 0] for each in terms(model, guide, x))
    bound = 0.0
    for each in itertools.product(range(9), repeat=num_particles):
        log_w = log_p[list(each)] - log_q[list(each)]
        bound = bound + log_q[list(each)].sum().exp() * log_w.logsumexp(0)
    bound = bound - math.log(num_particles)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(-bound, parameters)])
    objective = IWAE_ELBO(num_particles) if num_particles > 1 else Trace_ELBO()
    rows, losses, repeated = [], [], x.expand(500, *SHAPE)
    for _ in range(60):
        loss = objective.differentiable_loss(model, guide, repeated) / 500
        losses.append(loss.detach())
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    for found, due in ((torch.stack(rows), expected), (torch.stack(losses), -bound.detach())):
        error = found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - due).abs() < 5 * error + 1e-12).all()
    assert expected.abs().max() > 20 * torch.stack(rows).std(0).max() / 60**0.5  # it would show


def test_training_values_are_relaxed_or_straight_through():
    x = bits(50)
    for gradient in GRADIENTS:
        _, guide = pair(gradient)
        z = guide(x)
        assert torch.allclose(z.sum(-1), torch.ones(50, 2))
        assert set(z.unique().tolist()) == {0.0, 1.0} or gradient == "gumbel_softmax"
        assert ((z > 0.01) & (z < 0.99)).any() == (gradient == "gumbel_softmax")
        assert z.requires_grad == (gradient != "score")
        guide.eval()
        assert set(guide(x).unique().tolist()) == {0.0, 1.0}


def test_straight_through_and_auto_have_the_gradient_of_the_divergence():
    """Where x does not depend on z, what is left of the gradient is that of the KL, exactly."""
    for gradient in ("gumbel_softmax", "straight_through"):
        model, guide = pair(gradient)
        for parameter in model.parameters():
            parameter.data.zero_()
        x = bits(20)
        svi = pvae.SVI(
            model, guide, torch.optim.SGD, pvae.objectives.choose_elbo(
                "auto", pvae.inspect(model, guide, x).structure
            ), mode="eager",
        )  # fmt: skip
        before = {n: p.detach().clone() for n, p in guide.named_parameters()}
        log_pi = guide.encoder(x).log_softmax(-1)
        divergence = (log_pi.exp() * (log_pi + math.log(3))).sum()
        slopes = torch.autograd.grad(divergence, list(guide.parameters()))
        svi.step(x)
        for (name, parameter), slope in zip(guide.named_parameters(), slopes, strict=True):
            assert torch.allclose(parameter, before[name] - 1e-3 * slope, atol=1e-6), name


def test_the_temperature_falls_with_the_steps_and_is_kept(tmp_path):
    _, guide = pair("gumbel_softmax", temperature=2.0, anneal_rate=0.1, min_temperature=0.5)
    for t in range(30):
        assert guide.temperature.item() == pytest.approx(max(0.5, 2 * math.exp(-0.1 * t)), rel=1e-5)
        guide(bits(2))
    guide.eval()(bits(2))
    assert guide.num_calls == 30
    model, guide = pair("straight_through", anneal_rate=0.01)
    pvae.fit(
        model, guide, bits(90), epochs=2, batch_size=30, progress=False, out=tmp_path, mode="eager"
    )
    assert guide.num_calls == 6
    loaded = pair("straight_through", anneal_rate=0.01)
    pvae.load(tmp_path, model=loaded[0], guide=loaded[1])
    assert loaded[1].temperature == guide.temperature < 1
    assert guides.Categorical(SHAPE, temperature=0.2).temperature == pytest.approx(0.2)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("objective", [DReG_ELBO, STL_ELBO])
def test_path_gradients_refuse_discrete_sites(gradient, objective):
    model, guide = pair(gradient)
    said = r"'z'.*has no.*IWAE_ELBO.*Trace_ELBO"
    with pytest.raises(PvaeError, match=said):
        objective(num_particles=2).loss(model, guide, bits(5))


def test_path_gradients_refuse_a_point_on_a_codebook():
    made = {"channels": (4,), "num_blocks": 1}
    model = models.VQVAE((1, 4, 4), num_codes=3, code_dim=2, **made)
    guide = guides.NearestCode(model, (1, 4, 4), **made)
    with pytest.raises(PvaeError, match="OneHotCategorical has no density along a path"):
        DReG_ELBO(num_particles=2).loss(model, guide, torch.zeros(5, 1, 4, 4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0}, "temperature=0 is not valid: give a finite positive number"),
        ({"temperature": -1.0}, r"temperature=-1\.0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"min_temperature": 0.0}, r"min_temperature=0\.0"),
        ({"anneal_rate": -1e-3}, r"anneal_rate=-0\.001"),
        ({"gradient": "reinforce"}, "gradient='reinforce' is not valid.*'straight_through'"),
        ({"num_latents": 0}, "num_latents=0"),
    ],
)
def test_bad_input_is_one_message(options, said):
    with pytest.raises(PvaeError, match=said):
        guides.Categorical(SHAPE, **options)


def test_codes_of_other_sizes_are_one_message():
    model = models.CategoricalVAE(SHAPE, num_latents=4, num_categories=3)
    with pytest.raises(PvaeError, match=r"event shape \(2, 3\), the model's.*has \(4, 3\)"):
        pvae.check(model, pair()[1], bits(4))
    with pytest.raises(PvaeError, match="num_categories=0"):
        models.CategoricalVAE(SHAPE, num_categories=0)


def test_relaxed_training_is_called_that(tmp_path, monkeypatch):
    shown = {}
    for gradient in GRADIENTS:
        model, guide = pair(gradient)
        x = bits(60)
        monkeypatch.setattr(
            pvae.training.bar.tqdm, "set_postfix", lambda bar, said, **_: shown.update(said)
        )
        shown.clear()
        history = pvae.fit(model, guide, x, epochs=1, batch_size=30).history
        assert list(shown) == ["relaxed ELBO" if gradient == "gumbel_softmax" else "ELBO"]
        found = pvae.evaluate(model, guide, x, num_samples=5, estimators=[], progress=False)
        page = pvae.write_report(
            tmp_path / "report.html", found, model=model, guide=guide, data=x, history=history
        )
        said = "The training line is the ELBO of relaxed values, and no bound" in page.read_text()
        assert said == (gradient == "gumbel_softmax")
