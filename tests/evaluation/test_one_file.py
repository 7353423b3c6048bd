"""An estimator is one file: added, it is everywhere; removed, nothing of it is left."""

import gc
import importlib
import json
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from programs import linear_gaussian

import pvae
from pvae import Evaluation, PvaeError
from pvae.cli import main
from pvae.drawing import Panel, attempt, chart
from pvae.evaluation import Estimate, Estimator, Task, estimators, in_blocks
from pvae.importance import seed_unit

FILE = '''
"""The median of means: log p(x) from the median of a few averages of weights."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from pvae.drawing import Panel, attempt, chart
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.finding import Estimate
from pvae.evaluation.work import in_blocks
from pvae.importance import seed_unit


@dataclass(frozen=True)
class Medians(Estimate, kind="Medians"):
    title, level, order = "The median of means", "median of means", 35

    num_means: int

    def note(self, summary):
        return f"{self.num_means} means (Nemirovsky & Yudin 1983)"

    def line(self, summary):
        return f"median of {self.num_means} means, on {len(self)} data"

    def verdict(self, known):
        return "The median of means was looked at."

    def panels(self, known):
        return [attempt("medians", "Medians, datum by datum", self._drawn)]

    def _drawn(self):
        with chart("Medians") as drawn:
            drawn.figure.subplots().plot(self.log_px)
        return Panel((drawn.svg,), "How to read the medians.")


@dataclass(frozen=True)
class MedianOfMeans(Estimator):
    """The median of means."""

    name, finding, hint = "medians", Medians, "--medians 100"

    num_means: int = 3

    @classmethod
    def from_options(cls, medians: int = 0, num_means: int = 3) -> Self | None:
        """The median of means.

        Args:
            medians: Number of data for the median of means.
            num_means: Means of which the median is taken.
        """
        return cls(medians, num_means) if medians else None

    def estimate(self, task: Task) -> Medians:
        def compute(block):
            seed_unit(task.seed, int(block[0]), purpose=0x77)
            means = [next(task.sampler.stream(task.batch(block), 8)) for _ in range(self.num_means)]
            log_w = np.stack([m.log_w.double().logsumexp(0).cpu().numpy() for m in means])
            return {"log_px": np.median(log_w, 0) - np.log(8)}

        columns = task.map("medians", in_blocks(task.positions, 16), compute)
        return Medians(task.positions, **columns, num_means=self.num_means)
'''
QUICK = ["--progress", "false", "--device", "cpu"]


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Puts the file into the folder of the estimators, and removes it at the end."""
    folder, name = tmp_path / "more", "pvae.evaluation.estimators.median_of_means"
    folder.mkdir()
    (folder / "median_of_means.py").write_text(FILE)
    monkeypatch.setattr(estimators, "__path__", [*estimators.__path__, str(folder)])

    def remove():
        monkeypatch.undo()
        sys.modules.pop(name, None)
        vars(estimators).pop("median_of_means", None)
        gc.collect()

    yield remove
    remove()


def test_a_file_more_is_an_estimator_more_and_a_file_less_leaves_nothing(
    added, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    few = ["--num_samples", "20", "--num_data", "20", "--prior_samples", "0", "--surgery", "false"]
    small = ["--model.hidden_dims", "[8]", "--guide.hidden_dims", "[8]", "--epochs", "1"]
    asked = ["--medians", "7", "--num_means", "5"]
    assert main(["run", *small, *few, *asked, "--out", str(run), *QUICK]) == 0
    said, page = capsys.readouterr().out, (run / "report.html").read_text()
    summary = json.loads((run / "evaluation.json").read_text())
    assert "median of 5 means, on 7 data" in said
    assert [line for line in said.splitlines() if line.startswith("The median of means  ")]
    assert summary["medians"]["num_data"] == 7
    assert summary["medians"]["above_log_px"]["mean"] < 1
    assert summary["verdict"].endswith("The median of means was looked at.")
    for words in (
        "The median of means<",
        "5 means (Nemirovsky",
        'id="medians"',
        "read the medians",
    ):
        assert words in page
    found = Evaluation.load(run).findings["medians"]
    assert (type(found).__name__, found.num_means, len(found)) == ("Medians", 5, 7)

    # The same work is not repeated, from the shell or in Python; more data are added.
    kind = importlib.import_module("pvae.evaluation.estimators.median_of_means").MedianOfMeans
    with monkeypatch.context() as patch:
        patch.setattr(kind, "estimate", lambda *_: pytest.fail("it is there"))
        assert main(["evaluate", str(run), *QUICK]) == 0
        assert main(["evaluate", str(run), "--medians", "6", *QUICK]) == 0
    assert main(["evaluate", str(run), "--medians", "9", *QUICK]) == 0
    more = Evaluation.load(run).findings["medians"]
    assert len(more) == 9
    at = np.isin(more.datum, found.datum)
    assert at.sum() == 7
    # A report without it says how to ask for it.
    without = replace(Evaluation.load(run), findings={}, settings={})
    hint = "pvae evaluate RUN --medians 100"
    assert hint in pvae.write_report(tmp_path / "a.html", without).read_text()

    del kind, found
    kept = more.log_px.copy()
    del more
    added()
    assert hint not in pvae.write_report(tmp_path / "a.html", without).read_text()
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "medians" not in capsys.readouterr().out
    assert main(["evaluate", str(run), "--medians", "3", *QUICK]) == 2
    # Its finding is kept without a row, because its class is not imported.
    evaluation = Evaluation.load(run)
    left = evaluation.findings["medians"]
    assert "whose class is not imported" in left.title
    assert evaluation.summary()["medians"]["log_px"]["mean"] == pytest.approx(kept.mean())
    assert "median of" not in evaluation.table().lower()
    assert f"not shown: {left.title}" in evaluation.table()
    evaluation.save(run)
    np.testing.assert_array_equal(
        Evaluation.load(run).findings["medians"].dataset["log_px"].values, kept
    )
    assert main(["report", str(run)]) == 0


@dataclass(frozen=True)
class Least(Estimate):
    """A custom estimator outside the package."""

    title = "The least weight"

    def panels(self, known):
        return [attempt("least", "Least weights", self._draw)]

    def _draw(self):
        with chart("Least weights") as drawn:
            drawn.figure.subplots().plot(self.log_px)
        return Panel((drawn.svg,), f"Of {len(self)} data.")


@dataclass(frozen=True)
class LeastWeight(Estimator):
    name, finding = "least", Least

    num_draws: int = 10

    def estimate(self, task: Task) -> Least:
        def compute(block):
            seed_unit(task.seed, int(block[0]), purpose=0x78)
            draws = task.sampler.stream(task.batch(block), self.num_draws)
            return {"log_px": torch.cat([d.log_w for d in draws]).amin(0).double().cpu().numpy()}

        return Least(task.positions, **task.map("least", in_blocks(task.positions, 8), compute))


def test_one_of_a_users_own(tmp_path, monkeypatch):
    model, guide, x, exact = linear_gaussian()
    options = {"num_samples": 20, "progress": False, "out": tmp_path}
    mine = LeastWeight(10)
    result = pvae.evaluate(model, guide, x, estimators=[mine], **options)
    found = result.findings["least"]
    assert set(result.findings) == {"least"}  # a list says all that is asked for
    assert (found.log_px < exact.numpy()[found.datum]).all()
    assert "The least weight" in str(result)
    again = Evaluation.load(tmp_path)
    assert isinstance(again.findings["least"], Least)
    assert again.summary() == result.summary()
    page = pvae.write_report(tmp_path / "a.html", again).read_text()
    assert 'id="least"' in page
    assert "Of 10 data." in page
    with monkeypatch.context() as patch:
        patch.setattr(LeastWeight, "estimate", lambda *_: 1 / 0)
        same = pvae.evaluate(model, guide, x, estimators=[mine, LeastWeight(4)][:1], **options)
        with pytest.warns(UserWarning, match="The least weight was left out: ZeroDivisionError"):
            other = pvae.evaluate(model, guide, x, estimators=[LeastWeight(10, 3)], **options)
    np.testing.assert_array_equal(same.findings["least"].log_px, found.log_px)
    np.testing.assert_array_equal(other.findings["least"].log_px, found.log_px)


def test_what_breaks_while_it_is_shown_costs_no_bound(tmp_path, monkeypatch):
    model, guide, x, _ = linear_gaussian()
    options = {"num_samples": 20, "progress": False, "out": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(Least, "summary", lambda *_: {"a": np.ones(3)})
        with pytest.warns(UserWarning, match="left out.*not JSON serializable"):
            pvae.evaluate(model, guide, x, estimators=[LeastWeight(5)], **options)
    assert "least" in Evaluation.load(tmp_path).missing
    result = pvae.evaluate(model, guide, x, estimators=[LeastWeight(5)], **options)
    monkeypatch.setattr(Least, "panels", lambda *_: 1 / 0)
    page = pvae.write_report(tmp_path / "a.html", result).read_text()
    assert "ZeroDivisionError" in page


def test_what_is_no_estimator_or_twice_the_same_is_refused():
    model, guide, x, _ = linear_gaussian()
    for wrong, said in (
        (estimators.AIS(2), r"give a list, as in \[AIS"),
        ([estimators.AIS], "AIS is not an estimator. Pass instances"),
        (["ais"], "'ais' is not an estimator"),
        ([estimators.AIS(2), estimators.AIS(3)], "ais_guide and ais_prior would be computed"),
        ([estimators.AIS(2), estimators.AIS(3, start="prior")], "ais_prior would be computed"),
    ):
        with pytest.raises(PvaeError, match=said):
            pvae.evaluate(model, guide, x, num_samples=2, estimators=wrong, progress=False)
    for wrong, said in ((0, "num_data=0"), (2.5, "num_data=2.5")):
        with pytest.raises(PvaeError, match=said):
            estimators.AIS(wrong)
    with pytest.raises(PvaeError, match="start='nowhere'"):
        estimators.AIS(2, start="nowhere")
