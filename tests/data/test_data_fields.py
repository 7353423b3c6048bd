"""Named fields: any dtype and shape, from dicts, files, frames, Datasets and loaders."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils import data as torch_data

from pvae.data import Split, as_data, load, storage
from pvae.errors import PvaeError

RNG = np.random.default_rng(0)
N = 40
X = RNG.normal(size=(N, 5)).astype(np.float32)
Y = RNG.integers(0, 3, N)
TOKENS = {
    "tokens": RNG.integers(0, 5000, (N, 7)),
    "lengths": RNG.integers(1, 8, N),
    "mask": RNG.random((N, 7)) < 0.5,
}


class Items(torch_data.Dataset):
    """Gives what a function makes of a position, and keeps a record of the positions."""

    def __init__(self, item, size=N):
        self.item, self.size, self.read = item, size, []

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        self.read.append(int(i))
        return self.item(i)


class Stream(torch_data.IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def rows(part):
    return [tensor.numpy() for tensor in part.observe(slice(None))]


@pytest.mark.parametrize("kind", ["dict", "tensors", "npz", "pt", "dataset"])
def test_fields_keep_their_type_shape_and_row(tmp_path, kind):
    fields = dict(TOKENS)
    if kind == "npz":
        np.savez(tmp_path / "a.npz", **fields)
        source = tmp_path / "a.npz"
    elif kind == "dataset":
        source = Items(lambda i: {name: a[i] for name, a in fields.items()} | {"text": "a"})
    else:
        source = {name: torch.from_numpy(a) for name, a in fields.items()}
        if kind == "pt":
            torch.save(source, tmp_path / "a.pt")
            source = tmp_path / "a.pt"
        elif kind == "dict":
            source = fields
    data = load(source, validation=6, seed=3)
    assert data.train.names == ("tokens", "lengths", "mask")
    assert (data.observation, data.levels, data.event_shape) == ("as_given", None, (7,))
    parts = [rows(part) for part in (data.train, data.validation, data.test)]
    assert [len(part[0]) for part in parts] == [30, 6, 4]
    tokens, lengths, mask = (np.concatenate(each) for each in zip(*parts, strict=True))
    assert (tokens.dtype, lengths.dtype, mask.dtype) == (np.int64, np.int64, np.bool_)
    order = [int(np.flatnonzero((fields["tokens"] == row).all(1))[0]) for row in tokens]
    assert sorted(order) == list(range(N)) != order
    assert np.array_equal(lengths, fields["lengths"][order])
    assert np.array_equal(mask, fields["mask"][order])


@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (6, 3), (6, 2), (2, 3, 4, 5, 2)])
def test_videos_points_and_more(shape):
    x = RNG.random((N, *shape)).astype(np.float32)
    data = load({"x_train": x, "x_test": x})
    assert data.event_shape == shape
    assert torch.equal(data.test.x, torch.from_numpy(x))


@pytest.mark.parametrize(("channels", "how"), [(1, "dynamic"), (3, "dequantize")])
def test_videos_of_bytes_are_observed_as_images_are(channels, how):
    x = RNG.integers(0, 256, (N, 3, channels, 8, 8), dtype=np.uint8)
    data = load(x)
    assert (data.observation, data.levels, data.event_shape) == (how, 256, (3, channels, 8, 8))
    with pytest.raises(PvaeError, match=r"channels last.*transpose\(0, 1, 4, 2, 3\)"):
        load(RNG.random((N, 3, 8, 8, 3)))


def test_x_is_observed_and_other_fields_are_left_alone():
    image = RNG.integers(0, 256, (N, 1, 4, 4), dtype=np.uint8)
    source = {"mask": image[:, 0] > 99, "x": image, "x_2": image, "score": X[:, 0].astype("f8")}
    data = load(source, seed=2)
    assert data.observation == "dynamic"
    assert data.train.names == ("x", "mask", "x_2", "score")
    assert "x [1, 4, 4], mask bool [4, 4], x_2 uint8 [1, 4, 4], score float32 []" in data.in_words
    x, mask, other, score = data.test.tensors()
    assert set(x.unique().tolist()) == {0, 1}
    assert other.dtype == torch.uint8
    assert torch.equal(mask, other[:, 0] > 99)
    assert score.dtype == torch.float32
    again = load(source, seed=2).test
    assert torch.equal(x, again.tensors()[0])
    assert torch.equal(load({"x": image}, seed=2).test.x, x)  # others do not shift its noise


@pytest.mark.parametrize("name", ["tokens", "lengths", "mask"])
def test_the_hash_is_of_every_field(name):
    changed = {**TOKENS, name: TOKENS[name].copy()}
    changed[name].flat[:] = np.roll(changed[name], 1, 0).flat
    assert load(changed).test.hash != load(TOKENS).test.hash


def test_the_hash_is_of_type_and_shape_too():
    zeros = [np.zeros((N, *shape), dtype) for shape, dtype in
             (((4,), "i4"), ((2, 2), "i4"), ((4,), "f4"), ((2,), "i8"))]  # fmt: skip
    assert len({load({"x": X, "other": other}).test.hash for other in zeros}) == 4


def test_y_is_given_if_asked_for_and_may_be_a_vector_or_missing():
    for y in (np.eye(N, dtype=bool), X, np.where(Y == 0, np.nan, Y), np.where(Y == 0, -1, Y)):
        data = load({"y_train": y, "x_train": X, "y_test": y, "x_test": X}, labels=True)
        x, found = data.test.tensors()
        assert torch.equal(x, torch.from_numpy(X))
        assert found.dtype in (torch.bool, torch.float32, torch.int64)
        assert np.array_equal(found.numpy(), y.astype(found.numpy().dtype), equal_nan=True)
        assert data.test.hash != load({"x_train": X, "x_test": X}).test.hash
    assert load({"x": X, "y": X}).train.names == ("x",)


def test_integers_as_given_stay_what_they_are():
    data = load((TOKENS["tokens"], Y), observation="as_given")
    assert data.test.x.dtype == torch.int64
    assert data.test.x.max() > 255
    with pytest.raises(PvaeError, match=r"values from \d+ to \d+.*observation='as_given'"):
        load((TOKENS["tokens"], Y))
    with pytest.raises(PvaeError, match=r"x, are taken as given\. Leave both out"):
        load(TOKENS["tokens"], observation="as_given", levels=9)


def frame():
    table = {f"column {i}": X[:, i] for i in range(5)}
    return pd.DataFrame({**table, "y": Y})


def item(i):
    return X[i], int(Y[i])


SOURCES = {
    "tensors": lambda: (torch.from_numpy(X), torch.from_numpy(Y)),
    "dict": lambda: {"y": Y, "x": X},
    "frame": frame,
    "TensorDataset": lambda: torch_data.TensorDataset(torch.tensor(X), torch.tensor(Y)),
    "Dataset": lambda: Items(item),
    "of dicts": lambda: Items(lambda i: {"x": torch.tensor(X[i]), "y": torch.tensor(Y[i])}),
    "loader": lambda: torch_data.DataLoader(Items(item), 7, shuffle=True),
    "collating": lambda: torch_data.DataLoader(
        Items(item), 7, collate_fn=lambda items: {"x": np.stack([x for x, _ in items]),
                                                  "y": np.array([y for _, y in items])},
    ),
    "iterable": Stream,
    "loader of an iterable": lambda: torch_data.DataLoader(Stream(), 9),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_data(kind):
    want = load((X, Y), labels=True, validation=5)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    data = load(SOURCES[kind](), labels=True, validation=5)
    for part in ("train", "validation", "test"):
        assert getattr(data, part).hash == getattr(want, part).hash
    assert torch.equal(state, torch.get_rng_state())


def test_pictures_of_pillow_are_images():
    grey, colour = (
        RNG.integers(0, 256, (N, 6, 6, *c), dtype=np.uint8) for c in ((), (3,))
    )  # fmt: skip
    data = load(Items(lambda i: (Image.fromarray(grey[i]), 0)))
    assert data.test.hash == load(grey).test.hash
    data = load(Items(lambda i: (Image.fromarray(colour[i]), 0)))
    assert data.test.hash == load(colour.transpose(0, 3, 1, 2)).test.hash


@pytest.mark.parametrize("observation", ["grey", "as_given"])
def test_a_dataset_that_does_not_fit_is_read_by_rows(monkeypatch, observation):
    monkeypatch.setattr(storage, "_fits", lambda nbytes, device: nbytes < 700)
    items = Items(lambda i: {"x": X[i], "other": X[i] + 1, "y": Y[i]})
    data = load(items, observation=observation, validation=4)
    monkeypatch.undo()
    want = load({"x": X, "other": X + 1, "y": Y}, observation=observation, validation=4)
    assert isinstance(data.train.fields["y"], torch.Tensor)
    assert [data.train.hash, data.test.hash] == [want.train.hash, want.test.hash]
    items.read.clear()
    got, rows = data.train.observe([3, 1]), want.train.observe([3, 1])
    assert all(torch.equal(a, b) for a, b in zip(got, rows, strict=True))
    assert len(items.read) == 2  # both fields at once
    for a, b in zip(
        data.train.batches(10, shuffle=True, generator=torch.Generator().manual_seed(0)),
        want.train.batches(10, shuffle=True, generator=torch.Generator().manual_seed(0)),
        strict=True,
    ):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    assert len(items.read) == 2 + len(data.train)
    monkeypatch.setattr(storage, "_fits", lambda nbytes, device: False)
    with pytest.raises(PvaeError, match=r"do not fit in memory.*observe\(rows\)"):
        data.train.tensors()
    with pytest.raises(PvaeError, match="Dataset with __len__ and __getitem__"):
        load(Stream())


def test_a_whole_source_is_one_part_as_it_is():
    for source in (TOKENS, Items(lambda i: {name: a[i] for name, a in TOKENS.items()})):
        part = as_data(source)
        assert isinstance(part, Split)
        for tensor, a in zip(part.tensors(), TOKENS.values(), strict=True):
            assert np.array_equal(tensor.numpy(), a)
    assert as_data({"x": X.astype("f8")}).x.dtype == torch.float64
    assert as_data({"y": Y, "x": X}).names == ("x", "y")
    x = torch.zeros(3)
    assert as_data(x) is x


CROOKED = {
    "ragged": Items(lambda i: {"tokens": np.zeros(i + 1)}),
    "text": Items(lambda i: "abc"),
    "empty": Items(item, 0),
    "partly": Items(lambda i: {"a": 1.0} if i else {"a": 1.0, "b": 2.0}),
    "of two types": Items(lambda i: {"a": i / 2 if i else 0}),
    "ragged batches": torch_data.DataLoader(
        Items(item), 8, collate_fn=lambda items: np.zeros((8, items[0][1] + 1))
    ),
    "one datum only": torch_data.DataLoader(Items(item), sampler=[0] * N),
    "a sampler": torch_data.DataLoader(
        Items(item), sampler=torch_data.SubsetRandomSampler([1, 2, 3])
    ),
    "words": pd.DataFrame({"a": [1, 2], "b": ["u", "v"]}),
}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (CROOKED["ragged"], r"tokens.*\[1\] and of shape \[2\]. Pad them"),
        (CROOKED["text"], "hold no numbers"),
        (CROOKED["empty"], "There are no data in the source"),
        (CROOKED["partly"], "Item 1 .*no field b"),
        (
            CROOKED["of two types"],
            "Item 1 of the source has a float64 field a, but in item 0 it is int64",
        ),
        (CROOKED["ragged batches"], "Pad them"),
        (CROOKED["a sampler"], r"Subset\(dataset, indices\)"),
        (CROOKED["one datum only"], r"Subset\(dataset, indices\)"),
        (CROOKED["words"], r"not numbers: b. .*select_dtypes"),
        ({"a": TOKENS["tokens"], "b": Y[:3]}, r"a \[40, 7\], b \[3\]"),
    ],
)
def test_what_is_wrong_is_said(source, said):
    with pytest.raises(PvaeError, match=said):
        load(source)


def test_observation_and_levels_are_of_x():
    for options in ({"observation": "grey"}, {"levels": 9}):
        with pytest.raises(PvaeError, match="tokens, lengths, mask, are taken as given"):
            load(TOKENS, **options)
    with pytest.raises(PvaeError, match=r"no field x; the fields are tokens"):
        _ = load(TOKENS).test.x
    with pytest.raises(PvaeError, match=r"names x_train, x_test .*pvae.data.load"):
        as_data({"x_train": X, "x_test": X})


LATER = {
    "None before it": lambda i: (X[i], None if i < 3 else 1),
    "in later dicts": lambda i: {"x": X[i]} | ({"y": 1} if i > 2 else {}),
}


@pytest.mark.parametrize("kind", LATER)
def test_a_field_that_item_0_lacks_is_not_dropped(kind):
    with pytest.raises(PvaeError, match="Item 3 of the data has a field y, but item 0 does not"):
        as_data(Items(LATER[kind]))


@pytest.mark.parametrize("item", [("a text", 1), {"x": {"a": X[0]}, "y": 1}])
def test_labels_do_not_stand_for_an_x_without_numbers(item):
    with pytest.raises(PvaeError, match="x, the first value of an item of the data, is a"):
        as_data(Items(lambda i: item))


def test_parts_of_different_shapes_are_refused():
    with pytest.raises(PvaeError, match="whose parts have different shapes"):
        as_data(Items(lambda i: ((X[i], X[i][:2]), 1)))


def test_batches_that_hold_a_number_are_refused():
    loader = torch_data.DataLoader(Stream(), batch_size=None)
    with pytest.raises(PvaeError, match="hold one number as y, not a row for each datum"):
        as_data(loader)


def test_random_items_are_read_once_with_a_warning(recwarn):
    as_data(Items(lambda i: X[i]))
    assert not recwarn.list
    generator = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="Item 0 of the data differs each time"):
        as_data(Items(lambda i: X[i] + generator.random()))


def test_numbers_that_have_other_rows_are_left_out_with_a_warning():
    with pytest.warns(
        UserWarning, match=r"mask \[39\] of the data is left out: .* a row for each of the 40"
    ):
        assert as_data({"x": X, "mask": np.ones(39)}).names == ("x",)


def test_x_and_y_may_be_capital():
    assert as_data({"X": X, "Y": Y}).names == ("x", "y")
    assert as_data({"x": X, "X": X}).names == ("x", "X")


def test_x_is_not_replaced_by_a_field_of_one_part():
    with pytest.raises(PvaeError, match="There are x and in_train in the source, but no x_train"):
        load({"x": X, "in_train": np.ones((N, 2))})


def test_integers_that_do_not_fit_are_refused():
    with pytest.raises(PvaeError, match=r"integers of 2\^63 or more"):
        as_data({"x": X, "code": np.full(N, 2**63, np.uint64)})


def test_labels_that_are_read_on_demand_have_the_same_hash(monkeypatch):
    items = Items(lambda i: (X[i], Y[i]))
    want = as_data(items).hash
    monkeypatch.setattr(storage, "_fits", lambda nbytes, device: False)
    assert as_data(items).hash == want
