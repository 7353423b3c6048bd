"""Glyphs: every combination of the factors once, each picture with its caption."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from PIL import Image, ImageDraw, ImageFont

import pvae
from pvae.data import glyphs

VALUES = list(glyphs.FACTORS.values())


def words(row):
    """Returns a row of factors in words."""
    return [values[i] for values, i in zip(VALUES, row.tolist(), strict=True)]


def test_every_combination_of_factors_is_there_once():
    found = glyphs.draw()
    sizes = [len(values) for values in VALUES]
    assert len(found["x"]) == math.prod(sizes) == 14_976
    assert len(found["factors"].unique(dim=0)) == 14_976
    assert found["factors"].amax(0).tolist() == [size - 1 for size in sizes]
    assert torch.equal(found["y"], found["factors"][:, 0])
    assert found["x"].flatten(1).amax(1).min() > 100
    # Each of the 936 letters looks different.
    centred = found["x"][(found["factors"][:, 5:] == 1).all(1)]
    assert len(centred.flatten(1).unique(dim=0)) == 936


def test_a_picture_shows_its_factors():
    found = glyphs.draw()
    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
    for family, file in [("sans", "DejaVuSans-BoldOblique"), ("serif", "DejaVuSerif-BoldItalic"),
                         ("mono", "DejaVuSansMono-BoldOblique")]:  # fmt: skip
        wanted = ["q", family, "bold", "slanted", "medium", "5", "-2"]
        row = next(i for i, f in enumerate(found["factors"]) if words(f) == wanted)
        picture = Image.new("L", (32, 32))
        font = ImageFont.truetype(str(fonts / f"{file}.ttf"), 18)
        ImageDraw.Draw(picture).text((21, 14), "Q", fill=255, font=font, anchor="mm")
        assert np.array_equal(found["x"][row, 0].numpy(), np.asarray(picture))


def test_a_caption_names_all_factors_except_the_place():
    found = glyphs.draw()
    for row in range(0, 14_976, 491):
        letter, family, weight, slant, size, _, _ = words(found["factors"][row])
        said = [size, "bold" if weight == "bold" else "", "slanted" if slant == "slanted" else "",
                family, "letter", letter]  # fmt: skip
        assert glyphs.VOCABULARY.text(found["caption"][row]) == " ".join(filter(None, said))
    at = (found["factors"][:, 5:] == 0).all(1)
    assert len(found["caption"][at].unique(dim=0)) == len(found["caption"].unique(dim=0)) == 936


def test_glyphs_are_loaded_as_images_and_with_labels_have_all_their_fields():
    plain, whole = pvae.data.load("glyphs"), pvae.data.load("Glyphs", labels=True, seed=3)
    assert (len(plain.train), len(plain.test), plain.event_shape) == (12_976, 2_000, (1, 32, 32))
    (x,) = next(plain.train.batches(8))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert whole.train.names == ("x", "y", "factors", "caption")
    both = torch.cat([whole.train.fields["factors"], whole.test.fields["factors"]])
    assert len(both.unique(dim=0)) == 14_976
    x, y, factors, caption = next(whole.test.batches(16))
    assert torch.equal(y, factors[:, 0])
    drawn = glyphs.draw()
    rows = [int((drawn["factors"] == row).all(1).nonzero()[0]) for row in factors]
    assert torch.equal(caption, drawn["caption"][rows])
    assert not x.bool()[drawn["x"][rows] == 0].any()  # ink is where it was drawn


def test_a_program_receives_the_fields_that_it_names():
    seen = []

    def model(x, caption):
        seen.append((x.shape, caption.shape))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = z.sum(-1) + 0.01 * caption.float().sum(-1)
            logits = logits[..., None, None, None].expand(*logits.shape, 1, 32, 32)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean((-1, -2)).expand(-1, 2), 1.0).to_event(1))

    data = pvae.data.load("glyphs", labels=True)
    found = pvae.evaluate(model, guide, data, num_samples=2, num_data=3, estimators=[])
    assert np.isfinite(found.elbo).all()
    assert seen[-1][0][-3:] == (1, 32, 32)
    assert seen[-1][1][-1] == 6
