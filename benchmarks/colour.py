"""Bits per dimension of colour images: a VAE, VQ-VAEs with two priors, and a PixelCNN.

    python benchmarks/colour.py [--rows VAE "VQ-VAE" ...] [--jobs 1] [--budget 1]
    python benchmarks/colour.py --data small.npz --budget 0.1 --channels 20

The data are CIFAR-10 as JPEG images (`cifar10_jpeg`). Each row is a process of its own, and its
pairs are run folders under --out. A finished one is not trained or evaluated again, and a killed
one continues. A VQ-VAE is trained in stages: with a uniform prior; then a PixelCNN on its codes;
then both together, without training. The table, and a picture of test data, reconstructions and
samples, are written to benchmarks/results.
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import Pair, again_for, each_row, evaluated, rows_of_images, slug, trained, write
from numpy.typing import NDArray
from torch import Tensor, nn

import pvae
from pvae import guides, models
from pvae.data import Data
from pvae.distributions import heads
from pvae.estimators import CodeUse
from pvae.evaluation import Evaluation
from pvae.nn import ResidualDecoder, ResidualEncoder
from pvae.runtime import find_device

CODES, CODE_DIM, GROUPS = 512, 16, 10
"""Values of a code, size of its vector, and codes at each place of a map of a quarter of x's size.

