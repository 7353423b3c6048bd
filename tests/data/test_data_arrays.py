"""Users' arrays: which layouts and dtypes are allowed, and the errors for the others."""

import numpy as np
import pytest
import torch

from pvae.data import load, storage
from pvae.data.arrays import from_arrays
from pvae.errors import PvaeError

ONES = np.ones((20, 3), np.float32)


def bad(rows, value=np.nan):
    x = np.zeros((100, 2, 3), np.float32)
    x[list(rows), 1, 2] = value
    return x


@pytest.mark.parametrize(
    ("shape", "event"), [((20, 5), (5,)), ((20, 4, 5), (1, 4, 5)), ((20, 3, 4, 5), (3, 4, 5))]
)
def test_layouts(shape, event):
    x = np.random.default_rng(0).random(shape, np.float32)
    data = load({"x_train": x, "x_test": x})
    assert data.event_shape == event
    assert torch.equal(data.train.x, torch.from_numpy(x).reshape(20, *event))


def test_ten_percent_are_held_out_by_the_seed():
    x = np.arange(50.0).reshape(50, 1)
    a, b, c = load(x), load(x), load(x, seed=1)
    assert (len(a.train), len(a.test)) == (45, 5)
    assert torch.equal(a.test.x, b.test.x)
    assert not torch.equal(a.test.x, c.test.x)
    assert sorted(torch.cat([a.train.x, a.test.x])[:, 0].tolist()) == list(range(50))
    assert len(load(x[:2]).test) == 1


@pytest.mark.parametrize(
    "found",
    [
        {"x_train": ONES, "x_test": ONES * 2, "y_train": np.arange(20), "y_test": np.arange(20)},
        {"train": ONES, "test": ONES * 2, "y_train": np.arange(20), "y_test": np.arange(20)},
        {"X_train": ONES, "X_test": ONES * 2, "Y_train": np.arange(20), "Y_test": np.arange(20)},
    ],
)
def test_named_parts(found):
    data = load(found, labels=True)
    assert data.train.tensors()[0].unique().tolist() == [1]
    assert data.test.tensors()[0].unique().tolist() == [2]
    assert torch.equal(data.test.y, torch.arange(20))


@pytest.mark.parametrize("found", [{"x": ONES}, {"images": ONES}, ONES, (ONES,), [ONES]])
def test_one_array(found):
    assert len(load(found).train) == 18


@pytest.mark.parametrize("found", [{"x": ONES, "y": np.arange(20)}, (ONES, torch.arange(20))])
def test_a_pair(found):
    assert sorted([*load(found).train.y.tolist(), *load(found).test.y.tolist()]) == list(range(20))


@pytest.mark.parametrize(
    "y", [np.arange(20.0), np.arange(20, dtype=np.uint16), np.arange(20).reshape(20, 1)]
)
def test_labels_become_int64(y):
    data = load((ONES, y), labels=True)
    assert data.train.y.dtype == torch.int64
    assert data.train.y.ndim == 1


@pytest.mark.parametrize(
    "x",
    [
        torch.rand(20, 3).to(torch.bfloat16),
        torch.rand(20, 3, dtype=torch.float64),
        torch.rand(20, 3, requires_grad=True),
        torch.rand(3, 20).T,
        np.asfortranarray(ONES),
        ONES[::-1],
        ONES.astype(">f8"),
    ],
)
def test_floats_of_every_kind_become_float32(x):
    data = load({"x_train": x, "x_test": x})
    assert data.train.raw.dtype == torch.float32
    want = x.detach().float() if isinstance(x, torch.Tensor) else torch.tensor(x.astype("f4"))
    assert torch.equal(data.train.x, want)


def test_read_only_arrays_are_taken_without_a_warning(recwarn):
    x = ONES.copy()
    x.flags.writeable = False
    load({"x_train": x, "x_test": x}).train.x.zero_()
    assert not recwarn.list
    assert x.min() == 1


BAD = [
    (np.zeros(10), ["[10]", "[N, C, H, W]", "reshape(-1, 1)"]),
    (np.array(3.0), ["[]", "[N, D]"]),
    (np.zeros((0, 3)), ["empty", "[0, 3]"]),
    (np.zeros((5, 0)), ["empty", "[5, 0]"]),
    (np.zeros((5, 28, 28, 1)), ["with channels last", "transpose(0, 3, 1, 2)"]),
    (np.array([[None, 1], [2, 3]]), ["object", "uint8"]),
    (np.array([["a", "b"]] * 3), ["<U1", "float32"]),
    (np.ones((5, 2), complex), ["complex128", "float32"]),
    (torch.ones(5, 2, dtype=torch.complex64), ["complex64"]),
    (torch.eye(5).to_sparse(), ["dense"]),
    (bad([7]), ["1 row of 100", "index 7", "np.isfinite"]),
    (bad([3, 50, 99]), ["3 rows of 100", "index 3"]),
    (bad([5, 6], -np.inf), ["2 rows of 100", "index 5"]),
    (np.full((4, 2), 1e300), ["4 rows", "index 0"]),
    (np.array([[0, 256]] * 4), ["0 to 256", "uint8", "astype('float32')"]),
    (np.array([[-1, 5]] * 4, np.int16), ["-1 to 5", "int16"]),
    ((ONES, np.arange(19)), ["19 labels", "20 data"]),
    ((ONES, np.array(["a"] * 20)), ["<U1 values", "np.unique"]),
    ((), ["tuple of 0", "(x,)"]),
    ({"a": ONES, "b": ONES[:5]}, ["a [20, 3], b [5, 3]", "x_train"]),
    ({"a_train": ONES, "b_train": ONES, "a_test": ONES}, ["field b", "the test part does not"]),
    ({}, ["nothing", "x_train"]),
    ({"x": [1, 2]}, ["list"]),
    ({"x_train": ONES, "x_test": ONES[:, :2]}, ["differ", "float [3]", "float [2]"]),
    ({"x_train": ONES, "x_test": np.ones((5, 3), int)}, ["differ", "float [3]", "integer [3]"]),
    ({"x_train": ONES, "x_test": ONES, "y_test": np.arange(3)}, ["y_test", "3 labels"]),
    ({"x_train": ONES, "x_test": ONES * np.nan}, ["x_test of the source", "20 rows"]),
]


