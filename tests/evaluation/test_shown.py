"""What a notebook shows of an evaluation: figures, a data frame, HTML, and ArviZ's own plots."""

import dataclasses
import re

import arviz
import matplotlib.pyplot as plt
import numpy as np
import pytest

from pvae import Evaluation, PvaeError, plot
from pvae.evaluation.estimators.annealed import Annealed
from pvae.evaluation.estimators.gaps import Gaps

N, K = 60, 100


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def evaluation():
    rng = np.random.default_rng(0)
    log_px = rng.normal(-90.0, 5.0, N)
    one = np.ones(N)
    gap = Gaps(
        datum=np.arange(4), elbo=log_px[:4] - 3, elbo_best=log_px[:4] - 1, log_px=log_px[:4],
        elbo_best_se=one[:4], to_best_se=one[:4], family="Normals", own_family=True,
        num_samples=10, num_steps=5, converged=one[:4].astype(bool),
    )  # fmt: skip
    return Evaluation(
        elbo=log_px - 3, log_px=log_px, log_px_se=0.1 * one, khat=np.linspace(0.1, 0.9, N),
        ess=20 * one, kl=15 * one, reconstruction=log_px + 12, zero_weights=0 * one,
        bounds={1: log_px - 3, 10: log_px - 1, K: log_px}, num_samples=K, seed=0,
        sites={"z": {"kl": 15.0, "closed_form": True, "active_units": 2,
                     "kl_dims": [1.0, 10.0, 4.0], "variance": [0.0, 0.9, 0.5]}},
        khat_threshold=0.5, model="Net<b>", guide="Cone", strategy="plate",
        data={"name": "toys", "observation": "fixed", "hash": "cafe"},
        psis=log_px, findings={"gap": gap},
    )  # fmt: skip


def test_the_bounds_against_k(evaluation):
    ax = evaluation.plot_bounds()
    (curve,) = [line for line in ax.lines if len(line.get_xdata()) == 3]
    k, mean = curve.get_data()
    assert k.tolist() == [1, 10, K]
    assert np.allclose(mean, [evaluation.bounds[i].mean() for i in k])
    levels = [line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1]
    assert np.isclose(levels, evaluation.elbo.mean()).any()
    assert ax.get_ylabel() == "nats per datum"
    _, own = plt.subplots()
    assert evaluation.plot_bounds(ax=own) is own
    ax = plot.bounds({"a": evaluation, "b": evaluation})
    assert [line.get_label() for line in ax.lines if len(line.get_xdata()) == 3] == ["a", "b"]


def test_histograms_of_khat_and_log_px(evaluation):
    ax = evaluation.plot_khat()
    below, above = (patch.get_xy() for patch in ax.patches)
    assert below[:, 0].max() >= evaluation.khat_threshold - 0.2
    assert above[above[:, 1] > 0][:, 0].min() >= evaluation.khat_threshold - 1e-9
    assert ax.lines[0].get_xdata()[0] == evaluation.khat_threshold
    ax = evaluation.plot_log_px()
    assert ax.lines[0].get_xdata()[0] == pytest.approx(evaluation.log_px.mean())


def test_the_gap_and_the_kl_of_each_dimension(evaluation):
    widths = [bar.get_width() for bar in evaluation.plot_gap().patches]
    assert np.allclose(widths, [2.0, 1.0, 3.0])
    ax = evaluation.plot_kl()
    assert sorted(bar.get_height() for bar in ax.patches) == [1.0, 4.0, 10.0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "0"]
    heights = [bar.get_height() for bar in plot.gaps({"a": evaluation, "b": evaluation}).patches]
    assert np.allclose(heights, [2, 2, 1, 1])


def test_what_is_not_there_is_said_with_the_option_that_adds_it(evaluation):
    without = dataclasses.replace(evaluation, findings={})
    with pytest.raises(PvaeError, match=r"Gap\(50\).*--gap 50"):
        without.plot_gap()
    failed = dataclasses.replace(without, missing={"gap": "The ELBO is NaN."})
    with pytest.raises(PvaeError, match=r"not computed\. The ELBO is NaN"):
        failed.plot_gap()
    with pytest.raises(PvaeError, match="'b' has no inference gap"):
        plot.gaps({"a": evaluation, "b": without})
    unknown = dataclasses.replace(evaluation, khat=np.full(N, np.nan))
    with pytest.raises(PvaeError, match="num_samples=1000"):
        unknown.plot_khat()
    with pytest.raises(PvaeError, match="Sites whose KL does: z"):
        evaluation.plot_kl("y")
    exact = dataclasses.replace(evaluation, exact=True)
    for draw in (exact.plot_bounds, exact.plot_khat):
        with pytest.raises(PvaeError, match=r"exact.*plot_log_px"):
            draw()
    assert exact.plot_log_px().get_xlabel() == "log p(x), nats"


def test_a_row_for_each_datum(evaluation):
    rows = np.arange(N) * 2
    found = Annealed(**_annealed(evaluation))
    some = dataclasses.replace(evaluation, rows=rows, findings={"ais_prior": found})
    frame = some.to_dataframe()
    assert frame.index.name == "datum"
    assert frame.index.tolist() == rows.tolist()
    assert np.array_equal(frame["log_px"], evaluation.log_px)
    assert np.array_equal(frame["L_10"], evaluation.bounds[10])
    assert f"L_{K}" not in frame
    assert frame["ais_prior"].notna().sum() == 3
    assert np.array_equal(frame["ais_prior"].iloc[[5, 7, 9]], found.log_px)


def _annealed(e):
    datum = np.array([5, 7, 9])
    values = {}
    for each in dataclasses.fields(Annealed):
        needed = each.default is each.default_factory is dataclasses.MISSING
        kinds = {"int": 4, "float": 0.5, "str": "prior", "bool": False}
        if needed:
            values[each.name] = kinds.get(getattr(each.type, "__name__", each.type), np.zeros(3))
    return values | {"datum": datum, "log_px": e.log_px[datum] + 0.5}


def test_html_is_short_and_escaped(evaluation):
    html = evaluation._repr_html_()
    assert "Net&lt;b&gt;" in html
    assert "Net<b>" not in html
    assert len(html) < 8000
    assert evaluation.verdict[:40] in html
    shown = re.sub(r"<[^>]*>", " ", html)
    assert f"{evaluation.log_px.mean():.2f}".replace("-", "−") in shown
    assert len(repr(evaluation)) < 3000


def test_arviz_draws_it(evaluation):
    tree = evaluation.to_datatree()
    arviz.plot_dist(
        tree, group="evaluation", var_names=["log_px", "khat"], sample_dims=["datum"],
        backend="matplotlib",
    )  # fmt: skip
    arviz.plot_khat(evaluation.to_elpd(), backend="matplotlib")
