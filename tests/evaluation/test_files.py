"""evaluation.json and evaluation.nc hold an evaluation, and ArviZ reads it."""

import json
import math

import numpy as np
import pytest
from asking import evaluate
from programs import linear_gaussian

import pvae
from pvae import Evaluation, PvaeError


@pytest.fixture(scope="module")
def result():
    model, guide, x, _ = linear_gaussian()
    return evaluate(model, guide, x, num_samples=1000, progress=False)


def test_files_go_round(result, tmp_path):
    result.save(tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result.summary()
    again = Evaluation.load(tmp_path)
    assert again.summary() == result.summary()
    np.testing.assert_array_equal(again.log_px, result.log_px)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.json", "evaluation.nc"]
    (tmp_path / "evaluation.nc").write_bytes((tmp_path / "evaluation.nc").read_bytes()[:300])
    with pytest.raises(PvaeError, match="pvae evaluate"):
        Evaluation.load(tmp_path)
    with pytest.raises(PvaeError, match=r"is a file\. Give its folder"):
        Evaluation.load(tmp_path / "evaluation.nc")
    with pytest.raises(PvaeError, match="does not exist"):
        Evaluation.load(tmp_path / "nowhere")


def test_arviz_reads_the_datatree(result, tmp_path):
    import arviz as az

    result.save(tmp_path)
    tree = az.from_netcdf(tmp_path / "evaluation.nc")
    assert tree["evaluation"]["khat"].dims == ("datum",)
    np.testing.assert_array_equal(tree["evaluation"]["log_px"].values, result.log_px)


def test_everything_goes_round(tmp_path):
    pair = pvae.models.VAE((1, 8, 8), 2), pvae.guides.MeanField((1, 8, 8), 2)
    x = pvae.data.load("digits").test.tensors()[0][:6]
    result = evaluate(
        *pair, x, num_samples=[2, 7, 60], ais=4, bdmc=3, gap=2, quadrature=True, num_chains=4,
        num_temperatures=6, out=tmp_path, progress=False, hasty=True,
    )  # fmt: skip
    assert set(result.findings) == {
        "prior", "surgery", "quadrature", "ais_prior", "ais_guide", "bdmc", "gap"
    }  # fmt: skip
    again = Evaluation.load(tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == again.summary()
    assert again.summary() == result.summary()
    assert again.table() == result.table()
    assert again.verdict == result.verdict
    assert again.jvi.keys() == result.jvi.keys() == {1, 2}
    for order, found in result.jvi.items():
        assert again.jvi[order].keys() == found.keys()
        for k, values in found.items():
            np.testing.assert_array_equal(again.jvi[order][k], values)
    for name, found in result.findings.items():
        for key, value in vars(found).items():
            np.testing.assert_array_equal(value, getattr(again.findings[name], key))
    # The subset of the gap is among that of AIS; quadrature, where it is there, is better.
    gap, exact = result.findings["gap"], result.findings["quadrature"]
    assert set(gap.datum) <= set(result.findings["ais_guide"].datum)
    np.testing.assert_array_equal(gap.log_px, exact.log_px[gap.datum])


def test_plot_khat_takes_it(result):
    import arviz as az
    import matplotlib as mpl

    mpl.use("Agg")
    elpd = result.to_elpd()
    assert elpd.pareto_k.dims == ("datum",)
    np.testing.assert_array_equal(elpd.elpd_i.values, result.log_px)
    assert elpd.elpd == pytest.approx(result.log_px.sum(), rel=1e-12)
    assert elpd.se == pytest.approx(result.log_px.std() * math.sqrt(len(result)), rel=1e-12)
    assert elpd.good_k == result.khat_threshold
    plot = az.plot_khat(elpd, backend="matplotlib")
    axes = plot.viz["figure"].item().axes[0]
    offsets = [c.get_offsets() for c in axes.collections if len(c.get_offsets())]
    drawn = np.concatenate(offsets)[:, 1]
    assert set(np.round(result.khat, 6)) <= set(np.round(np.asarray(drawn, dtype=float), 6))
