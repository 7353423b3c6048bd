"""The pictures: which are drawn for which data, from which values, and what stands in for them."""

import base64
import io
import re
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image

import pvae.data
from pvae.report.images import Pictures, grid
from pvae.report.subject import Subject


def images(page, panel: str) -> list[np.ndarray]:
    part = page.source.partition(f'<figure id="{panel}">')[2].partition("</figure>")[0]
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', part)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(f)))) for f in found]


def test_reconstructions_stand_beneath_their_data(numbers, read, pair, predictive):
    x = torch.rand(40, 1, 8, 8)
    page = read(numbers(), **pair, data=(x,))
    (shown,) = images(page, "reconstructions")
    first = np.rint(x[0, 0].numpy() * 255)
    assert np.abs(shown[:8, :8, 0] - first).max() <= 1
    assert np.abs(shown[9:17, :8, 0] - (255 - first)).max() <= 1
    assert shown[8, :, 3].max() == 0


def test_a_model_that_cannot_generate_says_so_in_place_of_samples(numbers, read, pair, predictive):
    page = read(numbers(), **pair, data=torch.rand(40, 1, 8, 8))
    assert "Line cannot generate: its forward needs data." in page.text("samples")
    assert len(images(page, "reconstructions")) == 1


def test_a_figure_that_breaks_keeps_the_page(numbers, read, pair, predictive):
    predictive.reconstruct = lambda *_, site: 1 / 0
    predictive.generate = lambda model, size, *batch, site: torch.rand(size, 1, 8, 8)
    page = read(numbers(), **pair, data=torch.rand(40, 1, 8, 8))
    assert "ZeroDivisionError: division by zero" in page.text("reconstructions")
    assert len(images(page, "samples")) == 1


def test_least_likely_are_the_lowest_with_their_own_numbers(numbers, read, pair, predictive):
    log_px = np.linspace(-10, -50, 40)
    log_px[7] = -np.inf
    log_px[8] = np.nan
    with np.errstate(invalid="ignore"):
        page = read(numbers(log_px=log_px), **pair, data=torch.rand(40, 1, 8, 8))
    text = page.text("least_likely")
    assert re.findall(r"index (\d+)", text) == ["7", "39", "38", "37", "36"]
    assert text.index("−∞ index 7") < text.index("−50.00 index 39")
    assert len(images(page, "least_likely")) == 5


def test_numbers_of_other_data_are_not_matched(numbers, read, pair, predictive):
    page = read(numbers(), **pair, data=torch.rand(41, 1, 8, 8))
    assert "40 data were evaluated and 41" in page.text("least_likely")


def test_latent_plane_only_for_two_dimensions(numbers, read, pair, predictive, monkeypatch):
    monkeypatch.setattr(Subject, "standard_normal", lambda self, site: True)
    batch = (torch.rand(40, 1, 8, 8), torch.arange(40) % 3)
    assert "Latent space" not in read(numbers(), **pair, data=batch).text()
    seen = []
    decode = predictive.decode
    predictive.decode = lambda model, z, *batch, site: (
        seen.append(z["z"]) or decode(model, z, *batch, site=site)
    )
    predictive.encode = lambda guide, *batch: {"z": batch[0].flatten(1)[:, :2]}
    page = read(numbers(), **pair, data=batch)
    text = page.text("latent")
    assert "equal probability under the standard normal prior" in text
    assert "coloured by label" in text
    assert {"--class-0", "--class-1", "--class-2"} <= set(re.findall(r"--class-\d", page.source))
    (picture,) = images(page, "latent")
    assert picture.shape[:2] == (112, 112)
    (z,) = seen
    # The quantiles of a standard normal, from the upper left corner to the lower right.
    edge = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.5 / 14)))
    assert z[0].tolist() == pytest.approx([edge, -edge], abs=1e-4)
    assert z[-1].tolist() == pytest.approx([-edge, edge], abs=1e-4)


@pytest.mark.parametrize(("loc", "expected"), [(0.0, True), (1.0, False)])
def test_standard_normal_prior_is_recognised(loc, expected):
    class Model(torch.nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(loc * torch.ones(len(x), 2), 1).to_event(1))
                pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1).to_event(1))

    model, x = Model(), torch.randn(9, 2)
    state = torch.get_rng_state()
    assert Subject(model, guide, x).standard_normal("z") is expected
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [1, 2, 12])
def test_vectors_are_drawn_as_vectors(numbers, read, pair, predictive, size):
    predictive.generate = lambda model, size_, *batch, site: torch.randn(size_, size)
    page = read(numbers(), **pair, data=torch.randn(40, size))
    assert "could not be drawn" not in page.text()
    assert not images(page, "reconstructions")
    for panel in ("reconstructions", "samples"):
        part = page.source.partition(f'<figure id="{panel}">')[2].partition("</figure>")[0]
        assert "<svg" in part


