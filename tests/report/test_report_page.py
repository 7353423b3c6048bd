"""The page: its numbers are the evaluation's, nothing is loaded, nothing of it is lost."""

import re
import resource

import numpy as np
import pytest

from pvae.drawing.text import number
from pvae.errors import PvaeError
from pvae.report import write_report

SECTIONS = ("headline", "bounds-table", "trust", "learning", "pictures", "repeat")
HISTORY = [
    {"epoch": e, "elbo": -200 / e, "learning_rate": 1e-3 / e, "kl_weight": 1.0,
     "validation_elbo": -210 / e} for e in range(1, 6)
]  # fmt: skip
CONFIG = {
    "model": {"class_path": "Net", "init_args": {"latent_dim": 7, "event_shape": [1, 8, 8]}},
    "data": {"name": "toys"}, "epochs": 5, "batch_size": 64, "seed": 3,
}  # fmt: skip


def test_numbers_are_those_of_the_evaluation(numbers, read):
    evaluation = numbers()
    page = read(evaluation)
    summary = evaluation.summary()
    last = summary["log_px"][-1]
    for name, stat in (("ELBO", summary["elbo"]), ("500", last)):
        row = next(r for r in page.rows if name in r and stat is not None)
        assert number(stat["mean"], 1) in row
        assert number(stat["se"], 1) in row
    for row in summary["log_px"][1:]:  # L_1 is the ELBO again
        assert any(f"K = {row['num_samples']} |" in r and number(row["mean"], 1) in r
                   for r in page.rows)  # fmt: skip
    assert any(f"K = 500 | {number(last['mean'], 1)}" in r and "| 0.020 |" in r
               for r in page.rows)  # fmt: skip
    assert "K = 500" in page.text("headline")
    assert f"{number(last['mean'], 1)} ± {number(last['se'], 1)} nats" in page.text("headline")
    assert "about 0.12 nats" in page.text("bounds-table")
    table = "\n".join(page.rows)
    for expected in (
        "17.2 nats",
        "321.0",
        "active units | 9",
        "z_1 | 12.5 closed form | 6 of 8",
        "z_2 | – | 3",
    ):
        assert expected in table
    above = np.mean(evaluation.khat > 0.7)
    assert f"above 0.70 | {above:.1%}" in table
    assert "The verdict in words." in page.text("headline")


def test_digits_follow_the_error_over_data(numbers, read):
    log_px = np.tile([-3.10, -3.11], 200)
    page = read(numbers(log_px=log_px))
    assert number(-3.105, 4) in page.text("headline")


def test_every_section_is_there_with_everything_and_with_nothing(numbers, read, pair, predictive):
    x = np.random.default_rng(1).random((40, 1, 8, 8)).astype("float32")
    import torch

    full = read(numbers(), **pair, data=torch.from_numpy(x), history=HISTORY, config=CONFIG)
    bare = read(numbers())
    for page in (full, bare):
        ids = {attrs.get("id") for _, attrs in page.tags}
        assert set(SECTIONS) <= ids
        assert page.errors == []
    assert "given no training history" in bare.text("learning")
    assert "given no training history" not in full.text("learning")
    assert "pvae run --config config.yaml" in full.text("repeat")
    assert "pvae run" not in bare.text("repeat")
    for word in ("latent_dim 7", "64", "1 × 8 × 8", "60"):
        assert word in full.text()
    for word in ("cafe1234", "evaluation seed 11", "pyro-ppl", "torch", "plate"):
        assert word in full.text("repeat")


def test_nothing_is_loaded_and_ids_are_unique(numbers, read, pair, predictive):
    import torch

    page = read(numbers(), **pair, data=torch.rand(40, 1, 8, 8), history=HISTORY, config=CONFIG)
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            value = attrs.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:80])
    assert "http" not in re.sub(r"base64,[^\"]*", "", page.source)
    assert "@import" not in page.source
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = re.findall(r"url\(#([^)]+)\)", page.source)
    links += [a["href"][1:] for _, a in page.tags if a.get("href")]
    assert set(links) <= set(ids)


