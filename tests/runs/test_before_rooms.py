"""A run folder from before pvae had subpackages: it has the old class paths.

The folder was made by `pvae run --epochs 2 --model.latent_dim 2 --guide.latent_dim 2
--model.hidden_dims "[8]" --guide.hidden_dims "[8]" --loss IWAE_ELBO --loss.num_particles 3
--num_samples 100` at the commit before the subpackages.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import pvae
from pvae.cli import main
from pvae.runs import read_history

FOLDER = Path(__file__).parent / "before_rooms"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "run")


def test_its_pair_and_its_evaluation_are_read():
    model, guide = pvae.load(FOLDER)
    saved = torch.load(FOLDER / "checkpoint.pt", weights_only=True)["state"]
    kept = [t for side in (model, guide) for t in side.state_dict().values()]
    assert sum(t.numel() for t in kept) > 1000
    assert "pvae.multisample.IWAE_ELBO" in (FOLDER / "config.yaml").read_text()
    tensors = [t for t in _tensors(saved) if t.ndim]
    assert all(any(torch.equal(t, other) for other in tensors) for t in kept)
    evaluation = pvae.Evaluation.load(FOLDER)
    found, expected = evaluation.summary(), json.loads((FOLDER / "evaluation.json").read_text())
    assert found.pop("precision") is None  # these three are younger than the folder
    assert found.pop("one_code") is False
    assert found.pop("reading")["level"] == "bad"
    for each in (found, expected):
        assert "k̂ is above 0.50 for 59.3% of the data" in each.pop("verdict")
    assert found == expected


def _tensors(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def test_it_is_reported_and_its_evaluation_is_not_made_again(run, capsys):
    assert main(["report", str(run)]) == 0
    assert "IWAE_ELBO" in (run / "report.html").read_text()
    before = (run / "evaluation.nc").read_bytes()
    assert main(["evaluate", str(run)]) == 0
    assert (run / "evaluation.nc").read_bytes() == before


def test_its_training_goes_on(run, capsys):
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 0
    history = read_history(run)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[:2] == read_history(FOLDER)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["loss"]["class_path"] == "pvae.objectives.IWAE_ELBO"
