"""A VQ-VAE in stages: codes, a prior of the codes, and the pair of both, beside a Gaussian VAE.

    python benchmarks/vqvae.py [--data mnist] [--epochs 50] [--prior-epochs 50]
    python benchmarks/vqvae.py --data digits --epochs 5 --prior-epochs 5

1. VQVAE and NearestCode with a uniform prior;
2. GatedPixelCNN on the codes of 1, whose log p(z) is exact;
3. the pair of 1 with the prior of 2, which is not trained any more;
4. VAE and MeanField with the same residual networks;
5. VQVAE2 and NearestCodes, HierarchicalCodes on its codes, and the pair of both; all of it again
   with a prior of codes given the label.

Each is a run folder under --out. A finished one is not trained or evaluated again, and a killed one
continues. The table, and a picture of test data, reconstructions and samples, are written to
benchmarks/results.
"""

import argparse
import functools
import math
from pathlib import Path
from typing import Any

import torch
from common import evaluated, rows_of_images, trained, write
from torch import Tensor, nn

import pvae
from pvae import guides, models
from pvae.estimators import CodeUse
from pvae.nn import ResidualDecoder, ResidualEncoder

_SHOWN = 16


class Encoder(nn.Module):
    """The VQ-VAE's encoder, then a linear layer to [..., 2, Z]."""

    def __init__(self, event_shape: tuple[int, ...], code_dim: int, latent_dim: int, **net: Any):
        super().__init__()
        self.map = ResidualEncoder(event_shape, code_dim, **net)
        self.out = nn.Linear(math.prod(self.map.map_shape) * code_dim, 2 * latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.map(x).flatten(-3)).unflatten(-1, (2, -1))


