"""Data that keep some of their labels, and minibatches that mix both kinds."""

import numpy as np
import pytest
import torch

from pvae.data import load
from pvae.errors import PvaeError

X = np.zeros((40, 3), dtype=np.float32)
Y = np.arange(40) % 4
PARTS = {"x_train": X, "y_train": Y, "x_test": X[:8], "y_test": Y[:8]}


def labels(**options):
    return load(PARTS, **options).train.y


def test_labels_are_kept_by_seed_and_the_others_are_unknown():
    whole, some = load("digits", labels=True), load("digits", labelled=105)
    y, kept = whole.train.y, some.train.y
    known = kept >= 0
    assert (kept[~known] == -1).all()
    assert (kept[known] == y[known]).all()
    assert sorted(kept[known].bincount().tolist()) == [10] * 5 + [11] * 5
    assert (some.train.known == known).all()
    assert (some.test.y == whole.test.y).all()
    assert some.train.names == ("x", "y")
    assert (load("digits", labelled=105).train.y == kept).all()
    assert (load("digits", labelled=105, seed=1).train.y != kept).any()
    assert "1500 training (105 labelled) and 297" in some.in_words


def test_validation_keeps_its_labels():
    data = load("digits", labelled=50, validation=200)
    assert (data.validation.y >= 0).all()
    assert int(data.train.known.sum()) == 50


def test_an_unbalanced_choice_is_a_plain_draw():
    kept = labels(labelled=30, balanced=False)
    counts = kept[kept >= 0].bincount()
    assert counts.sum() == 30
    assert counts.tolist() != [8, 8, 7, 7]
    assert sorted(labels(labelled=30)[labels(labelled=30) >= 0].bincount().tolist()) == [7, 7, 8, 8]


def test_labels_that_are_unknown_already_are_not_counted():
    parts = PARTS | {"y_train": np.where(np.arange(40) < 20, Y, -1)}
    kept = load(parts, labelled=20).train.y
    assert (kept[:20] == torch.from_numpy(Y[:20])).all()
    with pytest.raises(PvaeError, match=r"has 20 training data with a label\. Give 1 to 20"):
        load(parts, labelled=21)


def test_wrong_numbers_are_refused():
    for options, match in (
        ({"labelled": 41}, "labelled=41 is not valid: array has 40 training data with a label."),
        ({"labelled": 3}, "4 classes, and some would be without a single label. Give 4 or more"),
        ({"labelled": 0}, "labelled"),
        ({"labelled": 4, "balanced": False, "seed": 1}, "would be without a single label. Give mo"),
        ({"labelled_share": 0.5}, "array has only training data with a label"),
        ({"labelled": 4, "labelled_share": 1.0}, "labelled_share=1.0 is not valid: give the share"),
    ):
        with pytest.raises(PvaeError, match=match):
            labels(**options)
    with pytest.raises(PvaeError, match="labelled=2 is not valid: the training part of array has"):
        load(X, labelled=2)
    with pytest.raises(PvaeError, match=r"it needs classes, .* of array are torch"):
        load((X, X), labelled=2)
    few = PARTS | {"y_train": np.where(np.arange(40) < 2, 0, 1)}
    with pytest.raises(PvaeError, match="class 0 of array has 2 training data, and 5 labels"):
        load(few, labelled=10)


@pytest.mark.parametrize(("share", "counts"), [(0.25, [4, 4, 2]), (0.01, [1, 1, 1])])
def test_minibatches_hold_the_share(share, counts):
    data = load(PARTS, labelled=4, labelled_share=share)
    order = torch.Generator().manual_seed(0)
    batches = list(data.train.batches(16, shuffle=True, generator=order))
    assert [len(y) for _, y in batches] == [16, 16, 8]
    assert [int((y >= 0).sum()) for _, y in batches] == counts
    again = list(data.train.batches(16, shuffle=True, generator=torch.Generator().manual_seed(0)))
    assert all((a[1] == b[1]).all() for a, b in zip(batches, again, strict=True))
    assert [len(y) for _, y in data.train.batches(16)] == [16, 16, 8]
    assert int(torch.cat([y for _, y in data.train.batches(16)]).ge(0).sum()) == 4


def test_both_kinds_are_drawn_without_repeats_as_long_as_they_last():
    x = np.arange(40, dtype=np.float32)[:, None] / 40
    parts = PARTS | {"x_train": x, "x_test": x[:8]}
    data = load(parts, labelled=8, labelled_share=0.5)
    drawn, kept = (
        torch.cat(part) for part in zip(*data.train.batches(4, shuffle=True), strict=True)
    )
    rows = (drawn[:, 0] * 40).round().long()
    unlabelled, labelled = rows[kept < 0], rows[kept >= 0]
    assert len(unlabelled) == len(unlabelled.unique()) == 20
    assert labelled.bincount()[labelled].unique().tolist() == [2, 3]  # 8 labels for 20 draws
    assert data.train.known[labelled].all()


def test_a_part_of_one_kind_has_no_share_to_mix():
    train = load(PARTS, labelled=8, labelled_share=0.5).train
    known = train.known
    for rows in (known, ~known):
        part = train.take(torch.nonzero(rows)[:, 0])
        _, y = next(part.batches(100, shuffle=True))
        assert len(y) == len(part) == int(rows.sum())
    assert train.take(torch.arange(30)).labelled_share == 0.5
