"""A run folder from before likelihoods were heads: its parameters have the old names.

The folder was made by `pvae run --epochs 2 --model.latent_dim 2 --guide.latent_dim 2
--model.hidden_dims "[4]" --guide.hidden_dims "[4]" --model.likelihood gaussian
--model.scale learned --data.observation dequantize --num_samples 20`.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import pvae
from pvae.cli import main
from pvae.guides import MeanField
from pvae.models import VAE
from pvae.runs import read_history
from pvae.training.checkpoint import pair_state, restore_pair

FOLDER = Path(__file__).parent / "before_heads"


def test_the_trained_scale_is_read_and_gives_the_same_bound():
    model, guide = pvae.load(FOLDER)
    saved = torch.load(FOLDER / "checkpoint.pt", weights_only=True)["state"]["modules"]["model"]
    assert "log_scale" in saved
    assert torch.equal(model.head.log_scale, saved["log_scale"])
    data = pvae.data.load("digits", observation="dequantize")
    found = pvae.evaluate(model, guide, data, num_samples=20, progress=False).summary()
    before = json.loads((FOLDER / "evaluation.json").read_text())
    assert found["elbo"]["mean"] == pytest.approx(before["elbo"]["mean"], rel=1e-6)
    assert found["bits_per_dim"] == pytest.approx(before["bits_per_dim"], rel=1e-6)


def test_its_training_goes_on_as_it_would_have_then(tmp_path, capsys):
    run = shutil.copytree(FOLDER, tmp_path / "run")
    assert main(["train", "--resume", str(run), "--epochs", "3", "--progress", "false"]) == 0
    elbo = [row["elbo"] for row in read_history(run)]
    assert elbo == pytest.approx([-70.2754401, -69.5434925, -69.3167109], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("log_scale", {"likelihood": "gaussian", "scale": "learned"}),
        ("fixed_scale", {"likelihood": "discretized_logistic", "scale": 0.3}),
        ("log_total_count", {"likelihood": "zero_inflated_negative_binomial"}),
    ],
)
def test_every_name_of_then_is_read(name, options):
    pair = VAE((4,), 2, **options), MeanField((4,), 2)
    getattr(pair[0].head, name).data.uniform_()
    state = pair_state(*pair, set())
    old = {key.replace("head.", ""): value for key, value in state["modules"]["model"].items()}
    assert name in old
    state["modules"]["model"] = old
    again = VAE((4,), 2, **options), MeanField((4,), 2)
    restore_pair(*again, state, where="a run")
    assert torch.equal(getattr(again[0].head, name), getattr(pair[0].head, name))


def test_a_parameter_of_the_same_name_at_its_own_place_stays_there():
    model = pvae.models.PPCA((4,), 2)
    model.log_scale.data.fill_(0.7)
    again = pvae.models.PPCA((4,), 2), pvae.guides.LinearGaussian((4,), 2)
    restore_pair(*again, pair_state(model, again[1], set()), where="a run")
    assert again[0].log_scale.item() == pytest.approx(0.7)
