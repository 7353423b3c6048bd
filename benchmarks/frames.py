"""A frame between two frames, and the futures of a still.

    PVAE_DATA=… python benchmarks/frames.py between [--data clips] [--epochs 60]
    python benchmarks/frames.py between --data moving_digits --levels 17 --epochs 20
    python benchmarks/frames.py next [--data moving_digits] [--epochs 100]
    PVAE_DATA=… python benchmarks/frames.py next --data moving_mnist_32 --window 11 --epochs 40

- between: FrameBetween, whose location is both neighbours, moved, beside the mean of the neighbours
  under the same likelihood: with one learned scale, and with a scale for each value by a network.
  Grey values, in bits/dim, and the PSNR of the mean.
- next: NextFrames, beside the same pair without motion, whose frames are all painted: the bound,
  and the PSNR of the best of n futures beside that of the still and of the mean future.

Each pair is a run folder under --out. A finished one is not trained or evaluated again, and a
killed one continues. The table and a picture are written to benchmarks/results.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import Pair, evaluated, rows_of_images, slug, trained, write
from numpy.typing import NDArray
from torch import Tensor, nn

import pvae
from pvae import guides, models
from pvae.data import Data
from pvae.evaluation import Evaluation

_SHOWN, _FUTURES, _DRAWS = 12, 4, (1, 2, 5, 10, 20, 50)
MEAN, FLOW = "mean of neighbours", "flow and mask"
ONE, EACH = "one scale", "a scale for each value"
MOVED, PAINTED = "moved and painted", "painted only"


class Unmoved(nn.Module):
    """A network of FrameBetween without motion, with the second output of another, or of none."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network

    def forward(self, u: Tensor) -> Tensor:
        if self.network is None:
            return u.new_zeros(*u.shape[:-3], 3, *u.shape[-2:])
        parts = self.network(u)
        return torch.cat([torch.zeros_like(parts[..., :3, :, :]), parts[..., 3:, :, :]], -3)


