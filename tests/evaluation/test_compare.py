"""Paired differences by hand, what they are said to mean, and what cannot be compared."""

import inspect
import math

import numpy as np
import pytest

from pvae.errors import PvaeError
from pvae.evaluation import Evaluation
from pvae.evaluation.compare import compare, read_runs
from pvae.evaluation.work import FOLDER

A = np.array([-10.0, -20.0, -30.0, -40.0])
B = A + np.array([1.0, 2.0, 2.0, 3.0])
DATA = {"name": "toys", "observation": "fixed", "hash": "cafe1234beef"}


def made(values, *, k=500, khat=0.1, bounds=None, **changes):
    values = np.asarray(values, dtype=np.float64)
    n, others = len(values), inspect.signature(Evaluation).parameters
    arrays = {name: np.zeros(n) for name in others if others[name].annotation is np.ndarray}
    given = arrays | {
        "elbo": values - 1,
        "log_px": values,
        "khat": np.full(n, khat) if np.isscalar(khat) else khat,
        "bounds": {k: values} if bounds is None else bounds,
        "sites": {"z": {"kl": 1.0, "active_units": 2}},
        "num_samples": k, "seed": 0, "khat_threshold": 0.7, "model": "Net", "guide": "Cone",
        "data": dict(DATA), "strategy": "plate",
    }  # fmt: skip
    return Evaluation(**(given | changes))


def difference(a, b, **changes):
    return compare({"a": made(a), "b": made(b, **changes)}).runs[1].log_px.difference


def test_the_difference_by_hand():
    d = difference(A, B)
    assert d.values.tolist() == [1, 2, 2, 3]
    assert d.mean == 2
    se = math.sqrt(2 / 3) / 2  # sd of 1, 2, 2, 3 with three degrees of freedom, over √4
    assert d.se == pytest.approx(se)
    assert (d.low, d.high) == pytest.approx((2 - 3.182446 * se, 2 + 3.182446 * se), rel=1e-6)
    unpaired = math.sqrt((A.var(ddof=1) + B.var(ddof=1)) / 4)
    assert d.unpaired_se == pytest.approx(unpaired)
    assert d.se < unpaired / 20
    assert (d.higher, d.verdict) == (1.0, "better")


def test_the_first_is_the_reference_and_the_elbo_is_compared_too():
    elbo = np.array([-12.0, -22.0, -33.0, -41.0])
    comparison = compare({"b": made(B), "a": made(A, elbo=elbo)})
    reference, run = comparison.runs
    assert (reference.name, run.name) == ("b", "a")
    assert reference.log_px.difference is reference.elbo.difference is None
    assert (reference.log_px.mean, run.log_px.mean) == (B.mean(), A.mean())
    assert reference.log_px.se == pytest.approx(B.std(ddof=1) / 2)
    assert run.log_px.difference.verdict == "worse"
    assert run.log_px.difference.higher == 0
    assert run.elbo.difference.values.tolist() == (elbo - (B - 1)).tolist()


def test_words_say_better_worse_or_no_difference():
    def words(a, b):
        return compare({"a": made(a), "b": made(b)}).runs[1].words

    assert words(A, B).startswith("b is better than a: its L_500 is higher by 2.00 ± 0.41 nats")
    assert "(95% interval 0.70 to 3.30), higher on 100% of the data." in words(A, B)
    assert words(B, A).startswith("b is worse than a: its L_500 is lower by 2.00 ± 0.41 nats")
    assert "(95% interval 0.70 to 3.30), lower on 100% of the data." in words(B, A)
    unclear = words(A, A + np.array([1.0, -1.0, 1.0, -0.5]))
    assert unclear.startswith("These 4 data show no difference between b and a: L_500 of b is ")
    assert "95% interval −1.52 to 1.77" in unclear
    assert "higher on 50.0% of the data; the interval contains zero" in unclear
    assert words(A, A) == "b and a have the same L_500 on every datum."


def test_the_difference_covers_its_true_value_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        common = 10 * rng.standard_normal(12)
        d = difference(common, common + 0.3 + rng.standard_normal(12))
        covered += d.low <= 0.3 <= d.high
    assert 930 <= covered <= 968  # 950 ± 2.7 standard errors


def test_k_is_the_largest_that_all_share_and_it_is_said():
    a = made(A, k=1000, bounds={1: A - 3, 50: A - 2, 500: A - 1, 1000: A})
    b = made(B, k=700, bounds={1: B - 3, 50: B - 2.5, 500: B - 1, 700: B})
    comparison = compare({"a": a, "b": b})
    assert comparison.num_samples == 500
    assert comparison.runs[1].log_px.values.tolist() == (B - 1).tolist()
    notes = " ".join(comparison.notes)
    assert "different numbers of samples (a 1000, b 700). They are compared at K = 500" in notes
    assert "From K = 50 to K = 500 the bounds rose, in nats: a by 1.00, b by 1.50" in notes
    assert "another --seed changes a run too" in notes
    same = " ".join(compare({"a": made(A), "b": made(B)}).notes)
    assert "different numbers" not in same
    assert "rose" not in same


