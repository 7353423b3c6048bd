"""Probes: scikit-learn's own numbers, on the codes of a guide."""

import dataclasses

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from zoo import make

import pvae
from pvae import PvaeError


class Half(torch.nn.Module):
    """A guide whose code is the upper half of the image, with some noise around it."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.flatten(1)[:, :32], 0.5).to_event(1))


@pytest.fixture(scope="module")
def digits():
    return pvae.data.load("digits", observation="grey")


def test_a_probe_is_what_scikit_learn_says_and_beats_chance(digits):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    probes = pvae.probe(Half(), digits, num_neighbors=3)
    assert (probes.num_train, probes.num_test) == (1500, 297)
    x, x_test = (p.x.flatten(1).numpy() for p in (digits.train, digits.test))
    y, y_test = digits.train.y.numpy(), digits.test.y.numpy()
    pca = PCA(32, random_state=0).fit(x)
    features = {
        "z": (x[:, :32], x_test[:, :32]),
        "PCA": (pca.transform(x), pca.transform(x_test)),
        "x": (x, x_test),
    }
    assert [(row.features, row.dim) for row in probes.rows] == [("z", 32), ("PCA", 32), ("x", 64)]
    for row, (train, test) in zip(probes.rows, features.values(), strict=True):
        scaler = StandardScaler().fit(train)
        linear = LogisticRegression(max_iter=1000).fit(scaler.transform(train), y)
        assert row.linear == pytest.approx(linear.score(scaler.transform(test), y_test))
        knn = KNeighborsClassifier(3).fit(train, y)
        assert row.knn == pytest.approx(knn.score(test, y_test))
    chance = np.bincount(y_test).max() / len(y_test)
    z, _, whole = probes.rows
    assert chance < 0.2 < 0.6 < z.linear < whole.linear  # half an image says less than all of it
    assert probes.se(0.9) == pytest.approx((0.9 * 0.1 / 297) ** 0.5)
    assert f"{z.linear:.3f} ± {probes.se(z.linear):.3f}" in str(probes)
    assert "297 data, 1,500 training data" in str(probes)


def test_a_code_without_x_is_at_chance(digits):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 1.0).to_event(1))

    z = pvae.probe(guide, digits).rows[0]
    assert z.linear < 0.2
    assert z.knn < 0.2


def test_a_probe_of_fewer_data_repeats_and_uses_so_many(digits):
    few = {"num_train": 200, "num_test": 50}
    first, second = pvae.probe(Half(), digits, **few), pvae.probe(Half(), digits, **few)
    assert first == second
    assert (first.num_train, first.num_test) == (200, 50)
    assert first != pvae.probe(Half(), digits, **few, seed=1)


def test_labels_belong_to_their_codes_however_the_data_are_drawn():
    # Stored rows and labels are drawn together, and x is observed once, for codes and x alike.
    data = pvae.data.load("digits")  # binarised anew for each minibatch
    seen = []

    class Watch(Half):
        def forward(self, x):
            seen.append(x)
            super().forward(x)

    probes = pvae.probe(Watch(), data, num_train=400)
    assert sum(len(x) for x in seen) == 400 + 297
    assert probes.rows[0].linear > 0.5


def test_a_hierarchy_has_a_probe_for_each_site_and_one_for_all(digits):
    _, guide, _ = make("two layers")
    rows = pvae.probe(guide, digits).rows
    assert [(row.features, row.dim) for row in rows] == [
        ("z_1", 4), ("z_2", 3), ("z_1 and z_2", 7), ("PCA", 7), ("PCA", 4), ("PCA", 3), ("x", 64)
    ]  # fmt: skip


def test_a_class_is_probed_as_one_column_for_each():
    def guide(x, y):
        with pyro.plate("data", len(x)):
            logits = 50 * torch.nn.functional.one_hot((7 * y + 3) % 10, 10).float()
            pyro.sample("y", dist.Categorical(logits=logits))

    z, *_ = pvae.probe(guide, pvae.data.load("digits", labels=True)).rows
    assert (z.features, z.dim) == ("y", 10)
    assert z.linear == z.knn == 1


def test_probes_say_what_they_need(digits):
    unlabelled = dataclasses.replace(digits.train, fields={"x": digits.train.raw})
    with pytest.raises(PvaeError, match="the train part of the data has none"):
        pvae.probe(Half(), dataclasses.replace(digits, train=unlabelled))
    with pytest.raises(PvaeError, match="needs labels"):
        pvae.probe(Half(), torch.zeros(5, 1, 8, 8))
    fields = {"x": digits.train.raw, "y": torch.zeros(1500, dtype=torch.long)}
    same = dataclasses.replace(digits.train, fields=fields)
    with pytest.raises(PvaeError, match=r"All \d+ training data have the label \d"):
        pvae.probe(Half(), dataclasses.replace(digits, train=same))
    with pytest.raises(PvaeError, match="num_train=1"):
        pvae.probe(Half(), digits, num_train=1)
    with pytest.raises(PvaeError, match="num_neighbors=0"):
        pvae.probe(Half(), digits, num_neighbors=0)
    with pytest.raises(PvaeError, match="no latent site"):
        pvae.probe(lambda x: None, digits)


def test_unknown_labels_are_no_class():
    few = pvae.data.load("digits", observation="grey", labelled=100)
    probes = pvae.probe(Half(), few)
    assert (probes.num_train, probes.num_test) == (100, 297)
    assert min(row.linear for row in probes.rows) > 0.4
    y = torch.full_like(few.train.y, -1)
    none = dataclasses.replace(few.train, fields=few.train.fields | {"y": y})
    with pytest.raises(PvaeError, match="0 of the 1500 labels of the train part are known"):
        pvae.probe(Half(), dataclasses.replace(few, train=none))
