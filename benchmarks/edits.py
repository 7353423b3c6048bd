"""Attribute edits: codes of glyphs and of faces, moved along the direction of an attribute.

    python benchmarks/edits.py [--epochs 30] [--face-epochs 300]

1. Glyphs: bold, slanted, large and to the right. Every glyph exists with and without the attribute,
   so that an edit is compared with the true one.
2. Faces of the Olivetti set, if olivetti_faces.npz is in PVAE_DATA: glasses, and light from one
   side. The set has no attributes. The faces with glasses are listed in this script, and the light
   is measured in the pixels.

Each VAE is a run folder under --out, which continues if it was killed. The table and pictures are
written to benchmarks/results.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import Pair, rows_of_images, trained, write
from torch import Tensor

import pvae
from pvae import guides, models
from pvae.data import Data, Split, glyphs
from pvae.data.sources import root_folder

ATTRIBUTES = {
    "bold": ("weight", "regular", "bold"),
    "slanted": ("slant", "upright", "slanted"),
    "large": ("size", "small", "large"),
    "right": ("x", "-5", "5"),
}
"""A factor of the glyphs, and its values without and with the attribute."""

GLASSES = (
    (10, 19), (30, 32), (37, 38), (50, 59), (63, 64), (69, 69), (120, 121), (124, 139), (160, 161),
    (164, 169), (180, 182), (185, 185), (189, 192), (194, 194), (196, 199), (260, 279), (300, 309),
    (330, 339), (358, 369),
)  # fmt: skip
"""The first and the last face of each row of faces with glasses.

Source: Garreta & Moncecchi 2013, *Learning scikit-learn*, chapter 2.
"""

STEPS = (0.0, 0.5, 1.0, 1.5, 2.0)
SHOWN = 12
SCALE = 0.1  # of the faces' Gaussian; a learned scale starts wide and needs many more epochs


class Edited(NamedTuple):
    """Mean squared differences per pixel from the true glyphs, over n test glyphs."""

    num: int
    before: float
    mean: float
    probe: float
    floor: float


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30, help="of the glyphs' VAE")
    parser.add_argument("--face-epochs", type=int, default=300)
    parser.add_argument("--latent-dim", type=int, default=40)
    parser.add_argument("--hidden-dims", type=int, nargs="+", default=[400])
    parser.add_argument("--out", type=Path, default=Path("runs/edits"))
    return parser.parse_args()


def glyph_pair(data: Data, options: argparse.Namespace) -> Pair:
    torch.manual_seed(0)
    sizes = {"hidden_dims": options.hidden_dims}
    model = models.VAE(data.event_shape, options.latent_dim, **sizes)
    guide = guides.MeanField(data.event_shape, options.latent_dim, **sizes)
    return trained(options.out / "glyphs", (model, guide), data, epochs=options.epochs)


def places(factors: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Returns which glyphs lack an attribute and which have it, both [N]; some do neither."""
    factor, without, with_it = ATTRIBUTES[name]
    values = factors[:, list(glyphs.FACTORS).index(factor)]
    names = glyphs.FACTORS[factor]
    return values == names.index(without), values == names.index(with_it)


def true_edits(factors: Tensor, name: str) -> Tensor:
    """Returns ink [N, 1, 32, 32] of the glyphs of factors [N, 7], but with the attribute."""
    factor, _, with_it = ATTRIBUTES[name]
    column = list(glyphs.FACTORS).index(factor)
    changed = factors.clone()
    changed[:, column] = glyphs.FACTORS[factor].index(with_it)
    sizes = tuple(len(values) for values in glyphs.FACTORS.values())
    rows = np.ravel_multi_index(tuple(changed.T.numpy()), sizes)
    return glyphs.draw()["x"][torch.from_numpy(rows)] / 255


def directions_of(pair: Pair, part: Split, has: Tensor, how: str) -> dict[str, Tensor]:
    return pvae.directions(pair[1], part, has.long(), how=how)