def test_charts_take_their_colours_and_font_from_the_page(numbers, read):
    page = read(numbers(), history=HISTORY)
    charts = re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL)
    assert len(charts) >= 6
    for chart in charts:
        assert 'role="img"' in chart
        assert re.search(r'aria-label="[^"]+"', chart)
        assert "<text" in chart
        assert "font-family" not in chart
        assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(id|href)="[^"]*"', "", chart))
        assert set(re.findall(r"var\((--[\w-]+)\)", chart)) <= set(
            re.findall(r"(--[\w-]+):", page.source)
        )


def test_names_and_config_are_escaped(numbers, read):
    bad = "<script>alert(1)</script>"
    page = read(
        numbers(model=bad, verdict=bad, caveat=bad, strategy=bad),
        config={"model": {"class_path": bad, "init_args": {bad: bad}}, "batch_size": bad},
        history=HISTORY,
    )
    assert bad not in page.source
    assert page.text().count(bad) >= 7
    assert page.errors == []


def test_caveat_is_shown_and_the_numbers_are_labelled(numbers, read):
    caveat = "not a likelihood: grey values under a Bernoulli"
    page = read(numbers(caveat=caveat))
    assert caveat in page.text("caveat")
    for section in ("headline", "bounds-table", "log_px"):
        assert "see the caveat" in page.text(section)
    assert "log p(x) ≥" not in page.text("headline")
    clean = read(numbers())
    assert "caveat" not in clean.text()
    assert "log p(x) ≥" in clean.text("headline")


def test_one_datum_has_no_standard_error(numbers, read):
    page = read(numbers(n=1))
    assert "±" not in page.text("headline")
    assert any(re.search(r"ELBO \| −\d+\.\d+ \| – \|", r) for r in page.rows)
    assert page.errors == []


@pytest.mark.parametrize(
    ("khat", "words"),
    [(np.full(6, -np.inf), "6 data have constant weights"), (np.full(6, np.nan), "no k̂")],
)
def test_khat_without_finite_values(numbers, read, khat, words):
    page = read(numbers(n=6, khat=khat))
    assert words in page.text("khat")
    assert "could not be drawn" not in page.text()


def test_impossible_data_and_a_single_k(numbers, read):
    log_px = np.array([-3.0, -np.inf, -4.0, -5.0])
    evaluation = numbers(log_px=log_px)
    evaluation.bounds = {500: log_px}
    evaluation.elbo = np.full(4, np.nan)
    with np.errstate(invalid="ignore"):
        page = read(evaluation)
    assert "−∞" in page.text("headline")
    assert "1 datum has no finite bound" in page.text("bounds-table")
    assert "nan" not in page.text().lower().replace("nats", "")
    assert "could not be drawn" not in page.text()


def test_single_k_is_drawn(numbers, read, recwarn):
    evaluation = numbers()
    evaluation.bounds = {500: evaluation.log_px}
    page = read(evaluation, history=HISTORY[:1])
    assert "could not be drawn" not in page.text()
    assert number(float(evaluation.log_px.mean()), 1) in page.text("bounds")
    assert not recwarn.list


def test_validation_line_and_history_with_gaps(numbers, read):
    with_it = read(numbers(), history=HISTORY).text("training")
    without = read(numbers(), history=[{"epoch": 1, "elbo": None}, {"epoch": 2, "elbo": -3.0}])
    assert "validation" in with_it
    assert "validation" not in without.text("training")
    assert "could not be drawn" not in without.text()


@pytest.mark.parametrize("where", ["a file as folder", "a folder as file"])
def test_unwritable_path(tmp_path, numbers, where):
    (tmp_path / "taken").write_text("")
    (tmp_path / "folder").mkdir()
    path = tmp_path / ("taken/report.html" if where == "a file as folder" else "folder")
    with pytest.raises(PvaeError, match=re.escape(str(path))):
        write_report(path, numbers())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["folder", "taken"]


