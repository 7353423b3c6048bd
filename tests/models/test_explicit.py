"""Models without latent variables: an exact log p(x), in Python and from the shell."""

import itertools
import json

import pytest
import torch

import pvae
from pvae import PvaeError
from pvae.cli import main
from pvae.guides import NoLatents
from pvae.models import MADE, GatedPixelCNN, PixelCNN, PixelRNN

MODELS = {
    "MADE": lambda shape, **o: MADE(shape, hidden_dims=[12], **o),
    "PixelCNN": lambda shape, **o: PixelCNN(shape, channels=12, num_blocks=1, **o),
    "GatedPixelCNN": lambda shape, **o: GatedPixelCNN(shape, channels=6, num_layers=2, **o),
    "PixelRNN": lambda shape, **o: PixelRNN(shape, channels=12, num_layers=1, **o),
    "row LSTM": lambda shape, **o: PixelRNN(shape, "row", channels=12, num_layers=1, **o),
}


@pytest.mark.parametrize("name", MODELS)
def test_log_px_is_exact(name):
    """The evaluation gives log p(x), and it sums to one over all images."""
    torch.manual_seed(0)
    model = MODELS[name]((1, 2, 3))
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).view(-1, 1, 2, 3)
    result = pvae.evaluate(model, NoLatents(), every, num_samples=2, progress=False)
    assert result.exact
    assert not any(word in result.table() for word in ("k̂", "ESS", "JVI", "samples each"))
    log_p = torch.as_tensor(result.log_px)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(model.log_px(every).double(), log_p, rtol=1e-5, atol=1e-5)
    assert model(size=5).shape == (5, 1, 2, 3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("likelihood", "out_shape"),
    [("softmax", (4, 3, 2, 2)), ("logistic_mixture", (2, 10, 2, 2)), ("gaussian", (3, 2, 2))],
    ids=str,
)
def test_likelihoods_of_colours(name, likelihood, out_shape):
    options = {"levels": 4, "num_mixtures": 2} if likelihood != "gaussian" else {}
    if name == "MADE" and likelihood == "logistic_mixture":
        with pytest.raises(PvaeError, match="such as PixelCNN"):
            MODELS[name]((3, 2, 2), likelihood=likelihood, **options)
        return
    options.pop("num_mixtures") if name == "MADE" and options else None
    model = MODELS[name]((3, 2, 2), likelihood=likelihood, **options)
    assert model.head.out_shape == out_shape
    x = model(size=4)
    assert model.head.support.check(x).all()
    assert model.log_px(x).isfinite().all()


def test_it_starts_at_the_mean():
    x = (torch.rand(500, 5) < torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])).float()
    model = MADE((5,), hidden_dims=[])
    for parameter in model.network.direct.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.zeros_(model.network.last.weight)
    model.set_output_bias(x)
    torch.testing.assert_close(model.distribution().mean_given(x)[0], x.mean(0))


@pytest.mark.parametrize("name", ["MADE", "PixelCNN"])
def test_data_of_another_type_than_the_parameters_are_one_message(name):
    x = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(PvaeError, match=r"Give the data the type of the parameters: x\.float\(\)"):
        pvae.evaluate(MODELS[name]((1, 4, 4)), NoLatents(), x, num_samples=1, progress=False)


@pytest.mark.parametrize("name", ["MADE", "PixelCNN"])
def test_from_the_shell(name, tmp_path):
    small = {"MADE": ["--model.hidden_dims=[16]"], "PixelCNN": ["--model.channels=4"]}[name]
    args = ["--data", "digits", "--epochs", "2", "--num-samples", "2", "--out", str(tmp_path / "r")]
    assert main(["run", "--model", name, *small, "--guide", "NoLatents", *args]) == 0
    written = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert written["log_px"][-1]["mean"] == written["elbo"]["mean"]
    assert written["kl"] == 0
    assert (tmp_path / "r" / "report.html").exists()


def test_integers_beyond_the_levels_are_told_how_many_are_needed():
    model = GatedPixelCNN((2, 2), 4, 1, likelihood="categorical", levels=4)
    k = torch.arange(8).view(2, 2, 2)
    with pytest.raises(PvaeError, match=r"Give it 8 values or more \(levels=8"):
        pvae.log_weights(model, NoLatents(), k, num_samples=2)
