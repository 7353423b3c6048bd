"""The pictures of the gallery page: rows of the benchmarks' pages, and pairs trained on digits.

    python docs/pictures.py cut      # from the pages in benchmarks/results
    python docs/pictures.py train    # trains the others on digits, some minutes on a CPU

Writes docs/gallery/*.png, reconstructions above samples where there are both.
"""

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyro
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import pvae
from pvae.cli.main import main

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "gallery"
PAGES = ROOT / "benchmarks" / "results"

PAIRS = """vae iwae_5 iwae_50 dreg_5 dreg_50 beta free_bits info mixture_prior vamp_prior flow_prior
full_covariance low_rank mixture_of_gaussians iaf spline_flow semi_amortised one_layer two_layers
ladder ladder_free_bits autoencoder sparse denoising contractive gaussian ppca gaussian_mixture
binomial discretized_logistic logistic_mixture convolutional""".split()  # noqa: SIM905
"""The rows of the page of benchmarks/gallery.py, from the top."""


def runs_of(ink: np.ndarray, gap: int = 3) -> list[slice]:
    """Returns where ink is, with white gaps of up to `gap` pixels."""
    at = np.flatnonzero(ink)
    ends = np.flatnonzero(np.diff(at) > gap)
    return [slice(a, b + 1) for a, b in zip(at[[0, *ends + 1]], at[[*ends, -1]], strict=True)]


AMD, INTEL = "cpu-amd-epyc-1-threads", "cpu-intel-r-xeon-r-processor-2-50ghz-1-threads"
"""The machines of the pages."""


def page(name: str, left: int, machine: str = AMD) -> list[np.ndarray]:
    """Returns the rows of a benchmark's page, without the labels left of `left`."""
    name, _, part = name.partition(" ")
    pixels = np.asarray(Image.open(PAGES / f"{name}-{machine}{part}.png").convert("L"))
    pixels = pixels[:, left:]
    return [pixels[row] for row in runs_of((pixels < 200).any(1))]


def save(name: str, strips: Sequence[np.ndarray], scale: int = 1) -> None:
    """Saves strips of grey values, one above the other."""
    wide = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((3, 3), (0, wide - s.shape[1])), constant_values=255) for s in strips]
    image = Image.fromarray(np.concatenate(padded).astype(np.uint8))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    OUT.mkdir(exist_ok=True)
    image.quantize(16).save(OUT / f"{name}.png", optimize=True)


def cut() -> None:
    """Cuts the rows of the benchmarks' pages."""
    _title, *rows = page("gallery", 160)
    save("test_data", [rows[0][:, :345]])
    for name, row in zip(PAIRS, rows, strict=True):
        save(name, [row[:, 356:700], row[:, 708:]])
    _test, made, gated = page("explicit", 110)
    save("made", [made])
    save("gated_pixelcnn", [gated])
    save("pixel_rnn", [page("explicit", 158, INTEL)[1]])
    save("pixel_vae", [page("explicit -pixel_vae", 225, INTEL)[1]])
    rows = page("vqvae", 160)
    save("vq_vae", [rows[1], rows[4]])
    save("vq_vae_2", [rows[7]])
    save("conditional_vq_vae_2", [row[:, :520] for row in rows[8:]])
    name = f"text_to_image-{INTEL}-emoji"
    emoji = Image.open(PAGES / f"{name}.png").convert("RGB").crop((168, 0, 1055, 372))
    emoji.resize((443, 186)).quantize(128).save(OUT / "dalle.png", optimize=True)
    name = f"moving_mnist-{INTEL}-moving_mnist_32"
    video = np.asarray(Image.open(PAGES / f"{name}.png").convert("L"))
    rows = runs_of((video[:, 128:] < 200).any(1))
    save("video_pixelcnn", [video[rows[at], 290:930] for at in (0, 1, 3, 4)])
    save("mvae", [row[:, 6:530] for row in page("multimodal -digits", 60, INTEL)])
    for task, left, right, shown in (
        ("between", 270, 780, (0, 2, 1, 4)),
        ("next", 160, 634, range(4)),
    ):
        rows = page(f"frames -{task}-moving_digits", left, INTEL)
        save(f"frames_{task}", [rows[at][:, : right - left] for at in shown])


TRAINED = {
    "conditional_vae": "--model ConditionalVAE --guide ConditionalMeanField --given y --lr 3e-3",
    "m2": "--model M2 --guide LabelThenCode --data.labelled 100 --data.labelled_share 0.25"
    " --loss SemiSupervised_ELBO --loss.alpha 1.5",
    "vaeac": "--model VAEAC --guide MaskedMeanField --data.mask any --lr 3e-3",
    "categorical": "--model CategoricalVAE --guide Categorical",
    "pixelcnn": "--model PixelCNN --model.channels 16 --model.num_blocks 2 --guide NoLatents"
    " --lr 3e-3",
    "conditional": "--model Conditional --guide NoLatents --given y --lr 3e-3"
    " --model.density pvae.models.GatedPixelCNN --model.density.event_shape [1,8,8]"
    " --model.density.channels 16 --model.density.num_layers 3 --model.density.context_shape [10]",
}
"""Pairs that no page of a benchmark shows yet, and the options of their training on digits."""


def row_of(images: Tensor) -> np.ndarray:
    """Returns images [N, 1, 8, 8] beside each other, 0 as white."""
    padded = F.pad(images.detach().squeeze(1), (1, 1, 1, 1))
    return 255 * (1 - padded.permute(1, 0, 2).flatten(1).clamp(0, 1).numpy())


def train(names: Sequence[str], epochs: int = 100) -> None:
    """Trains pairs on digits, and draws what they reconstruct and generate."""
    for name in names or TRAINED:
        with tempfile.TemporaryDirectory() as folder:
            end = ["--epochs", str(epochs), "--out", f"{folder}/run", "--progress", "false"]
            if main(["train", *shlex.split(TRAINED[name]), *end]):
                raise SystemExit(1)
            model, guide = pvae.load(f"{folder}/run")
        save(name, [*map(row_of, images_of(name, model, guide))], scale=3)


def images_of(name: str, model: pvae.pair.Program, guide: pvae.pair.Program) -> list[Tensor]:
    """Returns the rows of images that show a pair."""
    pyro.set_rng_seed(0)
    x, _ = pvae.data.load("digits", labels=True).test.tensors()
    x = x[:10]
    if name in ("conditional_vae", "conditional"):
        return [pvae.generate(model, 10, y=torch.arange(10), seed=seed) for seed in range(3)]
    if name == "vaeac":  # the upper half is known
        known = torch.zeros_like(x, dtype=torch.bool)
        known[:, :, :4] = True
        return [x, x.where(known, 0.5), pvae.generate(model, len(x), x, known)]
    samples = [pvae.generate(model, 10, seed=seed) for seed in range(2)]
    return samples if name == "pixelcnn" else [pvae.reconstruct(model, guide, x), *samples]


if __name__ == "__main__":
    if sys.argv[1] == "cut":
        cut()
    else:
        train(sys.argv[2:])