class Decoder(nn.Module):
    """A linear layer from [..., Z], then the VQ-VAE's decoder."""

    def __init__(self, event_shape: tuple[int, ...], code_dim: int, latent_dim: int, **net: Any):
        super().__init__()
        self.map = ResidualDecoder(code_dim, event_shape, **net)
        self.into = nn.Linear(latent_dim, math.prod(self.map.in_shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.map(self.into(z).unflatten(-1, self.map.in_shape))


def cell(values: Any) -> str:
    """Returns a mean with its standard error, with the sign of −log p."""
    return f"{-values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=50, help="of the VQ-VAE and the VAE")
    parser.add_argument("--prior-epochs", type=int, default=50)
    parser.add_argument("--prior-channels", type=int, default=64)
    parser.add_argument("--num-codes", type=int, default=32)
    parser.add_argument("--code-dim", type=int, default=16)
    parser.add_argument("--latent-dim", type=int, default=20, help="of the VAE")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--num-samples", type=int, default=500, help="of the VAE's bound")
    parser.add_argument("--precision", default="float32", help="of training; or bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/vqvae"))
    options = parser.parse_args()
    folder = options.out / options.data
    folder.mkdir(parents=True, exist_ok=True)
    data, labelled = pvae.data.load(options.data), pvae.data.load(options.data, labels=True)
    shape, codes = data.event_shape, options.num_codes
    # Each block lets a code see farther than its place. With two blocks and 128 codes, the empty
    # corners of 500 digits had 85 different codes, which no prior can foresee.
    narrow = {"channels": (32, 64), "num_blocks": 1}
    wide = {"channels": (64, 32), "num_blocks": 2}
    how = {"batch_size": options.batch_size, "lr": options.lr, "precision": options.precision}
    fit = functools.partial(trained, **how, device=options.device)
    score = functools.partial(
        evaluated, num_samples=options.num_samples, estimators=[CodeUse()], device=options.device
    )

    def quantised(prior: nn.Module | None = None) -> Any:
        torch.manual_seed(0)
        sizes = {"num_codes": codes, "code_dim": options.code_dim, "prior": prior}
        model = models.VQVAE(shape, **sizes, **wide)
        return model, guides.NearestCode(model, shape, **narrow)

    vq = fit(folder / "vq", quantised(), data, epochs=options.epochs)
    uniform = score(folder / "vq", vq, data)

    maps = pvae.codes(folder / "vq")
    torch.manual_seed(0)
    wide_prior = options.prior_channels
    density = models.GatedPixelCNN(
        maps.event_shape, wide_prior, likelihood="categorical", levels=codes
    )
    prior = fit(folder / "prior", (density, guides.NoLatents()), maps, epochs=options.prior_epochs)
    log_pz = score(folder / "prior", prior, maps)

    both = quantised(density)
    pvae.warm_start(*both, folder / "vq")
    learned = score(folder / "both", both, data)

    torch.manual_seed(0)
    latent = options.latent_dim
    decoder = Decoder(shape, options.code_dim, latent, **wide)
    encoder = Encoder(shape, options.code_dim, latent, **narrow)
    vae = (
        models.VAE(shape, latent, decoder=decoder),
        guides.MeanField(shape, latent, encoder=encoder),
    )
    vae = fit(folder / "vae", vae, data, epochs=options.epochs)
    gaussian = score(folder / "vae", vae, data)

    def two_maps(kind: Any, prior: nn.Module | None = None) -> Any:
        torch.manual_seed(0)
        sizes = {"num_codes": codes, "code_dim": options.code_dim, "prior": prior}
        model = kind(shape, channels=((64, 32), (64,)), **sizes)
        return model, guides.NearestCodes(model, shape, ((32, 64), (64,)), num_blocks=1)

    vq2 = fit(folder / "vq2", two_maps(models.VQVAE2), data, epochs=options.epochs)
    two = {"VQ-VAE-2, uniform prior": score(folder / "vq2", vq2, data)}
    device = pvae.runtime.device.find_device(options.device)
    maps2 = pvae.codes(tuple(program.to(device) for program in vq2), labelled)
    drawn = {}
    for name, kind, classes in (
        ("VQ-VAE-2, learned prior", models.VQVAE2, None),
        ("VQ-VAE-2, learned prior, given the label", models.ConditionalVQVAE2, 10),
    ):
        torch.manual_seed(0)
        density2 = models.HierarchicalCodes(
            vq2[0].map_shapes, codes, wide_prior, num_classes=classes
        )
        run = folder / f"vq2-{kind.__name__.lower()}"
        fit(
            run.with_name(f"{run.name}-prior"), (density2, guides.NoLatents()), maps2,
            epochs=options.prior_epochs,
        )  # fmt: skip
        drawn[name] = two_maps(kind, density2)
        pvae.warm_start(*drawn[name], folder / "vq2")
        two[name] = score(run, drawn[name], labelled if classes else data)

    use = learned.findings["code_use"].summary({})["sites"]["z"]
    gain = learned.elbo - uniform.elbo
    bound = gaussian.bounds[options.num_samples]
    text = f"""# VQ-VAE in stages on {options.data}: {options.epochs} epochs, {options.prior_epochs} of the prior

| pair | −log p(x, z(x)), nats | −log p(z(x)), nats |
| --- | --- | --- |
| VQ-VAE, uniform prior | {cell(uniform.elbo)} | {math.prod(maps.event_shape) * math.log(codes):.2f} |
| VQ-VAE, {type(density).__name__} prior | {cell(learned.elbo)} | {cell(log_pz.elbo)} |
{chr(10).join(f"| {name} | {cell(each.elbo)} | {cell(-each.kl)} |" for name, each in two.items())}

The learned prior gains {gain.mean():.2f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.2f} nats, datum by datum.
Of {codes} codes, {use["used"]} occur ({100 * use["used"] / codes:.0f} %), with perplexity {use["perplexity"]:.1f}.

| pair | −ELBO, nats | −L_{options.num_samples}, nats |
| --- | --- | --- |
| VAE with the same networks, {latent} Gaussian latents | {cell(gaussian.elbo)} | {cell(bound)} |

Test data, {len(data.test)}; ± is the standard error over the data. log p(x, z(x)) is a lower bound
on log p(x) for the one code that the encoder gives, or on log p(x|y) for a prior given the label y.
Codes are maps of {" × ".join(map(str, maps.event_shape))}; those of the VQ-VAE-2 of
{" and ".join(" × ".join(map(str, shape)) for shape in vq2[0].map_shapes)}.

"""  # noqa: E501
    path = write("vqvae", text, device, data, ["torch", "pyro-ppl", "pvae"])
    x = data.test.x[:_SHOWN].to(device)
    rows = {
        "test data": x,
        "VQ-VAE, reconstructed": pvae.reconstruct(*both, x),
        "VAE, reconstructed": pvae.reconstruct(*vae, x),
        "VQ-VAE, uniform prior": pvae.generate(vq[0], _SHOWN),
        "VQ-VAE, learned prior": pvae.generate(both[0], _SHOWN),
        "… 16 more": pvae.generate(both[0], _SHOWN, seed=1),
        "VAE": pvae.generate(vae[0], _SHOWN),
    }
    for name, (model, _) in drawn.items():
        model.to(device)
        if "label" not in name:
            rows[name] = pvae.generate(model, _SHOWN)
            continue
        for y in range(10):
            labels = torch.full((_SHOWN,), y, device=device)
            rows[f"VQ-VAE-2, given {y}"] = pvae.generate(model, _SHOWN, y=labels)
    rows_of_images(path.with_suffix(".png"), rows)


if __name__ == "__main__":
    main()
