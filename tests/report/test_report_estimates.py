"""The tables of bounds and estimates: their numbers, what is called a bound, and what is not."""

import dataclasses

import numpy as np

from pvae.drawing.text import number

HINTS = {
    "estimates": ("--prior_samples 500", "--quadrature true"),
    "trust": ("--ais 100", "--bdmc 100"),
    "parts": ("--gap 100",),
}


def row(page, name):
    (found,) = [r for r in page.rows if r.startswith(name)]
    return found


def test_bounds_have_their_error_and_say_what_is_left_over(full, found):
    e = found()
    assert f"| {number(0.05 / 60**0.5, 4)} |" in row(full, "L K , K = 7")
    assert "1 of 7 samples left over" in row(full, "L K , K = 3")
    assert "left over" not in row(full, "L K , K = 7")
    assert f"closed form if there is one | {number((e.elbo - 0.0625).mean(), 1)}" in "".join(
        full.rows
    )


def test_estimates_have_their_mean_and_their_difference_to_the_bound(full, found):
    e, summary = found(), found().summary()
    error = e.log_px.std(ddof=1) / 60**0.5
    mean = f"{number(e.jvi[1][7].mean(), 1)} ± {number(error, 1)}"
    assert f"{mean} | +0.25 ± 0.00 |" in row(full, "JVI-1, K = 7")
    assert "+0.38 ± 0.00 |" in row(full, "JVI-2, K = 7")
    error = (e.psis - e.log_px).std(ddof=1) / 60**0.5
    assert f"| +0.188 ± {number(error, 3)} |" in row(full, "PSIS")
    prior = row(full, "Naive Monte Carlo")
    for words in ("S = 500", "487.5 (at most S)", "size about 1.2 ", "| −31.50 ± 0.00 |"):
        assert words in prior
    difference = summary["ais_prior"]["above_log_px"]
    ais = row(full, "AIS from the prior")
    assert "on 20 data; 16 chains, 30 temperatures" in ais
    assert f"+0.105 ± {number(difference['se'], 3)}" in ais
    assert number(summary["ais_prior"]["mean"], 1) in ais
    assert "| 0.00 ± 0.00 |" in row(full, "AIS from the guide")
    assert "log p(x) itself" in row(full, "Quadrature")
    assert "below 10⁻⁹ nats" in row(full, "Quadrature")


def test_what_is_no_bound_is_not_called_one(full):
    for name in ("JVI-1", "JVI-2", "PSIS"):
        assert "not a bound" in row(full, name)
        assert name not in full.text("bounds-table").partition("Bound against K")[0]
    assert "Quote none of these as a bound" in full.text("estimates")
    chi = row(full, "χ²")
    assert "an indication from above" in chi
    assert "not a bound here" in chi
    assert "on 15 data" in chi
    assert "shown for 25.0% of the data" in chi
    assert "+0.44 ± 0.00" in chi


def test_chi_square_is_not_shown_where_khat_is_unknown(found, read):
    page = read(found(khat=np.full(60, np.nan), cubo=np.full(60, -80.0), findings={}))
    assert "shown for 0% of the data" in row(page, "χ²")
    assert "−80" not in row(page, "χ²")


def test_every_source_is_named(full):
    for source in (
        "Burda, Grosse & Salakhutdinov 2016", "Nowozin 2018", "Vehtari et al. 2024", "Neal 2001",
        "Wu et al. 2017", "Dieng et al. 2017", "Grosse, Ghahramani & Adams 2015",
        "Alemi et al. 2018", "Hoffman & Johnson 2016", "Cremer, Li & Duvenaud 2018",
        "Trefethen & Weideman 2014",
    ):  # fmt: skip
        assert source in full.text()


