"""Videos from codes: the next frames under a prior that sees the codes of the frames before.

    python benchmarks/moving_mnist.py [--data moving_mnist_32] [--epochs 12] [--prior-epochs 12]
    python benchmarks/moving_mnist.py --data moving_digits --epochs 3 --prior-epochs 3 --channels 16

1. VQVAE and NearestCode on the frames, with a uniform prior;
2. VideoPixelCNN on the codes of 1, and the same network without memory, which ignores the past;
3. the pairs of 1 with the priors of 2, which are not trained any more.

Each is a run folder under --out. A finished one is not trained or evaluated again, and a killed one
continues. The table, and a picture of test videos with their continuations, are written to
benchmarks/results.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import evaluated, rows_of_images, trained, write
from numpy.typing import NDArray
from torch import Tensor, nn

import pvae
from pvae import guides, models
from pvae.data import Data
from pvae.distributions import peeled
from pvae.estimators import CodeUse

_VIDEOS, _DRAWS = 3, 3  # in the picture


@torch.no_grad()
def by_frame(pair: Any, data: Data, batch_size: int = 100) -> tuple[NDArray, NDArray]:
    """Returns log p(x_t|z_t) and log p(z_t|z_<t) of each test video and frame, [N, T] each."""
    model, guide = (program.eval() for program in pair)
    density = model.code_prior.density
    device, found = next(model.parameters()).device, []
    for (x,) in data.test.batches(batch_size, device=device):
        z = guide(x)
        k = z.argmax(-1)
        of_code = density.head(density.network(k))
        terms = [(model.likelihood(z), x), (of_code, k)]
        found.append([peeled(p).log_prob(v).double().flatten(2).sum(-1).cpu() for p, v in terms])
    x_given_z, z = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return x_given_z, z


def cell(values: NDArray, digits: int = 1) -> str:
    """Returns a mean with its standard error, with the sign of −log p."""
    se = values.std(ddof=1) / len(values) ** 0.5
    return f"{-values.mean():.{digits}f} ± {se:.{digits}f}".replace("-", "−")


def strip(video: Tensor) -> Tensor:
    """Returns the frames [T, 1, H, W] with grey lines between them."""
    return torch.nn.functional.pad(video, (0, 1), value=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="moving_mnist_32")
    parser.add_argument("--given", type=int, default=5, help="frames that are given")
    parser.add_argument("--epochs", type=int, default=12, help="of the VQ-VAE")
    parser.add_argument("--prior-epochs", type=int, default=12)
    parser.add_argument("--num-codes", type=int, default=64)
    parser.add_argument("--code-dim", type=int, default=16)
    parser.add_argument("--memory", type=int, default=6, help="frames that the prior sees")
    parser.add_argument("--channels", type=int, default=64, help="of the priors")
    parser.add_argument("--num-layers", type=int, default=5, help="of the priors")
    parser.add_argument("--batch-size", type=int, default=64, help="videos")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="float32", help="of training; or bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/moving_mnist"))
    options = parser.parse_args()
    folder = options.out / options.data
    folder.mkdir(parents=True, exist_ok=True)
    device = pvae.runtime.device.find_device(options.device)
    data = pvae.data.load(options.data, observation="threshold")
    shape, given = data.event_shape, options.given
    where = {"device": options.device}
    how = {"batch_size": options.batch_size, "lr": options.lr, "precision": options.precision}
    fit = functools.partial(trained, **how, **where)
    score = functools.partial(evaluated, num_samples=1, estimators=[CodeUse()], **where)

    def quantised(prior: nn.Module | None = None) -> Any:
        torch.manual_seed(0)
        sizes = {"num_codes": options.num_codes, "code_dim": options.code_dim, "prior": prior}
        model = models.VQVAE(shape, **sizes, channels=(64, 32))
        return model, guides.NearestCode(model, shape, channels=(32, 64))

    vq = fit(folder / "vq", quantised(), data, epochs=options.epochs)
    uniform = score(folder / "vq", vq, data)
    codes = pvae.codes(tuple(program.to(device) for program in vq), data)

    found, pairs = {}, {}
    for name, memory in {"alone": 0, "past": options.memory}.items():
        torch.manual_seed(0)
        density = models.VideoPixelCNN(
            codes.event_shape,
            memory,
            options.channels,
            options.num_layers,
            likelihood="categorical",
            levels=options.num_codes,
        )
        alone = density, guides.NoLatents()
        fit(folder / f"prior-{name}", alone, codes, epochs=options.prior_epochs)
        pair = quantised(density)
        pvae.warm_start(*pair, folder / "vq")
        bound = score(folder / f"both-{name}", pair, data).elbo
        pairs[name] = tuple(program.to(device) for program in pair)
        found[name] = by_frame(pairs[name], data)
        assert np.allclose(np.sum(found[name], (0, 2)), bound, rtol=1e-3)

    x_given_z, of_codes = found["alone"][0], {name: each[1] for name, each in found.items()}
    frames = x_given_z.shape[1]
    rest = {name: (x_given_z + z)[:, given:].mean(1) for name, z in of_codes.items()}
    use = pvae.Evaluation.load(folder / "both-past").findings["code_use"].summary({})["sites"]["z"]
    rows = {"given nothing": of_codes["alone"], "given the frames before": of_codes["past"]}
    whole = {name: x_given_z.sum(1) + z.sum(1) for name, z in rows.items()}
    table = "\n".join(
        f"| {name} | {cell(whole[name])} | {cell(z.sum(1))} | {cell(rest[key], 2)} |"
        for (name, z), key in zip(rows.items(), of_codes, strict=True)
    )
    shown = sorted({*range(min(4, frames)), given, *range(4, frames, 4), frames - 1})
    times = "\n".join(
        f"| {name} | {' | '.join(cell(z[:, t]) for t in shown)} |" for name, z in rows.items()
    )
    gain = rest["past"] - rest["alone"]
    map_shape = " × ".join(map(str, codes.event_shape[1:]))
    text = f"""# Videos from codes on {options.data}: {options.epochs} epochs, {options.prior_epochs} of the priors

