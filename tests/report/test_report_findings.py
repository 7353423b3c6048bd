"""The figures of trust and of the decompositions: what they show is what was found."""

import dataclasses
import re

import numpy as np
import pytest

from pvae.evaluation.estimators.aggregate_posterior import AggregatePosterior

FIGURES = ("khat", "log_px", "ais", "acceptance", "bdmc", "kl_dims", "surgery", "gap")


def bars(figure, colour):
    """Returns (left, right, top) of the bars of one colour in the first chart."""
    chart = figure.partition("</svg>")[0]
    paths = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: var\(--{colour}\)', chart)
    corners = [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), dtype=float) for path in paths]
    # What ends in the first 20 pixels is the legend's.
    corners = [c for c in corners if c[:, 1].max() > 20]
    return [(c[:, 0].min(), c[:, 0].max(), c[:, 1].min()) for c in corners]


def test_every_finding_has_its_figure_and_its_sentence(full):
    assert full.errors == []
    assert "could not be drawn" not in full.text()
    for name in FIGURES:
        assert "<svg" in full.figure(name)
        assert "<figcaption>" in full.figure(name)


def test_every_finding_of_a_caveat_is_flagged(found, read):
    page = read(found(caveat="grey values under a Bernoulli"))
    for section in ("headline", "bounds-table", "estimates", "ais", "bdmc", "gap", "parts"):
        assert "see the caveat" in page.text(section)


def test_zero_weights_and_effective_samples_are_told(full, found, read):
    assert "effective sample size, median of K = 7 | 5.5 |" in full.rows
    assert "weights that are zero, mean share | 3.1% |" in full.rows
    assert "that are zero" not in read(found(zero_weights=np.zeros(60))).text()


def test_a_missed_mode_is_red_in_the_comparison_with_annealing(full, found, read):
    assert "In red: the 3 higher by more than three errors" in full.text("ais")
    assert "for 20 data, sorted by this difference" in full.text("ais")
    assert re.search(r"var\(--warn\)", full.figure("ais"))
    e = found()
    same = dataclasses.replace(e.findings["ais_prior"], log_px=e.log_px[::3].copy())
    same.log_px[4] = np.nan
    page = read(found(findings=e.findings | {"ais_prior": same}))
    assert "1 datum without a finite difference: not drawn" in page.text("ais")
    assert "None is higher by more than three errors" in page.text("ais")
    assert not re.search(r"var\(--warn\)", page.figure("ais"))


def test_annealing_from_the_guide_alone_claims_no_modes(found, read):
    page = read(found(findings={"ais_guide": found().findings["ais_guide"]}))
    assert "from the guide (Neal 2001" in page.text("ais")
    assert "modes" not in page.text("ais")


def test_acceptance_says_where_it_is_lowest(full):
    assert "lowest: from the prior 25.0%; from the guide 25.0%" in full.text("acceptance")
    assert "not to be trusted" in full.text("acceptance")


def test_the_sandwich_has_its_gap_and_its_limits(full):
    assert full.figure("bdmc").count("<svg") == 2
    text = full.text("bdmc")
    assert "on average 0.38 ± 0.00 nats" in text
    assert "For 10 data drawn from the model" in text
    assert "not on the test data" in text


def test_rate_and_distortion_are_minus_the_elbo(full, found):
    e = found()
    assert "rate = KL(q(z|x) ‖ p(z)), from the samples | 10.8 nats |" in full.rows
    (row,) = [r for r in full.rows if r.startswith("distortion")]
    assert f"| {-e.reconstruction.mean():.1f} nats |" in row
    assert (e.kl - e.reconstruction).mean() == pytest.approx(-e.elbo.mean())


def test_dimensions_are_sorted_and_the_active_ones_marked(found, read):
    site = {"kl": 9.0, "closed_form": True, "active_units": 2, "kl_dims": [1.0, 0.0, 5.0, 3.0],
            "variance": [0.009, 0.0, 0.011, 0.5]}  # fmt: skip
    page = read(found(sites={"z": site}, findings={}))
    active, rest = (bars(page.figure("kl_dims"), c) for c in ("accent", "fill"))
    assert len(active) == len(rest) == 2
    assert max(b[1] for b in active) < min(b[0] for b in rest)
    heights = [top for _, _, top in sorted(active + rest)]
    assert heights == sorted(heights)
    assert (heights[3] - heights[1]) / (heights[3] - heights[0]) == pytest.approx(0.6, abs=0.02)
    assert [int(t) for t in re.findall(r">(\d)</text>", page.figure("kl_dims"))][:4] == [3, 4, 1, 2]


def test_many_dimensions_and_many_sites_are_cut_and_it_is_said(found, read):
    dims = list(np.linspace(0.0, 1.0, 100))
    many = {"kl": 50.0, "closed_form": True, "active_units": 100, "kl_dims": dims,
            "variance": [1.0] * 100}  # fmt: skip
    page = read(found(sites={"z": many}, findings={}))
    assert len(bars(page.figure("kl_dims"), "accent")) == 64
    assert "Shown: the 64 largest of 100." in page.text("kl_dims")
    few = many | {"kl_dims": [1.0], "variance": [1.0]}
    sites = {f"z_{i}": few for i in range(8)} | {"y": many | {"kl_dims": None, "variance": None}}
    page = read(found(sites=sites, findings={}))
    assert page.figure("kl_dims").count("<svg") == 6
    assert "2 sites with less KL are not shown" in page.text("kl_dims")
    assert "Not split into dimensions: y." in page.text("kl_dims")


