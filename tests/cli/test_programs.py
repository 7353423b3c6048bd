"""The shell with pairs that are methods of one class or of one object, as in public programs."""

import pytest
import torch

import pvae
from pvae.cli.main import main

PAIR = """
import pyro, torch
import pyro.distributions as dist
from torch import nn
class Both(nn.Module):
    def __init__(self, event_shape: list[int], latent_dim: int = 3):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder, self.decoder = nn.Linear(64, 2 * latent_dim), nn.Linear(latent_dim, 64)
    def model(self, x):
        pyro.module("both", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.flatten(1))
    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x.flatten(1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))
vae = Both([1, 8, 8], 2)
def model(x): return vae.model(x)
def guide(x): return vae.guide(x)
"""


@pytest.mark.parametrize("names", ["Both.{}", "vae.{}", "{}"])
def test_a_pair_of_one_object_is_checked_trained_evaluated_and_reported(
    names, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "both.py").write_text(PAIR)
    model, guide = (f"both.py:{names.format(side)}" for side in ("model", "guide"))
    assert main(["check", model, guide]) == 0
    options = ["--epochs", "1", "--progress", "false", "--out", "run", "--seed", "3"]
    assert main(["train", "--model", model, "--guide", guide, *options]) == 0
    assert main(["train", "--resume", "run", "--trust", "--progress", "false"]) == 0
    pairs = [pvae.load("run", trust=True) for _ in range(2)]
    weights = [[m.state_dict() for m in pvae.pair.modules(*p).values()] for p in pairs]
    assert len(weights[0]) == 1, "one object"
    for name, value in weights[0][0].items():
        assert torch.equal(value, weights[1][0][name])
        assert value is not weights[1][0][name]
    options = ["--num_samples", "2", "--surgery", "false", "--prior_samples", "0"]
    assert main(["evaluate", "run", "--trust", "--progress", "false", *options]) == 0
    assert main(["report", "run", "--trust", "--site", "x"]) == 0
    assert "samples" in (tmp_path / "run" / "report.html").read_text()
    assert main(["report", "run", "--trust", "--site", "y"]) == 1
    assert "observes no site 'y'; it observes x." in capsys.readouterr().err


def test_one_object_is_made_from_the_models_arguments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "both.py").write_text(PAIR)
    both = ["check", "both.py:Both.model", "both.py:Both.guide"]
    assert main([*both, "--model.latent_dim", "4"]) == 0
    assert "guide: z ~ Normal, event (4,)" in capsys.readouterr().out
    assert main([*both, "--guide.latent_dim", "4"]) == 2
    assert "Did you mean --model.latent_dim?" in capsys.readouterr().err
