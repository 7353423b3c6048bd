"""The page of a comparison: whole, self-contained, and with the numbers of the comparison."""

import dataclasses
import re

import numpy as np
import pytest

from pvae.drawing.text import number, percent
from pvae.evaluation.compare import Comparison
from pvae.evaluation.compared import Bound, Compared, Difference
from pvae.report.compare import write_comparison


def made(names=("first", "second"), n=60, **changes):
    rng = np.random.default_rng(0)
    common = -80 + 10 * rng.standard_normal(n)
    runs = []
    for i, name in enumerate(names):
        d = Difference(
            rng.standard_normal(n) + i, 1.25 * i, 0.125, unpaired_se=2.5, low=1.25 * i - 0.25,
            high=1.25 * i + 0.25, higher=0.375,
        )  # fmt: skip
        bound = Bound(common + i, float(common.mean()) + i, 1.75, d if i else None)
        words = f"What is said of {name}." if i else ""
        runs.append(Compared(name, "Net", "Cone", 1000, 0.67, 0.125, bound, bound, words))
    given = {
        "runs": tuple(runs),
        "num_samples": 500,
        "data": {"name": "toys", "observation": "fixed", "hash": "cafe1234"},
        "caveat": None,
        "notes": ("A note of the comparison.",),
    }
    return Comparison(**(given | changes))


@pytest.fixture
def read(tmp_path, page):
    def make(comparison):
        return page(write_comparison(tmp_path / "a" / "compare.html", comparison))

    return make


def test_the_page_is_whole_and_has_every_figure_and_number(read):
    comparison = made(("first", "second", "third"))
    page = read(comparison)
    assert page.errors == []
    assert [attrs["id"] for tag, attrs in page.tags if tag == "figure"] == [
        "forest", "histogram-2", "scatter-2", "histogram-3", "scatter-3",
    ]  # fmt: skip
    for name in ("forest", "histogram-2", "scatter-2", "histogram-3", "scatter-3"):
        assert page.figure(name).count("<svg") == (2 if name == "forest" else 1)
        assert "<figcaption>" in page.figure(name)
    assert "missing" not in re.sub("<style>.*?</style>", "", page.source, flags=re.DOTALL)
    for run in comparison.runs[1:]:
        assert run.words in page.text()
        d = run.log_px.difference
        row = [
            number(d.mean, 2, sign=True), "0.12", "2.50",
            f"{number(d.low)} to {number(d.high)}", percent(d.higher),
        ]  # fmt: skip
        assert "".join(f"<td>{cell}</td>" for cell in row) in page.source
    for words in (
        "2 runs against first on toys",
        "K = 500",
        "A note of the comparison",
        "cafe1234",
    ):
        assert words in page.text()
    assert "at least 400 times as many data" in page.text()
    assert "12.5% above 0.67" in page.text()


def test_two_runs_have_a_headline(read):
    page = read(made())
    assert "second against first on toys" in page.text()
    assert "+1.25 ± 0.12 nats" in page.text()
    assert page.source.count('class="headline"') == 1


def test_the_forest_shows_paired_and_unpaired_intervals_about_the_zero_line(read):
    forest = read(made()).figure("forest")
    wide = forest.partition("</svg>")[0].replace("\n", " ")
    found = re.findall(r'"M ([\d.]+) ([\d.]+) L ([\d.]+) ([\d.]+) "[^>]*--([\w-]+)', wide)
    lines = {name: (float(x), float(end)) for x, y, end, bottom, name in found if y == bottom}
    (low, high), (outer, other) = lines["accent"], lines["fill"]
    assert (other - outer) / (high - low) == pytest.approx(20, rel=0.01)
    assert other - high == pytest.approx(low - outer, abs=0.1)
    (zero,) = (float(x) for x, _, end, _, name in found if name == "ink" and x == end)
    assert low - zero == pytest.approx(2 * (high - low), rel=0.01), "the interval is 1 to 1.5"