def test_the_path_comes_first(tmp_path, numbers):
    with pytest.raises(PvaeError, match=r"write_report\(path, evaluation\)"):
        write_report(numbers(), tmp_path / "report.html")


def test_full_disk_keeps_the_old_report(tmp_path, numbers):
    path = tmp_path / "report.html"
    path.write_text("old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(PvaeError, match=re.escape(str(path))):
            write_report(path, numbers())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_returns_the_path_and_repeats_itself(tmp_path, numbers):
    first = write_report(str(tmp_path / "new" / "a.html"), numbers(), history=HISTORY)
    second = write_report(tmp_path / "b.html", numbers(), history=HISTORY)
    assert first == tmp_path / "new" / "a.html"
    assert first.read_bytes() == second.read_bytes()


def test_the_first_screen_has_the_number_the_verdict_the_curve_and_the_contents(numbers, read):
    page = read(numbers(khat=np.full(40, 0.9)), history=HISTORY, command="pvae run --lr 1")
    first = page.text("headline")
    assert "✗ Loose. This is only a lower bound" in first
    assert first.index("Loose") < first.index("The verdict in words.")
    assert "rose by 2.00 nats" in first
    assert page.source.index('class="reading bad"') < page.source.index('id="few-epochs"')
    assert page.source.index('id="few-epochs"') < page.source.index('class="contents"')
    nav = page.source.partition('<nav class="contents"')[2].partition("</nav>")[0]
    links = re.findall(r'href="#([\w-]+)"', nav)
    assert links == ["bounds-table", "estimates", "trust", "parts", "learning", "pictures",
                     "repeat"]  # fmt: skip
    assert "pvae run --lr 1" in page.text("repeat")


def test_sizes_and_long_texts_are_folded(numbers, read):
    page = read(numbers(), history=HISTORY)
    sizes = page.source.partition('<details id="sizes">')[2].partition("</details>")[0]
    assert "evaluated data" in sizes
    figure = page.figure("khat")
    shown, _, folded = figure.partition('<details class="help">')
    assert "estimates how heavy the tail" in shown
    assert "above it a few samples carry the estimate" in folded
    assert "How to read: Pareto k̂, datum by datum" in folded


def test_when_how_long_and_where_are_told(numbers, read):
    evaluation = numbers()
    evaluation.made = {"date": "2026-11-28 09:30 UTC", "seconds": 3725.0, "device": "NVIDIA H200"}
    page = read(evaluation, trained={"date": "2026-11-27 23:59 UTC", "seconds": 7.64})
    for words in (
        "2026-11-28 09:30 UTC, in 1 h 2 min, on NVIDIA H200",
        "2026-11-27 23:59 UTC, in 7.6 s",
    ):
        assert words in page.text("repeat")


def test_options_that_do_not_apply_are_left_out(numbers, read):
    given = {"network": "dense", "channels": [64, 32], "hidden_dims": [400]}
    config = CONFIG | {"model": {"class_path": "Net", "init_args": given}, "num_chains": 16,
                       "ais": 0, "patience": 10, "data": {"validation": 0}}  # fmt: skip
    page = read(numbers(), config=config)
    assert "hidden_dims [400]" in page.text("sizes")
    assert "channels" not in page.text()
    assert "num_chains" not in page.text()
    assert "patience" not in page.text()
    annealed = read(numbers(), config=config | {"ais": 20, "data": {"validation": 100}})
    assert "num_chains 16" in annealed.text("repeat")
    assert "patience 10" in annealed.text("repeat")


def test_whether_the_bound_still_rose_is_told(numbers, read):
    rows = [{"epoch": e, "elbo": -100 + 0.5 * e, "kl_weight": 1.0} for e in range(1, 41)]
    page = read(numbers(), history=rows)
    assert "Still rising. The training ELBO was still rising" in page.text("headline")
    assert "+3.50 nats over the last 8 of 40 epochs" in " ".join(
        page.text("learning").replace("± 0.00 ", "").split()
    )
    assert "rising when" not in read(numbers(), history=HISTORY[:3]).text()
