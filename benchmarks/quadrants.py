"""Missing quadrants of MNIST given the others: a conditional VAE beside Pyro's own tutorial.

    python benchmarks/quadrants.py [--epochs 40] [--known 1 2 3] [--seeds 0]
    python benchmarks/quadrants.py --data digits --epochs 2 --num-samples 50

The pair is `ConditionalVAE` with its guide: x are the missing pixels, y the known ones. Each row is
a run folder under --out. A finished one is not trained or evaluated again, and a killed one
continues. The table, and a picture of completions, are written to benchmarks/results.

The tutorial's figure is the loss of `Trace_ELBO(num_particles=10)` for each test image, −ELBO in
nats, with the grey missing pixels as targets of a Bernoulli: a cross-entropy. It stopped by that
loss on the test data. Ours is measured here by the same function on the same pixels. It is also an
upper bound on the mean of −log p of binary pixels, drawn from the grey ones, given the known grey
pixels. Of these pixels, drawn once, the table has the importance-weighted bound. Training stops by
5,000 of the training data.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from common import Pair, evaluated, rows_of_images, trained, write
from torch import Tensor

import pvae
from pvae import guides, models
from pvae.data import Data
from pvae.nn import MLP
from pvae.pair import Program

PUBLISHED = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}
"""For 1, 2 and 3 known quadrants: the tutorial's network, which predicts the mean, and its CVAE."""

_SHOWN, _DRAWS, _ROWS = 12, 5, 100


def known_part(num: int, size: int) -> Tensor:
    """Returns which pixels [size, size] the tutorial knows: lower left, left half, all but one."""
    known, half = torch.zeros(size, size, dtype=torch.bool), size // 2
    known[half:, :half] = True
    known[:, :half] |= num == 2
    known[:half] |= num == 3
    return known


def quadrants(name: str, num: int) -> tuple[Data, Tensor]:
    """Returns data of missing pixels x [N, D] and known grey pixels y, and which are known."""
    whole, fields = pvae.data.load(name, observation="grey"), {}
    known = known_part(num, whole.event_shape[-1])
    for part in ("train", "test"):
        grey = getattr(whole, part).x.flatten(1)
        fields[f"x_{part}"] = (grey * 255).round().byte()[:, ~known.flatten()]
        fields[f"y_{part}"] = grey[:, known.flatten()]
    held_out = len(fields["x_train"]) // 12
    options = {"levels": 256, "observation": "dynamic", "labels": True}
    return pvae.data.load(fields, validation=held_out, **options), known


def pair_of(num_missing: int, num_known: int, options: argparse.Namespace) -> Pair:
    """Returns the pair, whose decoder and encoder see what a network makes of the known pixels."""
    wide, code = [options.width] * 2, 50
    model = models.ConditionalVAE(
        (num_missing,),
        options.context,
        code,
        context=MLP((num_known,), (options.context,), wide[:1]),
        decoder=MLP((code + options.context,), (num_missing,), wide),
    )
    return model, guides.ConditionalMeanField(model, (num_missing,), hidden_dims=wide)