def test_the_histogram_is_red_below_zero_and_blue_above(read):
    comparison = made()
    assert {"--warn-fill", "--fill"} <= set(colours(read(comparison).figure("histogram-2")))
    run = comparison.runs[1]
    d = dataclasses.replace(run.log_px.difference, values=np.linspace(0.5, 3, 60))
    better = dataclasses.replace(run, log_px=dataclasses.replace(run.log_px, difference=d))
    page = read(dataclasses.replace(comparison, runs=(comparison.runs[0], better)))
    bars = re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--warn-fill', page.figure("histogram-2"))
    heights = {y for bar in bars for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", bar)}
    assert len(heights) <= 1, "no datum below zero, no red bar"


def colours(source):
    return re.findall(r"var\((--[\w-]+)\)", source)


def test_many_data_are_thinned_in_the_scatter_and_it_is_said(read):
    few, many = read(made(n=100)), read(made(n=4500))
    assert (points(few), points(many)) == (100, 1500)
    assert "1\N{NARROW NO-BREAK SPACE}500 of 4\N{NARROW NO-BREAK SPACE}500 data are drawn" in (
        many.figure("scatter-2")
    )
    assert "are drawn" not in few.figure("scatter-2")


def points(page):
    group = re.search(r"<g clip-path[^>]*>\s((?:<use[^>]*>\s)+)", page.figure("scatter-2"))
    return group[1].count("<use")


def test_nothing_is_loaded_ids_are_unique_and_names_are_escaped(read):
    bad = "<script>alert(1)</script> $x$ & a"
    page = read(made(("first", bad, "a/b", "a-b"), caveat=bad))
    assert bad not in page.source
    assert bad in page.text()
    assert page.errors == []
    assert page.text().count("see the caveat") == 2
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img")
        for name in ("src", "href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")
    assert "http" not in page.source
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page.source)) <= set(ids)
    declared = set(re.findall(r"(--[\w-]+):", page.source))
    assert set(colours(page.source)) <= declared


def test_undefined_numbers_leave_dashes_and_a_reason(read):
    comparison = made()
    run, nan = comparison.runs[1], float("nan")
    values = np.full(60, -np.inf)
    d = Difference(values, nan, nan, nan, nan, nan, higher=0.0)
    none = dataclasses.replace(run, log_px=Bound(values, nan, nan, d))
    page = read(dataclasses.replace(comparison, runs=(comparison.runs[0], none)))
    assert page.errors == []
    assert "nan" not in page.text()
    for name in ("forest", "histogram-2", "scatter-2"):
        assert "There are no finite numbers to draw." in page.figure(name)
    assert "could not be drawn" not in page.text()


def test_equal_runs_are_drawn(read):
    comparison = made()
    run = comparison.runs[1]
    d = Difference(np.zeros(60), 0.0, 0.0, unpaired_se=2.5, low=0.0, high=0.0, higher=0.0)
    bound = dataclasses.replace(comparison.runs[0].log_px, difference=d)
    same = dataclasses.replace(run, log_px=bound, elbo=bound)
    page = read(dataclasses.replace(comparison, runs=(comparison.runs[0], same)))
    assert page.errors == []
    assert "could not be drawn" not in page.text()


def config(seed=0, latent_dim=20, **options):
    model = {"class_path": "Net", "init_args": {"latent_dim": latent_dim}}
    return {"model": model, "data": {"source": "toys"}, "seed": seed, **options}


def test_how_the_runs_differ_is_a_table_of_options(tmp_path, page):
    parts = {"first": {"config": config(epochs=5)}, "second": {"config": config(1, 2, epochs=5)}}
    shown = page(write_comparison(tmp_path / "a.html", made(), parts, "pvae report a b"))
    assert shown.errors == []
    assert "model.latent_dim | 20 | 2 |" in shown.rows
    assert "seed | 0 | 1 |" in shown.rows
    assert not any(row.startswith("epochs") for row in shown.rows)
    assert "pvae report a b" in shown.text("repeat")
    assert not shown.text("designs")


def test_seeds_of_a_design_have_their_spread(tmp_path, page):
    names = ("a", "b", "c", "d")  # 0, 1, 2 and 3 nats above the first
    parts = {name: {"config": config(i, 20 if i < 2 else 2)} for i, name in enumerate(names)}
    shown = page(write_comparison(tmp_path / "a.html", made(names), parts))
    first, second = (row for row in shown.rows if ("Net with Cone" in row and "| 0" in row)
                     or "2, 3 |" in row)  # fmt: skip
    spread = number(0.5**0.5)
    assert f"a, b | 0, 1 | {number(-78.7, 2)[:3]}" in first
    assert f"| {spread} |" in first
    assert "reference" in first
    assert "| +2.00 ± 0.71 |" in second


def test_curves_of_runs_are_drawn_with_their_names(tmp_path, page):
    rows = [{"epoch": e, "elbo": -100.0 + e} for e in range(1, 31)]
    held = [row | {"validation_elbo": row["elbo"] - 1} for row in rows]
    parts = {"first": {"history": rows}, "second": {"history": held}}
    shown = page(write_comparison(tmp_path / "a.html", made(), parts))
    figure = shown.figure("curves")
    assert "first" in figure
    assert "second" in figure
    assert "of validation, or training data" in figure
    assert shown.errors == []
