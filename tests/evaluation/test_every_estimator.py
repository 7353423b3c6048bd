"""Programs in the style of Pyro's examples, unmodified, through every estimator that applies."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from programs import PROGRAMS
from torch import nn
from torch.nn.functional import softplus

FINDINGS = {"prior", "surgery", "quadrature", "ais_prior", "ais_guide", "bdmc", "gap"}


def convolutional():
    """A transposed convolution over images; the networks keep to [B, C, H, W]."""
    decoder = nn.Sequential(
        nn.Linear(1, 64), nn.Unflatten(-1, (4, 4, 4)), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1)
    )
    encoder = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide, ((torch.rand(10, 1, 8, 8) < 0.4).float(),)


def hierarchical():
    """Two layers of latents with networks between them."""
    top, bottom, up, higher = (nn.Linear(a, b) for a, b in ((2, 6), (3, 8), (8, 6), (3, 4)))

    def model(x):
        pyro.module("top", top)
        pyro.module("bottom", bottom)
        with pyro.plate("data", len(x)):
            z_2 = pyro.sample("z_2", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            loc, raw = top(z_2).chunk(2, -1)
            z_1 = pyro.sample("z_1", dist.Normal(loc, softplus(raw)).to_event(1))
            pyro.sample("x", dist.Normal(bottom(z_1), 0.7).to_event(1), obs=x)

    def guide(x):
        pyro.module("up", up)
        pyro.module("higher", higher)
        with pyro.plate("data", len(x)):
            loc, raw = up(x).chunk(2, -1)
            z_1 = pyro.sample("z_1", dist.Normal(loc, softplus(raw)).to_event(1))
            loc, raw = higher(z_1).chunk(2, -1)
            pyro.sample("z_2", dist.Normal(loc, softplus(raw)).to_event(1))

    return model, guide, (torch.randn(20, 8),)


def labelled():
    """A class label summed out in the guide, as in Pyro's semi-supervised example."""
    decoder, encoder, classifier = nn.Linear(2 + 3, 8), nn.Linear(8 + 3, 4), nn.Linear(8, 3)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(len(x), 3)))
            y, z = _beside(y, z)
            pyro.sample(
                "x", dist.Bernoulli(logits=decoder(torch.cat([z, y], -1))).to_event(1), obs=x
            )

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("classifier", classifier)
        with pyro.plate("data", len(x)):
            fn = dist.OneHotCategorical(logits=classifier(x))
            y = pyro.sample("y", fn, infer={"enumerate": "parallel"})
            loc, raw = encoder(torch.cat(_beside(x, y), -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide, ((torch.rand(20, 8) < 0.4).float(),)


def _beside(*tensors):
    shape = torch.broadcast_shapes(*(t.shape[:-1] for t in tensors))
    return [t.expand(*shape, t.shape[-1]) for t in tensors]


OTHERS = {"convolutional": convolutional, "hierarchical": hierarchical, "labelled": labelled}


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.mark.filterwarnings("ignore:log_weights uses")
@pytest.mark.parametrize("name", [*PROGRAMS, *OTHERS])
def test_every_estimator_that_applies(name):
    torch.manual_seed(0)
    model, guide, batch = PROGRAMS[name]()[:3] if name in PROGRAMS else OTHERS[name]()
    batch = tuple(t[:10] for t in batch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = evaluate(
            model, guide, batch, num_samples=3000, prior_samples=500, ais=4, bdmc=6, gap=2,
            quadrature=True, num_temperatures=80, progress=False,
        )  # fmt: skip
    categories = {"code_use"} if name == "labelled" else set()
    assert result.findings.keys() | result.missing.keys() == FINDINGS | categories
    said = " ".join(str(w.message) for w in caught)
    for reason in result.missing.values():
        assert reason in said
    expected = {"quadrature"} if name == "hierarchical" else set()
    assert set(result.missing) == expected, result.missing
    if expected:
        assert "a datum has 5" in result.missing["quadrature"]

    found = result.findings
    if expected:  # no exact value: the two starts of AIS and the bound stand for it
        both = np.stack([found[start].log_px for start in ("ais_prior", "ais_guide")])
        assert np.abs(both[0] - both[1]).mean() < 1
        best = np.full(len(result), np.inf)
    else:
        best = found["quadrature"].log_px
        trusted = result.khat < 0.45  # beyond one half the variance is infinite
        assert trusted.any()
        error = (result.log_px - best)[trusted]
        assert (np.abs(error) < 4 * result.log_px_se[trusted] + 1e-3).all()
        for start in ("ais_prior", "ais_guide"):
            error = found[start].log_px - best[found[start].datum]
            assert np.abs(error).max() < 6 * found[start].log_px_se.max() + 0.3
            assert abs(error.mean()) < 0.4
    assert found["bdmc"].gap > -4 * found["bdmc"].gap_se - 0.02
    assert found["bdmc"].gap < 1
    surgery = found["surgery"]
    assert -4 * surgery.mutual_information_se <= surgery.mutual_information <= np.log(10) + 1e-6
    assert surgery.rate == pytest.approx(result.kl.mean(), abs=6 * result.kl.std() + 0.3)
    gap = found["gap"]
    assert (gap.elbo_best - gap.elbo > -0.05).all()
    assert gap.own_family == (name != "hierarchical")
    at = gap.datum
    assert (gap.elbo_best < best[at] + 0.1).all()
    text = result.table()
    for words in ("ELBO", "JVI-1", "PSIS", "AIS from the prior", "inference gap", "log N"):
        assert words in text