def test_the_rate_is_mutual_information_and_marginal_kl(full):
    chart = full.figure("surgery")
    assert ">index-code mutual information 3.50 ± 0.00<" in re.sub(r" +", " ", chart)
    assert ">marginal KL(q(z) ‖ p(z)) 7.25 ± 0.00<" in re.sub(r" +", " ", chart)
    assert ">rate 10.75<" in re.sub(r" +", " ", chart)
    assert "log N = 4.09 nats" in full.text("surgery")
    ((left, middle, _),), ((start, right, _),) = bars(chart, "accent"), bars(chart, "second")
    assert start == pytest.approx(middle)
    assert (right - start) / (middle - left) == pytest.approx(7.25 / 3.5, rel=0.01)


def test_the_inference_gap_is_split(full, found, read):
    chart = re.sub(r" +", " ", full.figure("gap"))
    assert ">amortisation gap 1.50 ± 0.00<" in chart
    assert ">approximation gap 2.50 ± 0.00<" in chart
    assert ">inference gap 4.00 ± 0.00<" in chart
    text = full.text("gap")
    assert "on 10 data" in text
    assert "z ~ Normal(loc, scale) (450 steps)" in text
    e = found()
    other = dataclasses.replace(
        e.findings["gap"], own_family=False, elbo_best=e.findings["gap"].elbo - 0.5,
        family="gap to the optimal mean field: loc of site 'z_2' depends on samples",
    )  # fmt: skip
    page = read(found(findings={"gap": other}))
    chart = re.sub(r" +", " ", page.figure("gap"))
    assert ">gap to the optimal mean field −0.50 ± 0.00<" in chart
    assert "datum by datum (loc of site 'z_2' depends on samples)" in page.text("gap")
    assert "this is no amortisation gap" in page.text("gap")
    assert "amortisation gap" not in chart.partition("<figcaption>")[0]


def test_a_figure_that_breaks_keeps_the_others(found, read, monkeypatch):
    for name in ("aggregate_posterior", "gaps"):
        where = f"pvae.evaluation.estimators.{name}.steps"
        monkeypatch.setattr(where, lambda *_, **__: 1 / 0)
    page = read(found())
    for name in ("surgery", "gap"):
        assert "ZeroDivisionError" in page.text(name)
    assert "<svg" in page.figure("kl_dims")


def test_undefined_numbers_leave_dashes_and_reasons(found, read):
    e, nan = found(), np.full(60, np.nan)
    blank = {
        name: dataclasses.replace(f, **{
            field.name: np.full_like(getattr(f, field.name), np.nan)
            for field in dataclasses.fields(f)
            if field.name != "datum" and isinstance(getattr(f, field.name), np.ndarray)
        })
        for name, f in e.findings.items()
    }  # fmt: skip
    site = e.sites["z"] | {"kl": None, "active_units": None, "variance": None, "kl_dims": None}
    names = ("elbo", "elbo_analytic", "log_px", "log_px_se", "psis", "cubo", "khat", "ess", "kl",
             "reconstruction", "zero_weights")  # fmt: skip
    arrays = dict.fromkeys(names, nan)
    evaluation = found(
        **arrays, findings=blank, sites={"z": site}, bounds={7: nan}, bounds_se={7: nan},
        jvi={1: {7: nan}},
    )  # fmt: skip
    page = read(evaluation)
    assert page.errors == []
    assert "could not be drawn" not in page.text()
    assert not re.search(r"\bnan\b", page.text().replace(evaluation.verdict, "").lower())
    for name in ("ais", "acceptance", "bdmc", "surgery", "gap"):
        assert "There are no finite numbers to draw" in page.text(name)


def test_one_datum_has_every_figure(found, read):
    e = found()

    def first(f):
        return dataclasses.replace(f, datum=f.datum[:1], **{
            field.name: getattr(f, field.name)[:1] for field in dataclasses.fields(f)
            if field.name not in ("datum", "acceptance")
            and isinstance(getattr(f, field.name), np.ndarray)
        })  # fmt: skip

    one = {
        field.name: getattr(e, field.name)[:1] for field in dataclasses.fields(e)
        if isinstance(getattr(e, field.name, None), np.ndarray)
    }  # fmt: skip
    findings = {name: first(f) for name, f in e.findings.items()}
    findings["surgery"] = AggregatePosterior(np.arange(1), np.ones(1), np.zeros(1), -np.ones(1), 1)
    page = read(found(
        **one, findings=findings, bounds={7: e.log_px[:1]}, bounds_se={7: e.log_px_se[:1]},
        jvi={1: {7: e.log_px[:1]}},
    ))  # fmt: skip
    assert page.errors == []
    assert "could not be drawn" not in page.text()
    assert not re.search(r"\bnan\b", page.text().lower())
    for name in FIGURES:
        assert "<svg" in page.figure(name)