class OnlyPainted(nn.Module):
    """The network of a NextFrames whose masks are 0."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.down, self.code = net, net.down, net.code

    def up(self, z: Tensor, features: list[Tensor]) -> Tensor:
        parts = self.net.up(z, features)
        odds = torch.full_like(parts[..., 2:3, :, :], -100.0)
        return torch.cat([parts[..., :2, :, :], odds, parts[..., 3:, :, :]], -3)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=["between", "next"])
    parser.add_argument("--data", help="videos, a name or a file; by default clips, moving_digits")
    parser.add_argument("--levels", type=int, default=256, help="grey levels, between")
    parser.add_argument("--window", type=int, help="frames; by default 3 between, 6 for next")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--channels", type=int, nargs="*", default=[32, 64])
    parser.add_argument("--latent-dim", type=int, default=16, help="of next")
    parser.add_argument("--network", default="conv", choices=["dense", "conv"], help="of next")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--num-samples", type=int, default=200, help="of next")
    parser.add_argument("--rows", nargs="*", help="parts of names; by default all rows")
    parser.add_argument("--out", type=Path, default=Path("runs/frames"))
    options = parser.parse_args()
    between = options.task == "between"
    options.data = options.data or ("clips" if between else "moving_digits")
    options.window = options.window or (3 if between else 6)
    return options


def loaded(options: argparse.Namespace) -> Data:
    how = "grey" if options.task == "between" else "threshold"
    return pvae.data.load(options.data, observation=how, frames=options.task, window=options.window)


def between_pair(name: str, data: Data, options: argparse.Namespace) -> Pair:
    """Returns a pair of a row, such as "flow and mask, one scale"."""
    how, scale = name.split(", ")
    sizes = {"channels": options.channels, "levels": options.levels}
    kind = {"likelihood": "discretized_logistic", "scale": "learned" if scale == ONE else "network"}
    model = models.FrameBetween(data.event_shape, **sizes, **kind)
    x, before, after = data.train.observe(slice(2000))
    error = (x - (before + after) / 2).abs().mean()
    start = (error / (2 * np.log(2))).clamp(min=1e-3)  # the scale of a logistic of this mean error
    with torch.no_grad():
        if scale == ONE:
            model.head.log_scale.copy_(start.log())
        else:
            model.network[-1].layers[-1].bias[3:] = start.expm1().log()
    if how == MEAN:
        model.network = Unmoved(None if scale == ONE else model.network)
    return model, guides.NoLatents()


def next_pair(name: str, data: Data, options: argparse.Namespace) -> Pair:
    """Returns a pair of a row."""
    sizes = {"network": options.network, "channels": options.channels}
    model = models.NextFrames(data.event_shape, options.latent_dim, **sizes)
    if name == PAINTED:
        model.net = OnlyPainted(model.net)
    return model, guides.FramesMeanField(data.event_shape, options.latent_dim, **sizes)


def do(name: str, data: Data, options: argparse.Namespace) -> tuple[Pair, Evaluation]:
    """Trains a pair and evaluates it, or what remains of it."""
    torch.manual_seed(0)
    between = options.task == "between"
    pair = (between_pair if between else next_pair)(name, data, options)
    run = options.out / f"{options.task}-{Path(options.data).stem}" / slug(name)
    run.parent.mkdir(parents=True, exist_ok=True)
    how = {"epochs": options.epochs, "batch_size": options.batch_size, "lr": options.lr}
    pair = trained(run, pair, data, device="cpu", **how)
    num = 1 if between else options.num_samples
    found = evaluated(run, pair, data, num_samples=num, estimators=[], device="cpu")
    print(f"{name}: {found.log_px.mean():.2f} nats", flush=True)
    return pair, found


def psnr(errors: NDArray) -> str:
    """Returns the PSNR of squared errors, a mean for each datum, of all together, in dB ± se."""
    mean, se = errors.mean(), errors.std(ddof=1) / len(errors) ** 0.5
    return f"{-10 * np.log10(mean):.2f} ± {10 / np.log(10) * se / mean:.2f}"


def squared(x: Tensor, other: Tensor) -> NDArray:
    """Returns the mean squared error of each datum, [..., N], for x [N, *event]."""
    return (x - other).double().square().flatten(-x.ndim + 1).mean(-1).numpy()


def value(found: Evaluation, other: Evaluation | None = None, unit: float = 1.0) -> str:
    """Returns the mean of −log p ± se, in a unit, or its difference from another's."""
    values = -(found.log_px - (0 if other is None else other.log_px)) / unit
    sign = "+" if other is not None else ""
    digits = 3 if unit != 1 else 2
    se = values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():{sign}.{digits}f} ± {se:.{digits}f}".replace("-", "−")


@torch.no_grad()
def between(data: Data, options: argparse.Namespace) -> tuple[str, dict[str, Tensor]]:
    """Returns the text and the rows of the picture."""
    names = [f"{how}, {scale}" for scale in (ONE, EACH) for how in (MEAN, FLOW)]
    names = [n for n in names if not options.rows or any(part in n for part in options.rows)]
    x, before, after = data.test.tensors()
    bits = np.log(2) * x[0].numel()
    lines, means, first = [], {}, None
    for name in names:
        (model, guide), found = do(name, data, options)
        means[name] = pvae.reconstruct(model, guide, x, before, after)
        first = first or found
        difference = "" if found is first else value(found, first, bits)
        lines.append(
            f"| {name} | {value(found, unit=bits)} | {difference} | "
            f"{psnr(squared(x, means[name]))} |"
        )
        if name.startswith(FLOW):
            flow, mask, _ = model.fields(before, after)
    text = f"""# A frame between two frames of {data.name}

| location of x_t | bits/dim | against the first row | PSNR |
| --- | --- | --- | --- |
{chr(10).join(lines)}

{len(x)} test frames {" × ".join(map(str, x.shape[1:]))}, the middle ones of windows of {options.window} frames that share no
frame; {len(data.train)} training frames. Exact −log p(x_t | x_t−1, x_t+1) of a discretised logistic of
{options.levels} levels, and the PSNR in dB of its mean, of the error of all values together; ± is the standard
error over the test frames, differences are paired. All rows start at the scale of the mean's errors. {options.epochs} epochs of minibatches of {options.batch_size}.
The flow of the last row is {flow.norm(dim=-3).mean():.2f} pixels on average.

"""  # noqa: E501
    shown = squared(before, after).argsort()[::-1][: 3 * _SHOWN : 3].copy()
    invert = data.name == "clips"  # photographs, not ink
    rows = {"before": before, "after": after, "truth": x}
    rows |= {name: means[name] for name in names if name.endswith(EACH) or len(names) < 4}
    rows["mask"] = mask.expand_as(x)
    rows["flow, pixels / 3"] = (flow.norm(dim=-3, keepdim=True) / 3).expand_as(x)
    return text, {n: 1 - images[shown] if invert else images[shown] for n, images in rows.items()}