def test_loose_bounds_are_named_and_what_they_can_do():
    half = np.array([0.9, 0.1, 0.9, 0.1])

    def words(khat_a, khat_b, b=B):
        return compare({"a": made(A, khat=khat_a), "b": made(b, khat=khat_b)}).runs[1].words

    assert "But" not in words(0.1, 0.1)
    behind = words(half, 0.1)
    assert "k̂ of a is above 0.70 for 50.0% of the data: a bound may lie well below" in behind
    assert "need not be a difference between likelihoods" in behind
    ahead = words(0.1, half)
    assert "k̂ of b is above 0.70 for 50.0% of the data: its bound may be loose" in ahead
    assert "its lead look smaller" in ahead
    assert "its lead look smaller" in words(half, 0.1, A - 1), "the reference leads"
    both = words(half, half)
    assert "k̂ of b" in both
    assert "k̂ of a" in both
    assert "need not be" in both
    assert "need not be" in words(half, 0.1, A), "a difference may be hidden"
    assert "k̂ of b is not available" in words(0.1, math.nan)
    exact = compare({"a": made(A), "b": made(B, khat=math.nan, exact=True)})
    assert "not available" not in exact.runs[1].words


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_an_infinite_bound_has_no_difference_and_no_error(value):
    impossible = B.copy()
    impossible[0] = value
    comparison = compare({"a": made(A), "b": made(impossible)})
    d = comparison.runs[1].log_px.difference
    assert d.verdict == "undefined"
    assert np.isnan([d.mean, d.se, d.low, d.unpaired_se]).all()
    assert d.higher == 0.75
    assert (
        "undecided: a bound is not finite. Its L_500 is higher on 75.0%" in comparison.runs[1].words
    )
    assert "–" in comparison.table()


def test_one_datum_has_no_error():
    comparison = compare({"a": made(A[:1]), "b": made(B[:1])})
    assert comparison.runs[1].log_px.difference.mean == 1
    assert "undecided: 1 datum gives no standard error" in comparison.runs[1].words


def test_the_table_is_aligned_and_shows_both_errors():
    runs = {"a": made(A), "a-long-name": made(B), "c": made(A - 1.5 + np.arange(4) / 100)}
    comparison = compare(runs)
    lines = comparison.table().splitlines()
    assert lines[0] == "toys (fixed, 4 data): differences from a, nats per datum"
    header, reference, row = lines[1:4]
    assert len(header) == len(row) == len(lines[4])
    assert reference.split() == ["a", "−25.0", "6.5"]
    cells = ["a-long-name", "−23.0", "6.1", "+2.0000", "0.4082", "8.8600"]
    assert row.split() == [*cells, "0.7008", "to", "3.2992", "100%"]
    assert header.index("unpaired") + len("unpaired") == row.index("8.8600") + len("8.8600")
    assert lines[5].startswith("ELBO ")
    assert comparison.runs[1].words in lines
    assert "c: Net with Cone, 500 samples each, k̂ above 0.70 for 0% of the data" in lines
    assert "Each interval covers its own difference with 95%, not all of them together." in lines


def test_other_data_are_refused_with_what_they_are():
    other = made(B, data=DATA | {"hash": "0123456789ab", "observation": "dynamic"})
    with pytest.raises(PvaeError) as error:
        compare({"a": made(A), "b": other})
    for words in (
        "a on toys (fixed, 4 data, hash cafe1234…)",
        "b on toys (dynamic, 4 data, hash 01234567…)",
        "same --data.seed",
    ):
        assert words in str(error.value)
    with pytest.raises(PvaeError, match=r"a on .*4 data.* b on .*3 data"):
        compare({"a": made(A), "b": made(B[:3])})


def test_other_names_of_the_same_data_are_no_reason_to_refuse():
    other = made(B, data=DATA | {"name": "tensor", "dims": 64})
    assert compare({"a": made(A), "b": other}).data["name"] == "toys, tensor"


def test_what_is_not_a_likelihood_is_not_compared_with_one():
    caveat = "not a likelihood: grey values under a Bernoulli"
    with pytest.raises(PvaeError, match="The numbers of b are not a likelihood and those of a are"):
        compare({"a": made(A), "b": made(B, caveat=caveat)})
    both = compare({"a": made(A, caveat=caveat), "b": made(B, caveat=caveat)}).table()
    assert both.endswith(caveat)
    assert "not a likelihood, nats per datum" in both


def test_fewer_than_two_or_no_common_k_is_refused():
    with pytest.raises(PvaeError, match="a dict of evaluations by name"):
        compare([made(A), made(B)])
    with pytest.raises(PvaeError, match="two evaluations or more"):
        compare({"a": made(A)})
    with pytest.raises(PvaeError, match="No K has a bound in all of a and b"):
        compare({"a": made(A, k=5), "b": made(B, k=7)})


def test_folders_are_read_by_names_that_tell_them_apart(tmp_path):
    places = [tmp_path / place for place in ("x/one/run", "y/one/run", "y/two/run", "y/last")]
    for i, place in enumerate(places):
        place.mkdir(parents=True)
        made(A + i).save(place)
    found = read_runs(places)
    assert list(found) == ["x/one/run", "y/one/run", "two/run", "last"]
    assert [e.log_px[0] for e in found.values()] == [-10, -9, -8, -7]
    assert list(read_runs(places[2:])) == ["run", "last"]


def test_folders_that_cannot_be_compared_are_refused(tmp_path):
    done, trained, half = (tmp_path / name for name in ("done", "trained", "half"))
    for place in (done, trained, half / FOLDER):
        place.mkdir(parents=True)
    made(A).save(done)
    (half / FOLDER / "key").write_text("of some work")
    for i in range(3):
        np.savez(half / FOLDER / f"evaluate-{i}.npz", x=A)
    for folders, message in (
        ([done], "two runs or more"),
        ([done, tmp_path / "trained" / ".." / "done"], "The same folder is given more than once"),
        ([done, tmp_path / "nowhere"], "There is no run folder .*nowhere"),
        ([done, trained], "trained.*`pvae evaluate .*trained`"),
        ([done, half], "half is half done .3 blocks.*`pvae evaluate .*half`"),
    ):
        with pytest.raises(PvaeError, match=message):
            read_runs(folders)
    made(B).save(half)
    assert list(read_runs([done, half])) == ["done", "half"], "an older evaluation is complete"
