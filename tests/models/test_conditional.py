"""Conditional: a density of x given labels, or given what a network makes of y."""

import itertools

import pytest
import torch
from torch import nn

import pvae
from pvae import models
from pvae.errors import PvaeError
from pvae.guides import NoLatents

EVERY = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
OPTIONS = {"likelihood": "categorical", "levels": 3}
DENSITIES = {
    "MADE": lambda **o: models.MADE((2, 2), hidden_dims=[12], **OPTIONS, **o),
    "PixelCNN": lambda **o: models.PixelCNN((2, 2), channels=4, num_blocks=1, **OPTIONS, **o),
    "GatedPixelCNN": lambda **o: models.GatedPixelCNN((2, 2), 4, num_layers=2, **OPTIONS, **o),
    "PixelRNN": lambda **o: models.PixelRNN((2, 2), channels=4, num_layers=1, **OPTIONS, **o),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_it_sums_to_one_for_each_label_and_the_evaluation_gives_it(name):
    torch.manual_seed(0)
    model = models.Conditional(DENSITIES[name](context_shape=(2,)))
    log_p = torch.stack([model.log_px(EVERY, torch.full((81,), y)) for y in range(2)])
    assert torch.allclose(log_p.logsumexp(-1), torch.zeros(2), atol=1e-5)
    assert (log_p[0] - log_p[1]).abs().max() > 0.01
    y = torch.arange(81) % 2
    found = pvae.evaluate(model, NoLatents(), {"x": EVERY, "y": y}, num_samples=1, progress=False)
    expected = torch.where(y == 0, log_p[0], log_p[1])
    torch.testing.assert_close(torch.as_tensor(found.log_px), expected.double(), rtol=1e-5, atol=0)


def test_samples_follow_their_labels():
    """What is drawn for a label has the frequencies that log p(x|y) says."""
    torch.manual_seed(0)
    model = models.Conditional(DENSITIES["GatedPixelCNN"](context_shape=(2,)))
    data = {"x": EVERY, "y": (EVERY.sum((1, 2)) > 4).long()}
    pvae.fit(model, NoLatents(), data, epochs=30, lr=2e-2, batch_size=27, progress=False)
    with torch.no_grad():
        p = torch.stack([model.log_px(EVERY, torch.full((81,), y)).exp() for y in range(2)])
        x = model(y=torch.tensor([0, 1]).repeat_interleave(4000), size=8000)
    place = (x.flatten(1) @ torch.tensor([27, 9, 3, 1])).view(2, 4000)
    share = torch.stack([row.bincount(minlength=81) for row in place]) / 4000
    error = (p * (1 - p) / 4000).sqrt()
    assert ((share - p).abs() < 4.5 * error + 1e-3).all()
    assert (p[0] - p[1]).abs().sum() > 1


def test_a_network_makes_the_context_of_another_map():
    """p(x|y) with y a map of codes, embedded: the map of a place reaches that place."""
    torch.manual_seed(0)

    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(3, 5)

        def forward(self, y):
            return self.embedding(y).movedim(-1, -3)

    model = models.Conditional(DENSITIES["GatedPixelCNN"](context_shape=(5, 2, 2)), Map())
    y = EVERY.flip(0)
    log_p = torch.stack([model.log_px(EVERY, y[i].expand(81, 2, 2)) for i in range(5)])
    assert torch.allclose(log_p.logsumexp(-1), torch.zeros(5), atol=1e-5)
    assert len(log_p[:, 0].unique()) == 5
    data = {"x": EVERY, "y": y}
    run = pvae.fit(model, NoLatents(), data, epochs=20, lr=1e-2, batch_size=27, progress=False)
    assert run.history[-1]["elbo"] > run.history[0]["elbo"] + 0.1, "x is told by y"
    assert pvae.generate(model, 4, y=y[:4]).shape == (4, 2, 2)


def test_bad_input_is_one_message():
    model = models.Conditional(DENSITIES["PixelCNN"](context_shape=(2,)))
    with pytest.raises(PvaeError, match="no y was given: call model"):
        model(EVERY)
    with pytest.raises(PvaeError, match="no y was given: call model") as found:
        pvae.generate(model, 3)
    assert "cannot generate" not in str(found.value)
    for wrong in (2, -1, 0.5, float("nan")):
        y = torch.full((81,), wrong)
        with pytest.raises(PvaeError, match=rf"y holds {wrong}, but the labels .* 0 to 1\."):
            model(EVERY, y)
    with pytest.raises(PvaeError, match="PixelCNN has context_shape=None"):
        models.Conditional(DENSITIES["PixelCNN"]())
    with pytest.raises(PvaeError, match=r"context_shape=\(5, 2, 2\), which does not fit"):
        models.Conditional(DENSITIES["PixelCNN"](context_shape=(5, 2, 2)))
    with pytest.raises(PvaeError, match="needs a context of shape"):
        DENSITIES["PixelCNN"](context_shape=(2,))(EVERY)
