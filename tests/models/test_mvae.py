"""MVAE and ProductOfExperts: two linear views, whose log p of every part is known."""

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pvae
from pvae import guides, models
from pvae.distributions import heads
from pvae.errors import PvaeError

D, E, Z, S = 4, 3, 2, 0.7


class Expert(nn.Module):
    """The exact expert of a linear Gaussian view for whitened weights: precision W'W / s²."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, x):
        w, b = self.decoder.weight, self.decoder.bias
        precision = (w**2).sum(0) / S**2
        loc = (x - b) @ w / S**2 / precision
        raw = precision.rsqrt().expm1().log()  # softplus gives the scale
        return torch.stack([loc, raw.expand_as(loc)], -2)


def linear():
    """Both decoders have orthogonal columns, so that the posterior is the product of experts."""
    torch.manual_seed(0)
    decoders = {}
    for name, size in (("x_1", D), ("x_2", E)):
        decoders[name] = nn.Linear(Z, size)
        q, _ = torch.linalg.qr(torch.randn(size, Z))
        decoders[name].weight.data = q * torch.tensor([1.5, 0.8])
    gaussian = {name: heads.Gaussian(scale=S) for name in decoders}
    model = models.MVAE({"x_1": (D,), "x_2": (E,)}, gaussian, Z, decoders=decoders)
    experts = {name: Expert(decoder) for name, decoder in decoders.items()}
    return model, guides.ProductOfExperts(model, encoders=experts)


def exact(model, fields):
    """Returns log p of these fields together."""
    weights = torch.cat([model.decoders[name].weight for name in fields]).detach()
    bias = torch.cat([model.decoders[name].bias for name in fields]).detach()
    cov = weights @ weights.T + S**2 * torch.eye(len(bias))
    x = torch.cat(list(fields.values()), -1)
    return torch.distributions.MultivariateNormal(bias, cov).log_prob(x)


@pytest.mark.parametrize("size", [1, 40])
def test_every_part_has_its_exact_log_p(size):
    model, guide = linear()
    torch.manual_seed(1)
    data = {"x_1": torch.randn(size, D), "x_2": torch.randn(size, E)}
    kinds = {"both": ["x_1", "x_2"], "first": ["x_1"], "second": ["x_2"]}
    expected = {kind: exact(model, {n: data[n] for n in names}) for kind, names in kinds.items()}
    for kind, names in kinds.items():
        part = {name: data[name] for name in names}
        log_w = pvae.log_weights(model, guide, num_samples=3, **part)
        torch.testing.assert_close(log_w, expected[kind].expand(3, -1), rtol=1e-4, atol=1e-4)
    torch.manual_seed(2)
    seen = torch.rand(size, 2) < 0.5
    seen[0] = torch.tensor([False, True])
    absent = {name: data[name].clone() for name in data}
    absent["x_1"][~seen[:, 0]] = float("nan")
    table = torch.stack(
        [torch.zeros(size), expected["first"], expected["second"], expected["both"]]
    )
    mixed = table[seen[:, 0] + 2 * seen[:, 1], torch.arange(size)]
    log_w = pvae.log_weights(model, guide, num_samples=3, seen=seen, **absent)
    torch.testing.assert_close(log_w, mixed.expand(3, -1), rtol=1e-4, atol=1e-4)


def test_weights_count_in_training_only():
    model, guide = linear()
    heavy, _ = linear()
    heavy.weights = {"x_2": 50.0}
    x = {"x_1": torch.randn(5, D), "x_2": torch.randn(5, E)}
    same = [pvae.log_weights(m, guide, num_samples=2, **x) for m in (model, heavy)]
    torch.testing.assert_close(*same)
    torch.manual_seed(0)
    plain = Trace_ELBO().loss(model, guide, **x)
    torch.manual_seed(0)
    assert abs(Trace_ELBO().loss(heavy, guide, **x) - plain) > 1


def test_image_and_label_are_inferred_from_each_other():
    torch.manual_seed(0)
    digits = pvae.data.load("digits", labels=True)
    model = models.MVAE(
        {"x": (1, 8, 8), "y": ()}, {"y": heads.Categorical(10)}, 16, hidden_dims=[128]
    )
    model.weights = {"y": 10.0}
    guide = guides.ProductOfExperts(model, hidden_dims=[128])
    parts = pvae.data.drop_fields(digits, ["x", "y"])
    pvae.fit(model, guide, parts, epochs=40, lr=3e-3, progress=False)
    x, y = digits.test.tensors()
    told = pvae.reconstruct(model, guide, x=x, site="x")
    assert told.shape == x.shape
    with torch.no_grad():
        z, _ = guide.encode(x=x)
        right = model.likelihood("y", z).logits.argmax(-1) == y
    assert right.double().mean() > 0.6
    images = pvae.decode(model, pvae.encode(guide, y=torch.arange(10)), site="x")
    assert images.shape == (10, 1, 8, 8)
    means = torch.stack([x[y == c].mean(0) for c in range(10)]).flatten(1)
    nearest = torch.cdist(images.flatten(1), means).argmin(1)
    assert (nearest == torch.arange(10)).double().mean() > 0.7
    labels = pvae.classify(model, guide, {"x": x[:60], "y": y[:60]}, progress=False)
    assert (torch.as_tensor(labels.y) == y[:60]).double().mean() > 0.6
    found = {
        name: pvae.evaluate(
            model, guide, part, num_samples=50, num_data=100, estimators=[], progress=False
        )
        for name, part in (("x", {"x": x}), ("both", {"x": x, "y": y}), ("seen", parts))
    }
    log_py = found["both"].log_px.mean() - found["x"].log_px.mean()
    assert -1.8 < log_py < 0, "log p(y|x), better than chance"
    assert found["both"].data["density"] == "p(x, y)"
    assert found["seen"].data["density"] == "p(x, y | seen)"
    assert found["seen"].log_px.mean() == pytest.approx(found["both"].log_px.mean(), abs=0.2)


def test_nothing_seen_is_the_prior_and_generation_draws_all():
    model, guide = linear()
    x = {"x_1": torch.randn(3, D), "x_2": torch.randn(3, E)}
    loc, scale = guide.encode(seen=torch.zeros(3, 2, dtype=torch.bool), **x)
    assert torch.equal(loc, torch.zeros(3, Z))
    assert torch.equal(scale, torch.ones(3, Z))
    assert pvae.generate(model, 4, site="x_2").shape == (4, E)


def test_samples_of_a_batch_are_of_the_prior_and_its_codes_decode_to_images(tmp_path):
    torch.manual_seed(0)
    digits = pvae.data.load("digits", labels=True)
    model = models.MVAE({"x": (1, 8, 8), "y": ()}, {"y": heads.Categorical(10)}, 2, hidden_dims=[8])
    guide = guides.ProductOfExperts(model, hidden_dims=[8])
    y = digits.test.y
    found = pvae.generate(model, 5, digits)
    assert found.shape == (5, 1, 8, 8)
    with pytest.raises(PvaeError, match="takes none"):
        pvae.generate(model, 5, y=y[:5])
    both = pvae.evaluate(model, guide, digits, num_samples=2, estimators=[], progress=False)
    page = tmp_path / "page.html"
    pvae.write_report(page, both, model=model, guide=guide, data=digits)
    text = page.read_text()
    assert "could not be drawn" not in text
    assert "images generated from the prior" in text


def test_bad_input_is_one_message():
    model, guide = linear()
    x = torch.randn(3, D)
    with pytest.raises(PvaeError, match="There is no field 'x'"):
        model(x=x)
    with pytest.raises(PvaeError, match=r"give booleans \[B, 2\]"):
        model(x_1=x, seen=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(PvaeError, match="likelihoods has 'y'"):
        models.MVAE({"x": (D,)}, {"y": "gaussian"})
    with pytest.raises(PvaeError, match="No field is given"):
        guide()
    with pytest.raises(PvaeError, match="is for MVAE"):
        guides.ProductOfExperts(models.VAE((D,)))
    digits = pvae.data.load("digits")
    with pytest.raises(PvaeError, match="do not hold 'y'"):
        pvae.data.drop_fields(digits, ["x", "y"])


def test_unknown_labels_are_told_by_seen():
    sizes = {"latent_dim": 2, "hidden_dims": [4]}
    model = models.MVAE({"x": (4,), "y": ()}, {"y": heads.Categorical(3)}, **sizes)
    guide = guides.ProductOfExperts(model, hidden_dims=[4])
    fields = {"x": torch.rand(3, 4), "y": torch.tensor([0, -1, 2])}
    with pytest.raises(PvaeError, match=r"y has values outside 0 … 2\. .* say so by seen="):
        pvae.log_weights(model, guide, **fields, num_samples=2)
    seen = torch.stack([torch.ones(3, dtype=torch.bool), fields["y"] >= 0], -1)
    fields["y"] = fields["y"].clamp(min=0)
    log_w = pvae.log_weights(model, guide, **fields, seen=seen, num_samples=2)
    assert log_w.isfinite().all()
