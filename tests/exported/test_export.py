"""Exported programs give the pair's numbers for any number of data, without pvae."""

import importlib.util
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PROGRAMS
from small import Decoder, Encoder
from zoo import given, make

import pvae
from pvae import PvaeError

X = (torch.arange(9 * 64).reshape(9, 1, 8, 8) * 7 % 5 < 2).float()
ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def programs(parts):
    return [torch.export.load(part.path).module() for part in parts]


@pytest.mark.parametrize("name", ["convolutional", "ladder", "VQ-VAE"])
def test_encoder_and_decoder_give_the_codes_and_means_of_the_pair(tmp_path, name):
    *pair, _ = make(name)
    encoder, decoder = programs(pvae.export(*pair, X[:4], tmp_path, format="torch"))
    for size in (1, 2, 9):
        x = X[:size]
        codes, wanted = encoder(x), pvae.encode(pair[1], x)
        for site, code in wanted.items():
            assert torch.allclose(codes[site], code, atol=1e-5)
        mean = decoder(*(codes[site] for site in wanted))["x"]
        assert torch.allclose(mean, pvae.reconstruct(*pair, x), atol=1e-5)


def test_the_parameters_of_the_posterior_have_names(tmp_path):
    pair = Decoder(), Encoder(lambda loc: dist.Normal(loc, loc.exp()))
    parts = pvae.export(*pair, ROWS, tmp_path, format="torch")
    assert str(parts[0]).endswith("encoder.pt2: x [B, 4] -> z [B, 2], z.loc [B, 2], z.scale [B, 2]")
    found = programs(parts)[0](ROWS)
    loc = pair[1].net(ROWS)
    assert torch.allclose(found["z.loc"], loc, atol=1e-6)
    assert torch.allclose(found["z.scale"], loc.exp(), atol=1e-6)


def test_a_pair_that_no_one_here_wrote(tmp_path):
    model, guide, (x,), _ = PROGRAMS["global_param"]()
    pvae.evaluate(model, guide, (x[:4],), num_samples=2, estimators=[], progress=False)
    pyro.param("noise_0").unconstrained().data.fill_(0.3)
    encoder, decoder = programs(pvae.export(model, guide, x, tmp_path, format="torch"))
    wanted = pvae.reconstruct(model, guide, x)
    assert torch.allclose(decoder(encoder(x)["z"])["x"], wanted, atol=1e-5)


def test_a_label_that_the_model_is_given_is_an_input(tmp_path):
    name, y = "conditional VAE", torch.arange(9)
    *pair, _ = make(name)
    data = pvae.data.as_data({"x": X} | given(name, y))
    parts = pvae.export(*pair, data, tmp_path, format="torch")
    assert [list(part.inputs) for part in parts] == [["x", "y"], ["z", "y"]]
    encoder, decoder = programs(parts)
    mean = decoder(encoder(X, y)["z"], y)["x"]
    assert torch.allclose(mean, pvae.reconstruct(*pair, X, y), atol=1e-5)


def test_the_files_need_no_pvae(tmp_path):
    *pair, _ = make("dense")
    pvae.export(*pair, X, tmp_path, format="torch")
    torch.save(X, tmp_path / "x.pt")
    script = """if True:
        import sys, torch
        encoder, decoder = (torch.export.load(f"{n}.pt2").module() for n in ("encoder", "decoder"))
        torch.save(decoder(encoder(torch.load("x.pt"))["z"])["x"], "mean.pt")
        assert not {"pvae", "pyro"} & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    assert torch.allclose(torch.load(tmp_path / "mean.pt"), pvae.reconstruct(*pair, X), atol=1e-5)


def test_onnx_runtime_gives_the_same_numbers(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    *pair, _ = make("convolutional")
    pvae.export(*pair, X[:4], tmp_path)
    encoder, decoder = (
        runtime.InferenceSession(tmp_path / f"{part}.onnx") for part in ("encoder", "decoder")
    )
    for size in (1, 9):
        x = X[:size]
        (z,) = encoder.run(["z"], {"x": x.numpy()})
        (mean,) = decoder.run(["x"], {"z": z})
        assert torch.allclose(torch.from_numpy(z), pvae.encode(pair[1], x)["z"], atol=1e-4)
        assert torch.allclose(torch.from_numpy(mean), pvae.reconstruct(*pair, x), atol=1e-4)


def test_without_the_packages_of_onnx_the_message_names_them(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PvaeError, match=r"needs onnx, onnxscript, onnxruntime: `pip install"):
        pvae.export(*make("dense")[:2], X, tmp_path)


def branching(x):
    with pyro.plate("data", len(x)):
        loc = x[:, :2] if x.sum() > 0 else -x[:, :2]
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def looping(x):
    with pyro.plate("data", len(x)):
        loc = torch.stack([row[:2] for row in x])
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def drawing(x):
    with pyro.plate("data", len(x)):
        loc = x[:, :2] + torch.rand(len(x), 2)
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize(
    ("guide", "why"),
    [
        (branching, r"decides by the value of a tensor \(at .*test_export\.py:\d+\)"),
        (looping, "does other operations for 3 data than for 5"),
        (drawing, "is drawn at random"),
    ],
)
def test_a_part_that_cannot_be_exported_is_named_and_the_other_is_written(tmp_path, guide, why):
    with pytest.raises(PvaeError, match=rf"The encoder \({guide.__name__}\) .* {why}"):
        pvae.export(Decoder(), guide, ROWS, tmp_path, format="torch")
    assert {path.name for path in tmp_path.iterdir()} == {"decoder.pt2"}


def test_an_autoregressive_decoder_and_a_guide_without_codes_are_refused(tmp_path):
    *pair, _ = make("PixelVAE")
    with pytest.raises(PvaeError, match=r"The decoder \(PixelVAE\).*autoregressive"):
        pvae.export(*pair, X, tmp_path, format="torch")
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.pt2"}
    *pair, _ = make("MADE")
    with pytest.raises(PvaeError, match=r"(NoLatents).*nothing to encode.*(MADE)"):
        pvae.export(*pair, X, tmp_path / "none", format="torch")
