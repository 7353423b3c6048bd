"""load(): splits, seeds, labels, defaults, and the errors for wrong arguments."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import pvae
from pvae.data import load
from pvae.errors import PvaeError


def lookup():
    """Maps the bytes of each scikit-learn digit to the labels it has there."""
    digits = load_digits()
    table = {}
    for image, label in zip(digits.images.astype(np.uint8), digits.target, strict=True):
        table.setdefault(image.tobytes(), set()).add(int(label))
    return table


def numbered(n=200, seed=0):
    """Returns integer images whose label can be read off the first pixel."""
    x = np.random.default_rng(seed).integers(0, 256, (n, 1, 4, 4), dtype=np.uint8)
    x[:, 0, 0, 0] = np.arange(n)
    return x, np.arange(n)


def test_digits_are_all_of_scikit_learns_and_split_alike_for_every_seed():
    a, b = load(observation="grey"), load(observation="grey", seed=7)
    assert (len(a.train), len(a.test), a.levels) == (1500, 297, 17)
    assert a.event_shape == (1, 8, 8)
    assert a.train.raw.dtype == torch.uint8
    assert a.train.raw.max() == 16
    assert torch.equal(a.train.raw, b.train.raw)
    assert torch.equal(a.test.x, b.test.x)
    both = torch.cat([a.train.raw, a.test.raw]).numpy().reshape(1797, -1)
    ours = sorted(image.tobytes() for image in both)
    assert ours == sorted(i.tobytes() for i in load_digits().images.astype(np.uint8))
    assert a.test.y.bincount().min() > 15


@pytest.mark.parametrize("validation", [0, 300])
def test_digit_labels_stay_with_their_images(validation):
    data, table = load(observation="grey", validation=validation, labels=True), lookup()
    for part in (data.train, data.validation, data.test):
        if part is None:
            continue
        for x, y in part.batches(100, shuffle=True):
            images = (x * 16).round().to(torch.uint8).numpy()
            for image, label in zip(images, y.tolist(), strict=True):
                assert label in table[image.tobytes()]


def test_labels_of_arrays_stay_with_their_images_through_both_splits():
    x, y = numbered()
    data = load((x, y), observation="grey", validation=50, labels=True, seed=3)
    sizes = [len(part) for part in (data.train, data.validation, data.test)]
    assert sizes == [130, 50, 20]
    seen = []
    for part in (data.train, data.validation, data.test):
        images, labels = part.tensors()
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)
        seen += labels.tolist()
    assert sorted(seen) == list(range(200))
    assert seen != list(range(200))


def test_labels_stay_with_images_that_are_drawn_once():
    x = np.zeros((100, 1, 2, 2), np.uint8)
    x[::2] = 255
    data = load(
        (x, (np.arange(100) + 1) % 2), observation="fixed", validation=20, labels=True, seed=1
    )
    for part in (data.train, data.validation, data.test):
        images, labels = part.tensors()
        assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_validation_is_the_end_of_a_permutation_and_the_rest_is_train():
    x, y = numbered()
    source = {"x_train": x, "y_train": y, "x_test": x[:5], "y_test": y[:5]}
    small, large = (load(source, validation=n, labels=True) for n in (30, 60))
    assert torch.equal(small.validation.y, large.validation.y[-30:])
    assert not set(large.train.y.tolist()) & set(large.validation.y.tolist())
    other = load(source, validation=30, labels=True, seed=1)
    assert not torch.equal(small.validation.y, other.validation.y)
    assert torch.equal(load(source, labels=True).train.y, torch.from_numpy(y))


@pytest.mark.parametrize("observation", ["dynamic", "fixed", "dequantize"])
def test_test_part_is_one_draw_whatever_the_rest(observation):
    torch.manual_seed(1)
    a = load(observation=observation)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    b = load(observation=observation, validation=123)
    assert torch.equal(a.test.x, b.test.x)
    assert torch.equal(a.test.x, next(b.test.batches(297))[0])
    assert torch.equal(a.test.x, a.test.x)
    assert a.test.hash == b.test.hash
    c = load(observation=observation, seed=1)
    assert not torch.equal(a.test.x, c.test.x)
    assert a.test.hash != c.test.hash
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state()), "loading drew from the global generator"


def test_fixed_draw_of_a_datum_does_not_depend_on_validation():
    x, y = numbered()
    source = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    whole = load(source, observation="fixed", labels=True)
    split = load(source, observation="fixed", labels=True, validation=70)
    for part in (split.train, split.validation):
        assert torch.equal(part.x, whole.train.x[part.y])
    assert not torch.equal(whole.train.x, whole.test.x), "train and test share their noise"


def test_validation_and_test_have_noise_of_their_own():
    x = np.full((100, 1, 8, 8), 128, np.uint8)
    data = load({"x_train": x, "x_test": x[:50]}, validation=50)
    assert not torch.equal(data.validation.x, data.test.x)


@pytest.mark.parametrize(
    ("array", "observation", "levels", "support"),
    [
        (np.arange(160, dtype=np.uint8).reshape(10, 4, 4), "dynamic", 256, "binary"),
        (np.arange(160, dtype=np.uint8).reshape(10, 16), "dynamic", 256, "binary"),
        (np.arange(160, dtype=np.int64).reshape(10, 1, 4, 4), "dynamic", 256, "binary"),
        (
            np.arange(100, 220, dtype=np.uint8).reshape(10, 3, 2, 2),
            "dequantize",
            256,
            "unit_interval",
        ),
        (np.arange(40).reshape(10, 4) % 2 == 0, "grey", 2, "binary"),
        ((np.arange(40) % 2).reshape(10, 4), "grey", 2, "binary"),
        ((np.arange(40) % 2).reshape(10, 4).astype(np.float64), "grey", None, "binary"),
        (np.linspace(0, 1, 40).reshape(10, 4), "grey", None, "unit_interval"),
        (np.linspace(-1, 1, 40).reshape(10, 4).astype(np.float16), "grey", None, "real"),
    ],
)
def test_defaults(array, observation, levels, support):
    for source in (array, torch.from_numpy(array)):
        data = load(source)
        assert (data.observation, data.levels, data.support) == (observation, levels, support)
        assert data.test.x.dtype == torch.float32
        assert data.train.tensors()[0].shape[1:] == data.event_shape
        stored = torch.float32 if levels is None else torch.uint8
        assert data.train.raw.dtype == stored


@pytest.mark.parametrize(
    ("observation", "support"),
    [
        ("dynamic", "binary"),
        ("fixed", "binary"),
        ("threshold", "binary"),
        ("grey", "unit_interval"),
        ("dequantize", "unit_interval"),
    ],
)
def test_support_is_that_of_x(observation, support):
    data = load(observation=observation)
    assert data.support == support
    for part in (data.train, data.test):
        (x,) = part.tensors()
        assert 0 <= x.min() <= x.max() <= 1
        assert bool(((x == 0) | (x == 1)).all()) == (support == "binary")


def test_floats_in_the_unit_interval_may_be_binarised():
    x = torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    data = load(x, observation="dynamic")
    assert data.support == "binary"
    assert set(data.train.tensors()[0].unique().tolist()) == {0.0, 1.0}


def test_bool_and_integer_values_survive():
    x = np.random.default_rng(0).integers(0, 2, (50, 6))
    for array in (x, x.astype(bool), x.astype(np.float32)):
        data = load({"x_train": array, "x_test": array})
        assert torch.equal(data.train.x, torch.from_numpy(x).float())
    hashes = {load({"x_train": a, "x_test": a}).test.hash for a in (x, x.astype(bool), x / 1.0)}
    assert len(hashes) == 1, "the hash is of the observed values, not of how they came"


def test_name_is_the_files_without_its_folder(tmp_path):
    np.save(tmp_path / "mine.npy", np.eye(20, dtype=np.uint8))
    assert load(tmp_path / "mine.npy").name == "mine.npy"
    assert load(np.eye(20)).name == "array"
    assert load("Digits").name == "digits"


def test_a_folder_with_a_datasets_name_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load("digits").train) == 1500


BAD = [
    ({"source": "mnits"}, ["mnits", "mnist"]),
    ({"source": "FASHION-MNITS"}, ["fashion_mnist"]),
    ({"source": "nowhere.npy"}, ["no file", "nowhere.npy"]),
    ({"observation": "gray"}, ["gray", "grey"]),
    ({"validation": 1500}, ["1500", "1499"]),
    ({"validation": -1}, ["-1", "1499"]),
    ({"validation": 0.5}, ["validation", "0.5", "integer"]),
    ({"seed": "a"}, ["seed", "integer"]),
    ({"source": np.eye(20), "labels": True}, ["labels=True", "no labels", "(x, y)"]),
    (
        {
            "source": {"x_train": np.eye(9), "y_train": np.arange(9), "x_test": np.eye(9)},
            "labels": True,
        },
        ["the test part", "no labels"],
    ),
    ({"source": np.eye(20), "observation": "dequantize"}, ["floats", "observation='grey'"]),
    (
        {"source": np.linspace(-2, 3, 40).reshape(10, 4), "observation": "dynamic"},
        ["-2", "3", "[0, 1]", "observation='grey'"],
    ),
    (
        {"source": np.linspace(0, 255, 40).reshape(10, 4), "observation": "threshold"},
        ["255", "observation='grey'"],
    ),
    ({"source": [[1, 2], [3, 4]]}, ["list", "array"]),
    ({"source": 3}, ["int", "tensor"]),
    ({"source": np.eye(5)[:1]}, ["one datum"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_arguments_are_said_in_one_message(arguments, words):
    with pytest.raises(PvaeError) as caught:
        load(**arguments)
    for word in words:
        assert word in str(caught.value)


def test_pvae_data_is_this_package():
    assert pvae.data.load is load
    assert set(pvae.data.names()) >= {"digits", "mnist", "omniglot", "cifar10", "svhn"}


def test_counts_of_a_named_dataset():
    counts, grey = (load("digits", observation=how) for how in ("counts", "grey"))
    assert torch.equal(counts.test.x, (grey.test.x * 16).round())
    assert counts.support == "counts"
    assert counts.test.hash != grey.test.hash


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "x is 1 with probability k / 16, else 0, drawn for each training minibatch"),
        ({"observation": "grey", "validation": 100}, "1400 training, 100 validation and 297 test"),
        ({"observation": "grey"}, "x is k / 16"),
        ({"observation": "dequantize"}, "x is (k + u) / 17"),
        ({"observation": "counts"}, "x is the count itself"),
        ({"source": np.ones((9, 4))}, "array, 8 training and 1 test data [4]; x is the value"),
        ({"source": np.linspace(0, 3, 36).reshape(9, 4)}, "; x is the value"),
    ],
)
def test_what_is_done_to_the_data_in_words(options, said):
    assert said in load(**options).in_words