@pytest.mark.parametrize(("found", "words"), BAD)
def test_bad_arrays_are_said_in_one_message(found, words):
    with pytest.raises(PvaeError) as caught:
        from_arrays(found, "the source")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_scans_go_in_slabs(monkeypatch, rows):
    monkeypatch.setattr(storage, "_SLAB", rows * 24)
    with pytest.raises(PvaeError, match="2 rows of 100, the first at index 41"):
        load(bad([41, 97]))
    x = np.zeros((100, 6), np.float32)
    x[60], x[80] = -2, 3
    found = from_arrays(x, "x")
    assert (found.values.low, found.values.high, found.values.binary) == (-2, 3, False)
    grey = np.zeros((100, 24), np.uint8)
    grey[99, 23] = 255
    assert load(grey).levels == 256
    grey[0, 0] = 1
    with pytest.raises(PvaeError, match="0 to 510"):
        load(grey.astype(int) * 2)


def test_levels_are_those_of_both_parts():
    zeros, full = np.zeros((5, 2), np.uint8), np.full((5, 2), 255, np.uint8)
    assert load({"x_train": zeros, "x_test": full}).levels == 256
    assert load({"x_train": full, "x_test": zeros}).test.x.max() == 0


def counted(high, dtype=np.int64, shape=(40, 5)):
    x = np.random.default_rng(0).integers(0, high, shape).astype(dtype)
    x[3, 2], x[7, 1] = high, 0
    return x


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(40, 5), (40, 3, 4), (40, 3, 4, 4)])
@pytest.mark.parametrize("high", [2, 12, 16, 100])
def test_integers_that_may_be_counts_or_levels_are_asked_for(dtype, shape, high):
    with pytest.raises(PvaeError) as caught:
        load(counted(high, dtype, shape))
    said = str(caught.value)
    assert f"integers from 0 to {high}" in said
    assert "observation='counts'" in said
    assert f"levels={high + 1}" in said
    assert f"--data.levels {high + 1}" in said


@pytest.mark.parametrize("wrap", [np.asarray, torch.as_tensor, lambda x: {"x": x}])
def test_counts_are_taken_as_they_are(wrap):
    x = counted(12)
    data = load(wrap(x), observation="counts")
    assert (data.levels, data.support, data.observation) == (None, "counts", "counts")
    both = torch.cat([data.train.x, data.test.x])
    assert both.dtype == torch.float32
    rows = sorted(map(tuple, both.tolist()))
    assert rows == sorted(map(tuple, x.astype(float).tolist()))


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_counts_beyond_a_byte(dtype, tmp_path):
    x = counted(70_000, dtype)
    np.save(tmp_path / "x.npy", x)
    for source in (x, tmp_path / "x.npy"):
        data = load(source, observation="counts")
        assert data.train.raw.dtype == torch.float32
        assert max(data.train.x.max(), data.test.x.max()) == 70_000


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (counted(12) - 1, "from -1 to 11, but counts are whole numbers from 0"),
        (counted(12).astype(float) + 0.5, "not whole numbers, such as"),
        (counted(2**25), "counts are whole numbers from 0 to 16,777,216"),
    ],
)
def test_what_is_no_count(x, said):
    with pytest.raises(PvaeError, match=said):
        load(x, observation="counts")


def test_levels_that_are_given():
    x = counted(12)
    data = load(x, observation="grey", levels=13)
    assert set((torch.cat([data.train.x, data.test.x]) * 12).round().flatten().tolist()) <= set(
        range(13)
    )
    assert data.levels == 13
    assert load(x, levels=20).levels == 20  # more than were seen
    for levels in (12, 1, 300):
        with pytest.raises(
            PvaeError, match=f"levels={levels} is not valid: .* up to 12. Give 13 to 256"
        ):
            load(x, levels=levels)
    with pytest.raises(PvaeError, match="floats, which have no levels"):
        load(x.astype(float), levels=13)
    with pytest.raises(PvaeError, match="counts have no levels"):
        load(x, levels=13, observation="counts")
    with pytest.raises(PvaeError, match="digits has 17"):
        load("digits", levels=256)
    assert load("digits", levels=17).levels == 17