@pytest.mark.parametrize("event", [(3, 64, 64), (1, 28, 28), (8, 8)])
def test_images_of_every_kind(numbers, read, pair, predictive, event):
    predictive.generate = lambda model, size, *batch, site: torch.rand(size, int(np.prod(event)))
    page = read(numbers(), **pair, data=torch.rand(40, *event))
    assert len(images(page, "samples")) == len(images(page, "reconstructions")) == 1


def test_data_of_another_shape_have_no_pictures(numbers, read, pair, predictive):
    page = read(numbers(), **pair, data=torch.rand(40, 5, 4, 4))
    assert "5 × 4 × 4 are neither images nor vectors" in page.text("reconstructions")


def test_a_real_dataset(numbers, read, pair, predictive):
    data = pvae.data.load("digits")
    page = read(numbers(n=len(data.test)), **pair, data=data)
    (shown,) = images(page, "reconstructions")
    x = data.test.tensors()[0]
    assert np.array_equal(shown[:8, :8, 0], (x[0, 0] * 255).byte().numpy())
    for size in (len(data.train), len(data.test)):
        assert f"{size:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") in page.source


def test_values_outside_the_unit_interval_are_rescaled_and_it_is_said():
    x = np.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    look = Pictures.of(x)
    assert look.pixels(x)[0, 0, 0].tolist() == [0, 0, 0]
    assert look.pixels(x)[0, -1, -1].tolist() == [255, 255, 255]
    assert "Black is -1 and white 1" in look.note
    assert Pictures.of(np.ones((1, 8, 8))).note == ""


def test_colours_keep_their_channels():
    x = np.zeros((1, 3, 2, 2))
    x[0, 1:] = 1
    x[0, 1] = 0.4
    source = str(grid(Pictures().pixels(x), 1, 'a "grid"'))
    assert "&#34;grid&#34;" in source
    png = base64.b64decode(source.partition("base64,")[2].partition('"')[0])
    assert np.array(Image.open(io.BytesIO(png)))[0, 0].tolist() == [0, 102, 255, 255]


def test_matplotlib_stays_as_the_user_left_it():
    program = (
        "import sys, matplotlib\n"
        "matplotlib.rcParams['axes.facecolor'] = 'pink'; before = matplotlib.rcParams.copy()\n"
        "import numpy as np\n"
        "from pvae.report import charts\n"
        "svg = charts.histogram(np.arange(3.0), 3, 'three', 'nats', (1, 'one'))\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert '<svg' in svg and 'ffc0cb' not in svg\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_classifier_has_no_pictures_of_x(tmp_path):
    digits = pvae.data.load("digits", labels=True)
    pair = pvae.models.Classifier((1, 8, 8)), pvae.guides.NoLatents()
    found = pvae.evaluate(*pair, digits, num_samples=1, estimators=[], progress=False)
    assert "bits_per_dim" not in found.missing
    path = pvae.write_report(
        tmp_path / "page.html", found, model=pair[0], guide=pair[1], data=digits
    )
    page = path.read_text()
    assert "could not be drawn" not in page
    assert '<figure id="least_likely">' in page
    assert '<figure id="samples">' not in page
    assert "On this page, log p(x) stands for log p(y | x)." in page


def test_samples_have_a_row_for_each_label_that_is_given(tmp_path):
    def model(x=None, y=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            p = (0.05 + 0.09 * y)[..., None, None, None] * torch.ones(1, 8, 8)
            return pyro.sample("x", dist.Bernoulli(p + 0 * z.sum()).to_event(3), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))

    digits = pvae.data.load("digits", labels=True)
    found = pvae.evaluate(model, guide, digits, num_samples=2, estimators=[], progress=False)
    path = pvae.write_report(tmp_path / "page.html", found, model=model, guide=guide, data=digits)
    source = path.read_text().partition('<figure id="samples">')[2]
    (image,) = re.findall(r'src="data:image/png;base64,([^"]+)"', source.partition("</figure>")[0])
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(image))))
    rows = [pixels[9 * c : 9 * c + 8, :8, 0] for c in range(10)]
    expected = [np.rint(255 * (0.05 + 0.09 * c)) for c in range(10)]
    assert all(np.abs(row - level).max() <= 1 for row, level in zip(rows, expected, strict=True))
