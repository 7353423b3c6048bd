"""The section on codes: its numbers are those of pvae.probe, its pictures those of the pair."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import make

import pvae


@pytest.fixture(scope="module")
def digits():
    return pvae.data.load("digits", observation="grey")


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    shape = (1, 8, 8)
    model = pvae.models.VAE(shape, latent_dim=3, likelihood="continuous_bernoulli")
    guide = pvae.guides.MeanField(shape, latent_dim=3)
    pvae.fit(model, guide, digits, epochs=4, mode="eager", progress=False)
    return {"model": model, "guide": guide}


@pytest.fixture
def page(numbers, read, digits, trained):
    return read(numbers(n=297), **trained, data=digits)


def cells(page, name: str, rows: int, columns: int) -> np.ndarray:
    """Returns the grey levels of a figure's images of 8 by 8, [rows, columns, 8, 8]."""
    (png,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page.figure(name))
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(png))))[..., 0]
    assert picture.shape == (9 * rows - 1, 9 * columns - 1)
    starts = [[(9 * i, 9 * j) for j in range(columns)] for i in range(rows)]
    return np.array([[picture[y : y + 8, x : x + 8] for y, x in row] for row in starts])


def levels(x: torch.Tensor) -> np.ndarray:
    return np.rint(x.squeeze(-3).numpy() * 255)


def test_the_table_holds_the_probes(page, digits, trained):
    expected = pvae.probe(trained["guide"], digits)
    rows = page.rows
    for row, name in zip(expected.rows, ("z", "PCA of x", "x itself"), strict=True):
        accuracies = [f"{a:.3f} ± {expected.se(a):.3f}" for a in (row.linear, row.knn)]
        assert f"{name} | {row.dim} | {accuracies[0]} | {accuracies[1]} |" in rows
    text = page.text("probes")
    assert "Accuracy on 297 test data" in text
    assert "from 1 500 training data." in text
    assert "does not receive the labels" in text
    assert not page.errors


def test_interpolations_stand_between_their_data(page, digits, trained):
    shown = cells(page, "interpolation", 5, 9)
    x = digits.test.x[:10]
    mean = pvae.reconstruct(trained["model"], trained["guide"], x)
    for column, expected in ((0, x[0::2]), (1, mean[0::2]), (7, mean[1::2]), (8, x[1::2])):
        assert np.abs(shown[:, column] - levels(expected)).max() <= 1
    middle = pvae.interpolate(trained["model"], trained["guide"], x[0::2], x[1::2], steps=7)
    assert np.abs(shown[:, 4] - levels(middle[:, 3])).max() <= 1
    assert "7 points" in page.text("interpolation")


def test_the_traversal_is_the_pairs_own(page, digits, trained):
    found = pvae.traverse(trained["model"], trained["guide"], digits, steps=9)
    assert np.abs(cells(page, "traversal", len(found.dims), 9) - levels(found.x)).max() <= 1
    assert len(found.dims) == 3
    text = page.text("traversal")
    assert "Traversal of z" in text
    first, second = (dim + 1 for dim in found.dims[:2])
    assert f"{first} ({found.variance[0]:.2f}), {second} (" in text


def test_a_hierarchy_says_what_moves(numbers, read, digits):
    model, guide, _ = make("two layers")
    torch.nn.init.normal_(guide.encoders[1].layers[0].weight, std=3)
    page = read(numbers(n=297), model=model, guide=guide, data=digits)
    assert "Each latent site moves along its own line" in page.text("interpolation")
    assert "z_2 is the first site that the model draws" in page.text("traversal")
    assert [r.split(" | ")[0] for r in page.rows if " ± 0.0" in r][:3] == [
        "z_1", "z_2", "z_1 and z_2",
    ]  # fmt: skip


def test_a_top_site_that_sleeps_has_its_reason_in_place_of_the_picture(numbers, read, digits):
    model, guide, _ = make("two layers")
    for parameter in guide.encoders[1].parameters():
        torch.nn.init.zeros_(parameter)
    page = read(numbers(n=297), model=model, guide=guide, data=digits)
    assert "No dimension of site 'z_2' is active" in page.text("traversal")
    assert "<img" in page.figure("interpolation")


def test_labels_that_the_pair_is_called_with_are_told(numbers, read, trained):
    guide = trained["guide"]
    data = pvae.data.load("digits", labels=True)
    page = read(numbers(n=297), guide=lambda x, y: guide(x), data=data)
    assert "may contain them" in page.text("probes")


def test_without_labels_or_images_the_page_is_complete(numbers, read, digits, trained):
    page = read(numbers(n=297), **trained, data=digits.test.x)
    assert not page.figure("probes")
    assert "<img" in page.figure("traversal")
    torch.manual_seed(0)
    pair = {
        "model": pvae.models.VAE((5,), latent_dim=2, likelihood="gaussian"),
        "guide": pvae.guides.MeanField((5,), latent_dim=2),
    }
    assert 'id="codes"' not in read(numbers(), **pair, data=torch.randn(40, 5)).source
    assert 'id="codes"' not in read(numbers()).source


def test_a_discrete_code_says_why_there_are_no_lines(numbers, read):
    model, guide, observation = make("Gaussian mixture")
    data = pvae.data.load("digits", observation=observation)
    page = read(numbers(n=297), model=model, guide=guide, data=data)
    assert "'y' of the guide Responsibilities is discrete" in page.text("interpolation")
    assert "takes a continuous vector" in page.text("traversal")
    assert "could not be drawn" not in page.text("codes")