@torch.no_grad()
def after(data: Data, options: argparse.Namespace) -> tuple[str, dict[str, Tensor]]:
    """Returns the text and the rows of the picture."""
    names = [n for n in (MOVED, PAINTED) if not options.rows or any(p in n for p in options.rows)]
    x, still = data.test.tensors()
    still_video = still.unsqueeze(1).expand_as(x)
    lines, errors, pictures, first = [], {}, {}, None
    for name in names:
        (model, guide), found = do(name, data, options)
        first = first or found
        draws = torch.cat(
            [pvae.generate(model, len(x), x, still, seed=i) for i in range(max(_DRAWS))]
        )
        draws = draws.unflatten(0, (-1, len(x)))
        each = squared(x, draws)
        best = " | ".join(psnr(each[:n].min(0)) for n in _DRAWS)
        errors[name] = (
            squared(x, draws.mean(0)),
            squared(x, pvae.reconstruct(model, guide, x, still)),
        )
        spread = draws.std(0).mean()
        difference = "" if found is first else value(found, first)
        lines.append(
            f"| {name} | {-found.elbo.mean():.2f} | {value(found)} | {difference} | {best} | "
            f"{psnr(errors[name][0])} | {psnr(errors[name][1])} |"
        )
        for i in range(3):
            if name == names[0]:
                pictures[f"truth {i + 1}"] = torch.cat([still[i, None], x[i]])
            for j in range(_FUTURES):
                pictures[f"{name}, {i + 1}.{j + 1}"] = torch.cat([still[i, None], draws[j, i]])
    heads = " | ".join(f"best of {n}" for n in _DRAWS)
    text = f"""# Futures of a still of {data.name}

| frames | −ELBO | −L_{options.num_samples} | against the first row | {heads} | mean of {max(_DRAWS)} | given the truth's code |
| --- | --- | --- | --- |{" --- |" * (len(_DRAWS) + 2)}
{chr(10).join(lines)}

{len(x)} test videos of {len(x[0])} frames {" × ".join(map(str, x.shape[2:]))} after a still, and {len(data.train)} training windows. Nats for all
{len(x[0])} frames, ± is the standard error over the test videos, differences are paired. The other columns are
PSNR in dB of the mean of x given a code, of the error of all values together: the future of n from the
prior that is nearest to the truth, the mean of {max(_DRAWS)} futures, and the code that the guide gives to the truth. The
still, unchanged, has {psnr(squared(x, still_video))}. {options.epochs} epochs of minibatches of {options.batch_size}, {options.latent_dim} latent dimensions. The
futures of a still differ by {spread:.3f} in a pixel (standard deviation, last row).

"""  # noqa: E501
    return text, {n: nn.functional.pad(video, (0, 1), value=0.5) for n, video in pictures.items()}


def main() -> None:
    options = parsed()
    data = loaded(options)
    text, rows = (between if options.task == "between" else after)(data, options)
    named = replace(data, name=f"{options.task}-{Path(data.name).stem}")  # for the file's name
    path = write("frames", text, torch.device("cpu"), named, ["torch", "pyro-ppl", "pvae"])
    rows_of_images(path.with_suffix(".png"), rows)


if __name__ == "__main__":
    main()