| each frame's codes | −log p(x, z(x)) of a video | of it −log p(z(x)) | a frame after {given} given ones |
| --- | --- | --- | --- |
| uniform | {cell(uniform.elbo)} | {-(uniform.elbo - x_given_z.sum(1)).mean():.1f} | — |
{table}

Nats; test videos, {len(data.test)}, of {frames} frames of {" × ".join(map(str, shape[1:]))}; ± is the
standard error over the videos. log p(x, z(x)) is a lower bound on log p(x) for the codes that the encoder
gives, {map_shape} for each frame, and −log p(x | z(x)) is {cell(x_given_z.sum(1))}. The last column is
−log p(x_t, z(x_t) | z(x_<t)), the mean over the frames after the first {given}, a bound given the codes of
the frames before. Seeing {options.memory} of them gains {gain.mean():.2f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.2f} nats for
each of these frames, video by video. Both priors are a VideoPixelCNN with the same gated layers.
Of {options.num_codes} codes, {use["used"]} occur, with perplexity {use["perplexity"]:.1f}.

| −log p(z_t) of frame | {" | ".join(str(t + 1) for t in shown)} |
| --- |{" --- |" * len(shown)}
{times}

"""  # noqa: E501
    path = write("moving_mnist", text, device, data, ["torch", "pyro-ppl", "pvae"])
    x = data.test.x[:_VIDEOS].to(device)
    draw = functools.partial(pvae.complete, known=torch.arange(frames) < given)
    past = draw(*pairs["past"], x, num_samples=_DRAWS)
    alone = draw(*pairs["alone"], x)
    images = {}
    for i in range(_VIDEOS):
        images[f"video {i + 1}"] = strip(x[i])
        for j in range(_DRAWS):
            images[f"{given} frames given, {i + 1}.{j + 1}"] = strip(past[j, i])
        images[f"past ignored, {i + 1}"] = strip(alone[0, i])
    rows_of_images(path.with_suffix(".png"), images)


if __name__ == "__main__":
    main()
