"""A run that is shared: as a folder of its own, and as programs that need no pvae."""

import json

import torch

import pvae
from pvae.cli import main


def test_a_run_is_exported_where_it_stands_or_elsewhere(run, capsys):
    assert main(["export", str(run), "--format", "torch"]) == 0
    assert "encoder" in capsys.readouterr().out
    assert main(["export", str(run), "--format", "torch", "--out", "elsewhere"]) == 0
    x = pvae.data.load("digits").test.tensors()[0][:4]
    for folder in (run / "exported", run.parent / "elsewhere"):
        encoder, decoder = (
            torch.export.load(folder / f"{name}.pt2").module() for name in ("encoder", "decoder")
        )
        mean = decoder(encoder(x)["z"])["x"]
        assert torch.allclose(mean, pvae.reconstruct(*pvae.load(run), x), atol=1e-5)


def test_a_saved_pair_is_evaluated_and_exported_as_the_run_is(run, here, capsys):
    pvae.save(run, here / "shared")
    assert main(["evaluate", "shared", "--num_samples", "10", "--progress", "false"]) == 0
    assert main(["evaluate", str(run), "--num_samples", "10", "--progress", "false"]) == 0
    one, two = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (here / "shared", run)
    )
    assert one["log_px"] == two["log_px"]
    assert one["elbo"] == two["elbo"]
    assert main(["export", "shared", "--format", "torch"]) == 0


def test_an_export_of_what_is_no_run(here, capsys):
    (here / "empty").mkdir()
    assert main(["export", "empty"]) != 0
    assert "empty" in capsys.readouterr().err
