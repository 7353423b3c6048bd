"""`pvae compare`, on runs that `pvae run` made."""

import dataclasses
import shutil
import sys

import numpy as np
import pytest

from pvae.cli.main import main
from pvae.evaluation import Evaluation
from pvae.evaluation.compare import compare, read_runs

SMALL = ["--model.hidden_dims", "[8]", "--guide.hidden_dims", "[8]", "--epochs", "1"]
SMALL += ["--model.latent_dim", "2", "--progress", "false"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs, and one that says it is of other data; not to be written to."""
    folder = tmp_path_factory.mktemp("compare")
    for name, lr in (("a", "0.001"), ("b", "0.02")):
        run = str(folder / name)
        assert main(["train", *SMALL, "--lr", lr, "--out", run]) == 0
        assert main(["evaluate", run, "--num_samples", "20", "--progress", "false"]) == 0
    a = Evaluation.load(folder / "a")
    (folder / "other").mkdir()
    dataclasses.replace(a, data=a.data | {"hash": "0" * 64}).save(folder / "other")
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A current folder with a copy of each run."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_the_table_is_printed_and_the_page_written(here, capsys):
    assert main(["compare", "a", "b"]) == 0
    said = capsys.readouterr().out
    comparison = compare(read_runs(["a", "b"]))
    assert said == f"{comparison.table()}\nfigure: compare.html\n"
    a, b = Evaluation.load("a"), Evaluation.load("b")
    d = comparison.runs[1].log_px.difference
    assert comparison.num_samples == 20
    assert d.mean == pytest.approx(np.mean(b.log_px - a.log_px))
    assert d.se == pytest.approx(np.std(b.log_px - a.log_px, ddof=1) / np.sqrt(297))
    assert d.verdict == "better"
    page = (here / "compare.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert comparison.runs[1].words in page
    assert main(["report", "a", "b", "--out", "again.html"]) == 0
    assert capsys.readouterr().out == said.replace("compare.html", "again.html")
    assert (here / "again.html").read_text("utf-8") == page


def test_out_names_the_page_and_an_older_one_is_replaced(here, capsys):
    (here / "page.html").write_text("old")
    assert main(["compare", "a", "b", "--out", "page.html"]) == 0
    assert "figure: page.html" in capsys.readouterr().out
    assert (here / "page.html").read_text("utf-8").startswith("<!doctype html>")
    assert main(["compare", "--out=new/page.html", "b", "a"]) == 0
    assert "a is worse than b" in (here / "new" / "page.html").read_text("utf-8")
    assert not (here / "compare.html").exists()


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "two or more runs: `pvae compare RUN RUN`"),
        (["a"], 2, "two or more runs: `pvae compare RUN RUN`"),
        (["a", "b", "--ot", "x"], 2, "There is no option --ot. Did you mean --out?"),
        (["a", "b", "--out"], 2, "--out: expected one argument"),
        (["a", "b", "--out", "."], 2, "--out .: this is a folder"),
        (["a", "b", "--out", "a/config.yaml"], 2, "--out a/config.yaml: this is another file"),
        (["a", "b", "--out", "b/report.html"], 2, "--out b/report.html: this is another file"),
        (["a", "nowhere"], 1, "There is no run folder nowhere"),
        (["a", "./a"], 1, "The same folder is given more than once: a and a"),
        (["a", "empty"], 1, "`pvae evaluate empty` makes it"),
        (["a", "b", "other"], 1, "The runs were not evaluated on the same data: a on digits"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(here, capsys, argv, code, message):
    (here / "empty").mkdir()
    assert main(["compare", *argv]) == code
    said = capsys.readouterr()
    assert said.err.startswith("pvae: error: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert {path.name for path in here.iterdir()} == {"a", "b", "other", "empty"}


def test_the_command_is_in_the_help(capsys):
    assert main(["--help"]) == 0
    assert "compare RUN RUN" in capsys.readouterr().out