def test_the_figure_shows_estimates_of_all_data_only(full, found, read):
    chart = full.figure("bounds")
    for name in ("JVI-1", "JVI-2", "PSIS", "quadrature", "ELBO"):
        assert f">{name}<" in chart
    assert "AIS, prior" not in chart
    assert "on some of the data only: AIS from the prior, AIS from the guide" in full.text("bounds")
    e = found()
    whole = dataclasses.replace(
        e.findings["ais_prior"], datum=np.arange(60), log_px=e.log_px, log_px_se=e.log_px_se
    )
    other = read(dataclasses.replace(e, findings={"ais_prior": whole}))
    assert ">AIS, prior<" in other.figure("bounds")
    assert "on some of the data" not in other.text("bounds")


def test_nonsense_is_left_out_of_the_figure_but_the_truth_never_is(found, read):
    e = found()
    far = dataclasses.replace(e.findings["quadrature"], log_px=e.log_px + 50)
    page = read(found(jvi={2: {7: e.log_px + 1e6}}, findings={"quadrature": far}))
    assert "Outside the frame: JVI-2." in page.text("bounds")
    assert "JVI-2<" not in page.figure("bounds")
    assert ">quadrature<" in page.figure("bounds")


def test_exact_values_are_no_bounds(found, read):
    page = read(found(exact=True, findings={}, bounds={1: found().log_px, 7: found().log_px}))
    assert "≥" not in page.text("headline")
    assert "log p(x), exact" in page.text("headline")
    assert "exact: nothing was sampled" in row(page, "log p(x)")
    assert not [r for r in page.rows if r.startswith(("L K", "JVI", "PSIS", "χ²"))]
    assert "lower bound" not in page.text()
    assert not page.figure("khat")
    assert not page.figure("bounds")
    assert "was not asked for" not in page.text()
    assert page.errors == []


def test_bits_per_dimension_are_explained(full, found, read):
    bits = found().summary()["bits_per_dim"]
    text = full.text("bits")
    assert f"{number(bits['log_px'], 4)} by the bound at K = 7" in text
    assert number(bits["elbo"], 4) in text
    assert "D = 64" in text
    assert "log₂" not in text
    data = found().data | {"observation": "dequantize", "levels": 256}
    e = found(data=data, findings={})
    page = read(e)
    assert number(e.summary()["bits_per_dim"]["log_px"], 4) in page.text("bits")
    assert number(bits["log_px"], 4) not in page.text("bits")
    assert "plus log₂ 256" in page.text("bits")
    assert "an upper bound on the bits" in page.text("bits")
    assert "bits per dimension" not in read(found(caveat="grey", findings={})).text()


def test_what_was_not_asked_for_says_how_to_get_it(full, found, read):
    assert "was not asked for" not in full.text()
    page = read(found(findings={}))
    for section, options in HINTS.items():
        for option in options:
            assert f"pvae evaluate RUN {option} adds it" in page.text(section)
    assert page.text().count("was not asked for") == 5
    site = found().sites["z"] | {"variance": [1.0] * 3, "kl_dims": [1.0] * 3}
    assert "Quadrature" not in read(found(findings={}, sites={"z": site})).text()


def test_what_does_not_apply_says_why(full, found, read):
    places = {
        "prior": "estimates", "quadrature": "estimates", "ais_prior": "trust", "bdmc": "trust",
        "surgery": "parts", "gap": "parts",
    }  # fmt: skip
    reasons = {name: f"<b>{name}</b> does not apply." for name in places}
    page = read(found(findings={}, missing=reasons))
    for name, section in places.items():
        assert reasons[name] in page.text(section)
        assert reasons[name] not in page.source
    for figure in ("ais", "acceptance", "bdmc", "surgery", "gap"):
        assert "<svg" in full.figure(figure)
        assert not page.figure(figure)


def test_one_reason_of_several_is_said_once(found, read):
    page = read(found(findings={}, missing=dict.fromkeys(("ais_prior", "ais_guide"), "Discrete.")))
    assert "Left out: AIS from the prior, AIS from the guide. Discrete." in page.text("trust")
    assert page.text().count("Discrete.") == 1