def tutorials_loss(pair: Pair, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Returns −ELBO of grey missing pixels with 10 particles, for each image, and its error."""
    loss, found = pyro.infer.Trace_ELBO(num_particles=10), []
    for program in pair:
        program.eval()
    with torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(0)
        for batch in zip(x.split(_ROWS), y.split(_ROWS), strict=True):
            found.append((loss.loss(*pair, *batch), len(batch[0])))
    sums, sizes = np.array(found).T
    return float(sums.sum() / len(x)), float((sums / sizes).std(ddof=1) / len(sums) ** 0.5)


def do(num: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains and evaluates a pair for a number of known quadrants, or what remains of it."""
    data, known = quadrants(options.data, num)
    torch.manual_seed(seed)
    missing = int((~known).sum())
    run = options.out / options.data / f"{num}-known-{seed}"
    run.parent.mkdir(parents=True, exist_ok=True)
    how = {"batch_size": 128, "lr": options.lr, "epochs": options.epochs, "seed": seed}
    pair = trained(run, pair_of(missing, int(known.sum()), options), data, **how)
    found = evaluated(run, pair, data, num_samples=options.num_samples, estimators=[])
    grey = pvae.data.load(options.data, observation="grey").test.x.flatten(1)
    x, y = grey[:, ~known.flatten()], grey[:, known.flatten()]
    picture = completions(pair[0], grey[:_SHOWN], known)
    return {
        "loss": tutorials_loss(pair, x, y),
        "evaluation": found,
        "missing": missing,
        "picture": picture,
    }


def completions(model: Program, grey: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Returns images, what is known of them (the rest is grey), and several completions."""
    flat, rows = known.flatten(), {"truth": grey}
    rows["known"] = torch.where(flat, grey, 0.5)
    for i in range(_DRAWS):
        x, y = grey[:, ~flat], grey[:, flat]
        mean = pvae.generate(model, len(grey), x, y, seed=i)
        rows[f"completion {i + 1}"] = grey.masked_scatter(~flat, mean)
    return {name: images.unflatten(1, (1, *known.shape)) for name, images in rows.items()}


def line(num: int, found: dict[str, Any], options: argparse.Namespace) -> str:
    """Returns a row of the table."""
    e, (loss, se) = found["evaluation"], found["loss"]
    khat, bound = e.khat[np.isfinite(e.khat)], -e.log_px
    published = PUBLISHED[num] if options.data == "mnist" else ("—", "—")
    cells = [
        f"{num} ({found['missing']} pixels missing)",
        *(str(each) for each in published),
        f"**{loss:.1f}** ± {se:.1f}",
        f"{-e.elbo.mean():.2f}",
        f"{bound.mean():.2f} ± {bound.std(ddof=1) / len(bound) ** 0.5:.2f}",
        f"median {np.median(khat):.2f}, {100 * (khat > e.khat_threshold).mean():.0f} % too high",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=500, help="units of each hidden layer")
    parser.add_argument("--context", type=int, default=200, help="values of c(y)")
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--known", type=int, nargs="*", default=[1, 2, 3], choices=[1, 2, 3])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/quadrants"))
    options = parser.parse_args()
    lines, pictures = [], {}
    for num in options.known:
        for seed in options.seeds:
            found = do(num, seed, options)
            lines.append(line(num, found, options))
            pictures.setdefault(num, found["picture"])
            print(lines[-1], flush=True)
    rows = "\n".join(lines)
    text = f"""# Missing quadrants of {options.data} given the known ones: {options.epochs} epochs

| known quadrants | tutorial: network | tutorial: CVAE | ours, the same measure | −ELBO, binary | −L_{options.num_samples}, binary | k̂ |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

Nats for each test image, fewer are better; ± is the standard error over the data. The tutorial's
figures are those of Pyro's CVAE tutorial (tutorial/source/cvae.ipynb): the cross-entropy of the grey
missing pixels for its network, and the loss of Trace_ELBO with 10 particles, −ELBO of the grey pixels,
for its CVAE. Both chose the epoch by the same test data. "Ours, the same measure" is that loss for
`ConditionalVAE`, whose training stops by {"5,000" if options.data == "mnist" else "a twelfth"} of the training data. It bounds the mean
of −log p of binary pixels, drawn from the grey ones, from above. The last bounds are of one such draw, with a guide that
sees it. The prior does not depend on y; c(y) has {options.context} values, hidden layers {options.width} units, the code 50
values. One row for each of the seeds {options.seeds}.

"""  # noqa: E501
    device = torch.device("cpu")
    path = write("quadrants", text, device, pvae.data.load(options.data), ["torch", "pyro-ppl"])
    shown = pictures[options.known[0]]
    rows_of_images(path.with_suffix(".png"), shown)


if __name__ == "__main__":
    main()