def edit_glyphs(pair: Pair, data: Data, name: str) -> tuple[Edited, dict[str, Tensor]]:
    """Edits the test glyphs without an attribute; returns differences, and rows of images."""
    lacks, has = places(data.train.fields["factors"], name)
    part = data.train.take((lacks | has).nonzero()[:, 0])
    has = has[lacks | has]
    v = {how: directions_of(pair, part, has, how) for how in ("mean", "probe")}
    rows = places(data.test.fields["factors"], name)[0].nonzero()[:, 0]
    x, factors = data.test.x[rows], data.test.fields["factors"][rows]
    truth = true_edits(factors, name)
    drawn = torch.bernoulli(truth, generator=torch.Generator().manual_seed(0))
    steps = [[step] for step in STEPS]
    edits = {how: pvae.edit(*pair, x, along=along, by=steps) for how, along in v.items()}
    one = STEPS.index(1.0)

    def difference(images: Tensor) -> float:
        return float((images - truth).square().mean())

    found = Edited(
        len(rows),
        difference(edits["mean"][:, 0]),
        difference(edits["mean"][:, one]),
        difference(edits["probe"][:, one]),
        difference(pvae.reconstruct(*pair, drawn)),
    )
    few = torch.arange(0, len(rows), max(1, len(rows) // SHOWN))[:SHOWN]
    strips = {f"{name}: x": x[few]}
    strips |= {said(s): edits["mean"][few, i] for i, s in enumerate(STEPS)}
    return found, strips | {"truth": truth[few]}


def said(step: float) -> str:
    return "no step" if step == 0 else f"{step:g} step{'s' if step > 1 else ''}"


def light(x: Tensor) -> Tensor:
    """Returns the mean of the left half of images [N, C, H, W] minus that of the right, [N]."""
    left, right = x.chunk(2, -1)
    return left.mean((1, 2, 3)) - right.mean((1, 2, 3))


def faces() -> Data | None:
    """Returns the faces with the fields `glasses` and `light`, 0 or 1; None without the file."""
    path = root_folder(None) / "olivetti_faces.npz"
    if not path.exists():
        print(f"no faces: there is no file {path.name} in the folder PVAE_DATA", flush=True)
        return None
    with np.load(path) as file:
        x = torch.from_numpy(file["x"])
    glasses = torch.zeros(len(x), dtype=torch.int64)
    for first, last in GLASSES:
        glasses[first : last + 1] = 1
    lit = light(x / 255)
    fields = {"x": x, "glasses": glasses, "light": (lit > lit.median()).long()}
    return pvae.data.load(fields, observation="dequantize", levels=256)


def face_pair(data: Data, options: argparse.Namespace) -> Pair:
    torch.manual_seed(0)
    sizes = {"hidden_dims": options.hidden_dims}
    gaussian = {"likelihood": "gaussian", "scale": SCALE}
    model = models.VAE(data.event_shape, options.latent_dim, **gaussian, **sizes)
    guide = guides.MeanField(data.event_shape, options.latent_dim, **sizes)
    run = options.out / "faces"
    return trained(run, (model, guide), data, epochs=options.face_epochs, batch_size=60)


def edit_faces(pair: Pair, data: Data) -> tuple[str, dict[str, dict[str, Tensor]]]:
    """Edits the test faces; returns lines of the table, and rows of images of each attribute."""
    lines, strips = "", {}
    wears, right = classifier_of_glasses(data)
    for name in ("glasses", "light"):
        has = data.train.fields[name] == 1
        v = directions_of(pair, data.train, has, "mean")
        strips[name] = {}
        for there, sign in ((0, 1), (1, -1)):
            rows = (data.test.fields[name] == there).nonzero()[:, 0]
            x, by = data.test.x[rows], [[sign * step] for step in STEPS]
            edits = pvae.edit(*pair, x, along=v, by=by)
            what = f"{'+' if sign > 0 else '−'} {name}"
            each = [x, *edits.unbind(1)]
            titles = [f"{what}: x", *(f"{what}, {said(s)}" for s in STEPS)]
            # Rows of images are drawn as ink.
            strips[name] |= {t: 1 - e[:SHOWN] for t, e in zip(titles, each, strict=True)}
            if name == "glasses":
                cells = [f"{int(wears(images).sum())} of {len(rows)}" for images in each]
            else:
                cells = [f"{light(images).mean():+.3f}" for images in each]
            lines += f"| {what} | {' | '.join(cells).replace('-', '−')} |\n"
    return (
        f"""| edit | x | {" | ".join(map(said, STEPS))} |
| --- | --- |{" --- |" * len(STEPS)}
{lines}
Glasses: in how many of the test faces without (+) or with them (−) a classifier sees glasses; it
is right for {100 * right:.0f} % of the {len(data.test)} test faces. Light: the mean of the left
half of a face minus that of the right, grey values 0 to 1.
""",
        strips,
    )


def classifier_of_glasses(data: Data) -> tuple[Callable[[Tensor], np.ndarray], float]:
    """Returns logistic regression on principal components of pixels, and its test accuracy."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    x, y = data.train.tensors()[0], data.train.fields["glasses"]
    classifier = make_pipeline(PCA(50, random_state=0), LogisticRegression(max_iter=1000))
    classifier.fit(x.flatten(1).numpy(), y.numpy())

    def wears(images: Tensor) -> np.ndarray:
        return classifier.predict(images.flatten(1).numpy())

    return wears, float((wears(data.test.x) == data.test.fields["glasses"].numpy()).mean())


def main() -> None:
    options = parsed()
    data, people = pvae.data.load("glyphs"), faces()
    pair, found, strips = glyph_pair(data, options), {}, {}
    for name in ATTRIBUTES:
        found[name], strips[name] = edit_glyphs(pair, data, name)
    rows = "\n".join(
        f"| {name} | {each.num} | {' | '.join(f'{v:.4f}' for v in each[1:])} |"
        for name, each in found.items()
    )
    text = f"""# Attribute edits

## Glyphs

| attribute | glyphs | no step | mean difference | probe | the true glyph, reconstructed |
| --- | --- | --- | --- | --- | --- |
{rows}

Mean squared difference per pixel between p(x | z) after one step and the ink of the glyph that has
the attribute and is otherwise the same, over the test glyphs that lack it. The directions are from
all training glyphs of both kinds. The VAE has {options.latent_dim} latent dimensions and hidden
layers of {options.hidden_dims}, and learned {options.epochs} epochs without factors.

"""
    if people is not None:
        face_text, face_strips = edit_faces(face_pair(people, options), people)
        strips |= face_strips
        text += f"""## Faces

{face_text}
The VAE of the {len(people.train)} training faces has as many dimensions, a Gaussian likelihood of
scale {SCALE:g}, and learned {options.face_epochs} epochs. The test faces are other pictures, mostly
of the same people. The set has no attributes: the faces with glasses are from a published list, and
the light is measured, above or below its median.

"""
    path = write("edits", text, torch.device("cpu"), None, ["torch", "pyro-ppl", "pvae"])
    for name, each in strips.items():
        rows_of_images(path.with_name(f"{path.stem}-{name}.png"), each)


if __name__ == "__main__":
    main()