The paper has 512 and 8 × 8 × 10 codes for CIFAR-10.
"""

EPOCHS = {"VAE": 60, "VQ-VAE": 60, "VQ-VAE-2": 60, "prior": 60, "Gated PixelCNN": 25}

PUBLISHED = {"VAE": "4.51", "VQ-VAE, uniform prior": "4.67", "Gated PixelCNN": "3.03"}
"""Bits/dim of CIFAR-10 itself in the papers, by other networks."""

_SHOWN = 16


class Encoder(nn.Module):
    """Convolutions to a map, with n vectors of D values at each place: [..., n, h, w, D]."""

    def __init__(self, event_shape: tuple[int, ...], n: int, d: int, channels: int) -> None:
        super().__init__()
        self.map = ResidualEncoder(event_shape, n * d, (channels // 2, channels))
        self.sizes = n, d

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x).unflatten(-1, self.sizes).movedim(-2, -4)


class Decoder(nn.Module):
    """The mirror: [..., n, h, w, D] to a head's f."""

    def __init__(self, out_shape: tuple[int, ...], n: int, d: int, channels: int) -> None:
        super().__init__()
        self.map = ResidualDecoder(n * d, out_shape, (channels, channels // 2))
        self.in_shape = (n, *self.map.in_shape[:-1], d)

    def forward(self, z: Tensor) -> Tensor:
        return self.map(z.movedim(-4, -2).flatten(-2))


class Flat(nn.Module):
    """A network of maps for a VAE, whose vectors are [..., Z] and [..., 2, Z]."""

    def __init__(self, network: Encoder | Decoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, t: Tensor) -> Tensor:
        if isinstance(self.network, Decoder):
            return self.network(t.unflatten(-1, self.network.in_shape))
        return self.network(t).flatten(-3)


def vae(data: Data, channels: int) -> Pair:
    """As many Gaussian latents as the VQ-VAE has codes, by the same networks."""
    shape, head = data.event_shape, _head(data)
    decoder = Decoder(head.out_shape, 1, GROUPS, channels)
    latent_dim = math.prod(decoder.in_shape)
    model = models.VAE(shape, latent_dim, likelihood=head, decoder=Flat(decoder))
    encoder = Flat(Encoder(shape, 2, GROUPS, channels))
    return model, guides.MeanField(shape, latent_dim, encoder=encoder)


def vq_vae(data: Data, channels: int, prior: nn.Module | None = None) -> Pair:
    shape, head = data.event_shape, _head(data)
    decoder = Decoder(head.out_shape, GROUPS, CODE_DIM, channels)
    sizes = {"num_codes": CODES, "code_dim": CODE_DIM, "prior": prior}
    model = models.VQVAE(shape, likelihood=head, decoder=decoder, **sizes)
    encoder = Encoder(shape, GROUPS, CODE_DIM, channels)
    return model, guides.NearestCode(model, shape, encoder=encoder)


def prior_of_codes(data: Data, channels: int) -> Pair:
    """A PixelCNN whose colours are the codes of a place."""
    maps = GROUPS, *(size // 4 for size in data.event_shape[1:])
    sizes = {"channels": GROUPS * max(1, channels // 20), "num_layers": 10}
    model = models.GatedPixelCNN(maps, likelihood="categorical", levels=CODES, **sizes)
    return model, guides.NoLatents()


def vq_vae_2(data: Data, channels: int, prior: nn.Module | None = None) -> Pair:
    """Maps of a half and a quarter of x's size, with a code at each place."""
    sizes = {"num_codes": CODES, "code_dim": 4 * CODE_DIM, "likelihood": _head(data)}
    down = {"channels": ((channels,), (channels,))}
    model = models.VQVAE2(data.event_shape, prior=prior, **sizes, **down)
    return model, guides.NearestCodes(model, data.event_shape, **down)


def prior_of_two_maps(data: Data, channels: int) -> Pair:
    sizes = {"channels": max(4, channels // 4), "num_layers": 10}
    maps = [[size // n for size in data.event_shape[1:]] for n in (2, 4)]
    return models.HierarchicalCodes(maps, CODES, **sizes), guides.NoLatents()


def pixel_cnn(data: Data, channels: int) -> Pair:
    sizes = {"channels": max(4, channels // 4), "num_layers": 10}
    model = models.GatedPixelCNN(data.event_shape, likelihood=_head(data, 10), **sizes)
    return model, guides.NoLatents()


def _head(data: Data, num_mixtures: int = 5) -> heads.LogisticMixture:
    return heads.LogisticMixture(data.levels, num_mixtures).sized(data.event_shape)


PAIRS: dict[str, Callable[[Data, int], Pair]] = {
    "VAE": vae,
    "VQ-VAE, uniform prior": vq_vae,
    "VQ-VAE, learned prior": lambda d, c: vq_vae(d, c, prior_of_codes(d, c)[0]),
    "VQ-VAE-2, uniform prior": vq_vae_2,
    "VQ-VAE-2, learned prior": lambda d, c: vq_vae_2(d, c, prior_of_two_maps(d, c)[0]),
    "Gated PixelCNN": pixel_cnn,
}
"""The pairs of the table. A VQ-VAE with both priors is one row to run."""

STAGES = {"VQ-VAE": (vq_vae, prior_of_codes), "VQ-VAE-2": (vq_vae_2, prior_of_two_maps)}

ROWS = ["VAE", *STAGES, "Gated PixelCNN"]


def lines_of(row: str) -> list[str]:
    """Returns the pairs of a row."""
    return [name for name in PAIRS if name.partition(",")[0] == row]


def do_row(row: str, folder: Path, data: Data, options: argparse.Namespace) -> None:
    """Trains and evaluates the pairs of a row, or what remains of them."""
    train = {"batch_size": options.batch_size, "device": options.device}

    def new(make: Callable[[Data, int], Pair]) -> Pair:
        torch.manual_seed(0)
        return make(data, options.channels)

    def epochs(name: str) -> dict[str, int]:
        return {"epochs": number_of_epochs(name, options)}

    first = lines_of(row)[0]
    run = folder / slug(first)
    pair = trained(run, new(PAIRS[first]), data, **epochs(row), **train)
    num_samples = 1 if row in STAGES else options.num_samples  # a point mass has one
    score = functools.partial(evaluated, num_samples=num_samples, device=options.device)
    score(run, pair, data, estimators=[CodeUse()] if row in STAGES else [])
    if row not in STAGES:
        return
    quantised, prior = STAGES[row]
    device = find_device(options.device)
    codes = pvae.codes(tuple(program.to(device) for program in pair), data)
    run_of_prior = folder / f"{slug(row)}-prior"
    density, nothing = trained(run_of_prior, new(prior), codes, **epochs("prior"), **train)
    score(run_of_prior, (density, nothing), codes, estimators=[])
    both = new(functools.partial(quantised, prior=density))
    pvae.warm_start(*both, run)
    run = folder / slug(lines_of(row)[1])
    score(run, both, data, estimators=[CodeUse()])
    torch.save(nn.ModuleList(both).state_dict(), run / "pair.pt")


def number_of_epochs(name: str, options: argparse.Namespace) -> int:
    """Returns the epochs of a row, or of `"prior"`, within the budget."""
    budget = options.prior_budget if name == "prior" else None
    return max(1, round((budget or options.budget) * EPOCHS[name]))


def loaded(name: str, folder: Path, data: Data, channels: int) -> Pair:
    """Returns a trained pair."""
    run, pair = folder / slug(name), PAIRS[name](data, channels)
    if not (run / "pair.pt").exists():
        return pvae.load(run, model=pair[0], guide=pair[1])
    nn.ModuleList(pair).load_state_dict(torch.load(run / "pair.pt", map_location="cpu"))
    return pair


def line(name: str, folder: Path, data: Data, channels: int) -> str:
    """Returns a row of the table."""
    found = Evaluation.load(folder / slug(name))
    sides = PAIRS[name](data, channels)
    parameters = {id(p): p.numel() for side in sides for p in side.parameters()}
    cells = [
        name,
        _bits(found.elbo, data),
        "—" if found.exact or found.one_code else _bits(found.log_px, data),
        "—" if found.exact else f"{_per_dim(found.kl, data).mean():.3f}",
        PUBLISHED.get(name, "—"),
        f"{sum(parameters.values()) / 1e6:.2f} M",
    ]
    return f"| {' | '.join(cells)} |"


def _per_dim(nats: Any, data: Data) -> NDArray[Any]:
    return nats / (math.prod(data.event_shape) * math.log(2))


def _bits(log_p: NDArray[Any], data: Data) -> str:
    bits = _per_dim(-log_p, data)
    return f"{bits.mean():.3f} ± {bits.std(ddof=1) / len(bits) ** 0.5:.3f}"


def table(done: list[str], folder: Path, data: Data, options: argparse.Namespace) -> str:
    """Returns the Markdown of all pairs."""
    names = [name for row in done for name in lines_of(row)]
    rows = "\n".join(line(name, folder, data, options.channels) for name in names)
    bits = {n: _per_dim(-Evaluation.load(folder / slug(n)).elbo, data).mean() for n in names}
    text = f"""# Bits per dimension of {data.name}

| pair | bound, bits/dim | with {options.num_samples} samples | of which the code | CIFAR-10 itself, published | parameters |
| --- | --- | --- | --- | --- | --- |
{rows}

From few bits to many: {", ".join(sorted(bits, key=bits.__getitem__))}.

"""  # noqa: E501
    for row in (row for row in done if row in STAGES):
        ours, theirs = (Evaluation.load(folder / slug(n)) for n in lines_of(row)[::-1])
        gain = _per_dim(ours.elbo - theirs.elbo, data)
        uses = ours.findings["code_use"].summary({})["sites"].items()
        said = "; ".join(
            f"{site} uses {use['used']}, with perplexity {use['perplexity']:.1f}"
            for site, use in uses
        )
        text += f"""The learned prior of the {row} gains {gain.mean():.3f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.3f} bits/dim, datum by datum.
Of {CODES} codes, {said}.

"""  # noqa: E501
    epochs = ", ".join(f"{n} {number_of_epochs(n, options)}" for n in EPOCHS)
    return f"""{text}Test data, {len(data.test)}; ± is the standard error over the data. The bound is the ELBO of the VAE,
log p(x, z(x)) of a VQ-VAE, and log p(x) itself of the PixelCNN. The VAE and the VQ-VAE have the
same residual networks, with {options.channels} channels, and 8 × 8 × {GROUPS} latents for images of
32 × 32: Gaussians, or codes of {CODES} values. The VQ-VAE-2 has maps of 16 × 16 and 8 × 8 codes.
Every likelihood is a mixture of discretised logistics for each pixel. Epochs: {epochs}.
JPEG images of quality 75 have fewer details than CIFAR-10 itself, and this is a part of it: these
numbers compare only among themselves. Published: van den Oord et al. 2017 (VAE, VQ-VAE) and 2016.

"""  # noqa: E501


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="cifar10_jpeg", help="or a file of 8-bit colour images")
    parser.add_argument("--budget", type=float, default=1.0, help="share of each row's epochs")
    parser.add_argument("--prior-budget", type=float, help="of the codes; that of the rows")
    parser.add_argument("--channels", type=int, default=256, help="of the residual networks")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--num-samples", type=int, default=100, help="of the VAE's bound")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", nargs="*", default=ROWS, choices=ROWS, metavar="ROW")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)  # of this process
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/colour"))
    options = parser.parse_args()
    folder = options.out / Path(options.data).stem
    folder.mkdir(parents=True, exist_ok=True)
    data = pvae.data.load(options.data, observation="grey")
    if options.row:
        do_row(options.row, folder, data, options)
        return
    done = each_row(
        options.rows,
        lambda row: again_for(row, folder / f"{slug(row)}.log"),
        lambda row: "\n".join(line(n, folder, data, options.channels) for n in lines_of(row)),
        options.jobs,
    )
    device = find_device(options.device)
    path = write("colour", table(done, folder, data, options), device, data, ["torch", "pvae"])
    x = data.test.observe(slice(0, _SHOWN))[0].to(device)
    shown, drawn = {"test data": x}, {}
    for name in (name for row in done for name in lines_of(row)):
        pair = loaded(name, folder, data, options.channels)
        model, guide = (program.to(device).eval() for program in pair)
        if not name.endswith(("uniform prior", "PixelCNN")):
            shown[f"{name.partition(',')[0]}, reconstructed"] = pvae.reconstruct(model, guide, x)
        torch.manual_seed(0)
        draw = pvae.generate if hasattr(model, "decoder") else lambda model, n: model(size=n)
        drawn[name] = draw(model, _SHOWN)
    rows_of_images(path.with_suffix(".png"), shown | drawn)
    sys.exit(len(done) < len(options.rows))


if __name__ == "__main__":
    main()
