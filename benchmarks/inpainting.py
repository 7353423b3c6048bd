"""Inpainting by one pair for any mask, beside a pair trained for each mask alone.

    python benchmarks/inpainting.py [--epochs 15] [--any-epochs 40] [--masks center block region]
    python benchmarks/inpainting.py --data $PVAE_DATA/omniglot28.npz --epochs 15 --any-epochs 40
    python benchmarks/inpainting.py --data $PVAE_DATA/olivetti_faces.npz --masks center block \
        --observation grey --likelihood discretized_logistic --batch-size 32 --epochs 200
    python benchmarks/inpainting.py --data digits --epochs 2 --any-epochs 2 --num-samples 20

The pairs are `VAEAC` with `MaskedMeanField` and convolutions. All are evaluated on the same test
data with the same masks: the bound on log p(x_missing | x_known, mask), and the PSNR of
E[x_missing | x_known] beside the mean of the training data and the training datum whose known
pixels are nearest. A VAE of p(x) is completed by importance resampling, and its number is a
difference of two bounds. Each pair is a run folder under --out. A finished one is not trained or
evaluated again, and a killed one continues. The table and a picture are written to
benchmarks/results.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Pair, evaluated, rows_of_images, trained, write
from torch import Tensor

import pvae
from pvae import guides, models
from pvae.data import Data, Mask, draw_masks
from pvae.estimators import Inpainting
from pvae.evaluation import Evaluation

ANY, VAE = "any mask", "VAE of p(x)"
_SHOWN, _DRAWS = 12, 4


def any_pair(data: Data, options: argparse.Namespace) -> Pair:
    """Returns a pair of the missing values."""
    sizes = {"latent_dim": options.latent_dim, "network": "conv", "channels": options.channels}
    model = models.VAEAC(data.event_shape, likelihood=options.likelihood, **sizes)
    return model, guides.MaskedMeanField(data.event_shape, **sizes)


def vae(data: Data, options: argparse.Namespace) -> Pair:
    """Returns a pair of all values."""
    sizes = {"latent_dim": options.latent_dim, "network": "conv"}
    down, up = options.channels, options.channels[::-1]
    model = models.VAE(data.event_shape, likelihood=options.likelihood, channels=up, **sizes)
    return model, guides.MeanField(data.event_shape, channels=down, **sizes)


def do(row: str, options: argparse.Namespace) -> tuple[Pair, dict[str, Evaluation]]:
    """Trains a pair and evaluates it for each mask, or what remains of it."""
    load = functools.partial(pvae.data.load, options.data, observation=options.observation)
    mask = {ANY: "any", VAE: None}.get(row, row)
    data, folder = load(mask=mask), options.out / Path(options.data).stem
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    pair = (vae if row == VAE else any_pair)(data, options)
    epochs = options.any_epochs if row == ANY else options.epochs
    run = folder / (mask or "vae")
    pair = trained(run, pair, data, batch_size=options.batch_size, lr=options.lr, epochs=epochs)
    found = {}
    num = {"num_samples": options.num_samples, "num_data": options.num_data}
    if row == VAE:
        for kind in options.masks:
            asked = [Inpainting(options.num_data // 5, kind, options.num_samples)]
            where = run.with_name(f"vae-on-{kind}")
            found[kind] = evaluated(where, pair, load(), estimators=asked, **num)
        return pair, found
    for kind in options.masks if row == ANY else [mask]:
        where = run.with_name(f"{mask}-on-{kind}")
        asked = [Inpainting(num_data=options.num_data)]
        found[kind] = evaluated(where, pair, load(mask=kind), estimators=asked, **num)
    return pair, found


def line(kind: Mask, row: str, found: Evaluation, alone: Evaluation | None) -> str:
    """Returns a row of the table."""
    own = found.findings["inpainting"]
    errors = own.summary(found)["psnr"]
    values = found.log_px if own.log_px_missing is None else own.log_px_missing
    cells = [kind, row, _mean(values), "—", *(_psnr(errors[n]) for n in errors)]
    if row == VAE:
        cells[3] = f"no bound; median ESS {np.median(own.ess):.0f}"
    elif alone is not None:
        difference = found.log_px - alone.log_px
        share = 100 * difference.mean() / abs(alone.log_px.mean())
        cells[3] = f"{share:+.1f} % ({_mean(difference, sign=True)})"
    khat = found.khat[np.isfinite(found.khat)]
    high = 100 * (khat > found.khat_threshold).sum() / max(1, len(khat))
    cells.append(f"{np.median(khat):.2f}, {high:.0f} %" if len(khat) else "—")
    return f"| {' | '.join(cells)} |".replace("-", "−")


def _mean(values: Any, *, sign: bool = False) -> str:
    se = values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():{'+' if sign else ''}.2f} ± {se:.2f}"


def _psnr(found: dict[str, float]) -> str:
    return "—" if found["mean"] is None else f"{found['mean']:.2f} ± {found['se'] or 0:.2f}"


def completions(pair: Pair, kind: Mask, options: argparse.Namespace) -> dict[str, Tensor]:
    """Returns what is known of some test images, and several completions by their means."""
    grey = pvae.data.load(options.data, observation=options.observation).test
    (x,) = grey.only(("x",)).observe(slice(_SHOWN))
    draw = torch.Generator().manual_seed(0)
    known = draw_masks(kind, x.shape[1:], len(x), draw)
    rows = {f"{kind}: known": torch.where(known, x, 0.5)}
    for i in range(_DRAWS):
        rows[f"{kind}: completion {i + 1}"] = pvae.generate(pair[0], len(x), x, known, seed=i)
    return rows | {f"{kind}: truth": x}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mnist", help="a name, or a file of images")
    parser.add_argument("--observation", help="how x is observed; by default as pvae.data.load")
    parser.add_argument("--likelihood", default="bernoulli")
    parser.add_argument("--masks", nargs="*", default=["center", "block", "region"])
    parser.add_argument("--epochs", type=int, default=15, help="of the pairs for one mask")
    parser.add_argument("--any-epochs", type=int, default=40, help="of the pair for any mask")
    parser.add_argument("--latent-dim", type=int, default=32)
    parser.add_argument("--channels", type=int, nargs="*", default=[16, 32])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--num-data", type=int, default=1000, help="test data that are evaluated")
    parser.add_argument("--out", type=Path, default=Path("runs/inpainting"))
    options = parser.parse_args()
    test = pvae.data.load(options.data, observation=options.observation).test
    options.num_data = min(options.num_data, len(test))
    pairs, found = {}, {}
    for row in (ANY, *options.masks, VAE):
        pairs[row], found[row] = do(row, options)
        print(f"{row}: {', '.join(found[row])} evaluated", flush=True)
    lines, pictures = [], {}
    for kind in options.masks:
        alone = found[kind][kind]
        lines.append(line(kind, f"`{kind}` alone", alone, None))
        lines.append(line(kind, ANY, found[ANY][kind], alone))
        lines.append(line(kind, VAE, found[VAE][kind], None))
        pictures |= completions(pairs[ANY], kind, options)
    rows = "\n".join(lines)
    name = Path(options.data).stem
    text = f"""# Inpainting of {name}: one pair for any mask

| mask | pair | log p(x_missing given x_known) | against the pair of this mask alone | PSNR, pair | PSNR, mean of training | PSNR, nearest in training | k̂: median, too high |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

{options.num_data:,} test data with the same masks in all rows of a mask (drawn once, by the seed of the data); the
VAE's inpainting is on a fifth of them with masks of its own. ± is the standard error over the data;
differences are paired. Bounds are L_{options.num_samples} in nats for each datum, on log p(x_missing | x_known, mask); that of
the VAE is a difference of two lower bounds, which is no bound and may be too high, and its k̂ is that
of log p(x). PSNR is in dB, of E[x_missing | x_known] (200 samples of the prior, or the weighted samples of the
VAE), of the error of all missing values together. The pairs for one mask and the VAE are trained for {options.epochs}
epochs, the pair for any mask (five kinds) for {options.any_epochs}.

"""  # noqa: E501
    named = pvae.data.load(options.data)
    path = write("inpainting", text, torch.device("cpu"), named, ["torch", "pyro-ppl"])
    rows_of_images(path.with_suffix(".png"), pictures)


if __name__ == "__main__":
    main()
