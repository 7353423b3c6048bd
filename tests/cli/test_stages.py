"""Stages from the shell: codes as data, a prior in the pair, parts that are frozen."""

import json

import torch
from shell import stored

import pvae
from pvae.cli import main

SMALL = ["--model.channels", "[4,4]", "--model.num_blocks", "1", "--model.code_dim", "2"]
SMALL += ["--guide.channels", "[4,4]", "--guide.num_blocks", "1", "--model.num_codes", "5"]
VQ = ["--model", "VQVAE", "--guide", "NearestCode", *SMALL]
QUICK = ["--epochs", "1", "--progress", "false"]
CATEGORICAL = {"event_shape": "[2,2]", "likelihood": "categorical", "levels": "5", "channels": "4"}


def options(place):
    return [f"--{place}.{name}={value}" for name, value in CATEGORICAL.items()]


def test_stages(here, capsys):
    assert main(["train", *VQ, *QUICK, "--out", "vq"]) == 0
    density = ["--model", "GatedPixelCNN", "--guide", "NoLatents", *options("model")]
    density = [each for each in density if "event_shape" not in each]
    assert main(["run", *density, "--data", "codes:vq", *QUICK, "--out", "prior"]) == 0
    found = json.loads((here / "prior" / "evaluation.json").read_text())
    assert found["data"]["hash"] == pvae.codes("vq").test.hash
    prior = ["--model.prior", "pvae.models.GatedPixelCNN", *options("model.prior")]
    both = [*VQ, *prior, "--from", "vq", "--freeze", "[guide,model.decoder]", *QUICK]
    assert main(["train", *both, "--out", "both"]) == 0
    assert stored(here / "both")["from"] == "vq"
    before, after = (torch.load(f"{r}/checkpoint.pt", weights_only=True) for r in ("vq", "both"))
    before, after = before["state"]["modules"], after["state"]["modules"]
    assert all(torch.equal(v, after[m][n]) for m in before for n, v in before[m].items())
    assert main(["evaluate", "both", "--num_samples", "1", "--progress", "false"]) == 0
    assert "codes: z uses" in capsys.readouterr().out
    assert main(["train", "--config", "both", "--progress", "false", "--out", "again"]) == 0
    again = torch.load("again/checkpoint.pt", weights_only=True)["state"]["modules"]
    assert all(torch.equal(v, again[m][n]) for m in after for n, v in after[m].items())


def test_a_wrong_run_or_name_is_one_message(here, capsys):
    assert main(["train", *VQ, *QUICK, "--out", "vq"]) == 0
    assert main(["train", *QUICK, "--from", "vq"]) == 1
    assert "VAE and MeanField cannot start from vq" in capsys.readouterr().err
    assert main(["train", *QUICK, "--freeze", "modle"]) == 1
    assert "Did you mean model?" in capsys.readouterr().err
    assert main(["train", *QUICK, "--data", "codes:nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert main(["train", *QUICK, "--data", "codes:vq", "--data.labelled", "5"]) == 1
    assert "labelled is not for codes:vq" in capsys.readouterr().err
