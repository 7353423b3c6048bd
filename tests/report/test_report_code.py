"""The report of a pair whose guide gives a point: no number on it looks like a bound."""

import re

import pytest
import torch
from asking import evaluate

import pvae
from pvae.drawing.text import decimals, number
from pvae.guides import Code
from pvae.models import PPCA


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    data = pvae.data.load("digits", observation="grey", validation=100)
    pair = {"model": PPCA((1, 8, 8), 2), "guide": Code((1, 8, 8), 2, hidden_dims=())}
    options = {"epochs": 2, "mode": "eager", "progress": False}
    history = pvae.fit(**pair, data=data, **options).history
    return {**pair, "data": data, "history": history}


def _evaluate(made, **options):
    pair = made["model"], made["guide"]
    return evaluate(*pair, made["data"], num_temperatures=20, progress=False, hasty=True, **options)


def test_it_says_that_there_is_no_bound(made, read):
    evaluation = _evaluate(made)
    page = read(evaluation, **made)
    assert page.errors == []
    assert "could not be drawn" not in page.text()
    code = evaluation.summary()["code"]
    places = decimals(code["log_joint"]["se"])
    headline = page.text("headline")
    assert "no bound on log p(x)" in headline
    assert number(code["log_joint"]["mean"], places) in headline
    error = code["squared_error"]
    assert number(error["mean"], decimals(error["se"])) in headline
    assert evaluation.verdict in headline
    for name in ("log_likelihood", "log_prior"):
        assert number(code[name]["mean"], places) in page.text("code")
    assert "--ais 100" in page.text("trust")
    for section in ("bounds-table", "parts", "khat", "ais", "least_likely"):
        assert not page.text(section)
    for section in ("reconstructions", "samples", "latent"):
        assert page.text(section)


def test_nothing_on_it_is_called_a_bound_or_an_elbo(made, read):
    page = read(_evaluate(made, ais=4, bdmc=2), **made)
    words = page.text().replace("there is no ELBO", "")
    assert "ELBO" not in words
    assert "NaN" not in page.source
    assert not re.search(r"log p\(x\) ≥", words)
    assert "log p(x, z) at the code over epochs" in page.text("training")
    assert all("no bound" in row for row in page.rows if "bound" in row)


def test_annealing_stands_among_the_estimates(made, read):
    evaluation = _evaluate(made, ais=4, bdmc=2)
    page = read(evaluation, **made)
    assert page.errors == []
    row = evaluation.summary()["ais_prior"]
    (shown,) = [r for r in page.rows if "AIS from the prior" in r]
    assert number(row["mean"], decimals(row["se"]))[:5] in shown
    assert page.text("acceptance")
    assert page.text("bdmc")
