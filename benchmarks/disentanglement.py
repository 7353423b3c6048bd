"""Disentanglement against β: MIG, β-VAE and FactorVAE scores, and what they cost in log p(x).

    python benchmarks/disentanglement.py [--data sprites] [--betas 1 2 4 8] [--seeds 0 1 2 3 4]
    python benchmarks/disentanglement.py --data glyphs --betas 1 4 --seeds 0 1 --epochs 2

`sprites` are drawn by this script with the factors of dSprites, at half its size: 25,000 of the
737,280 images. Each β and seed is a run folder under --out, all β of a seed before the next seed. A
finished one is not run again, and a killed one continues. The table, the curves and the traversals
are written to benchmarks/results.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import evaluated, trained, write
from matplotlib.ticker import NullLocator
from torch import Tensor
from torch.nn.functional import avg_pool2d

import pvae
from pvae import guides, models, objectives
from pvae.data import Data, glyphs
from pvae.estimators import Disentanglement
from pvae.evaluation.estimators.factor_scores import check_factors, information, mig

SPRITES = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
"""The factors of dSprites and their numbers of values; shapes are square, ellipse and heart."""

SCORES = {"mig": "MIG", "beta_vae": "β-VAE score", "factor_vae": "FactorVAE score"}
TRAIN, TEST = 20_000, 5000


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="sprites", choices=["sprites", "glyphs"])
    parser.add_argument("--betas", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--hidden-dims", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--num-samples", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/disentanglement"))
    return parser.parse_args()


def sprites(factors: Tensor, side: int = 32, over: int = 3) -> Tensor:
    """Draws sprites.

    Args:
        factors: Positions among the values of each factor, in the order of `SPRITES`, int64 [N, 5].
        side: Pixels of an image's side.
        over: A pixel is 1 if more than half of `over` × `over` points in it are in the shape.

    Returns:
        uint8 [N, 1, side, side], 0 and 1.
    """
    points = (torch.arange(side * over) + 0.5) / (side * over)
    images = []
    for rows in factors.float().split(500):
        shape, scale, turn, right, down = rows.T[..., None, None]
        size, angle = 0.16 * (0.5 + 0.1 * scale), 2 * math.pi * turn / 40
        x, y = points - (0.25 + 0.5 * right / 31), points[:, None] - (0.25 + 0.5 * down / 31)
        s = (angle.cos() * x + angle.sin() * y) / size
        t = (angle.cos() * y - angle.sin() * x) / size
        square = torch.maximum(s.abs(), t.abs()) < 0.9
        ellipse = s**2 + (t / 0.6) ** 2 < 1.1
        heart = (s**2 + t**2 - 0.8) ** 3 + 1.2 * s**2 * t**3 < 0
        inside = torch.where(shape == 0, square, torch.where(shape == 1, ellipse, heart))
        images.append(avg_pool2d(inside[:, None].float(), over) > 0.5)
    return torch.cat(images).to(torch.uint8)


def loaded(name: str) -> tuple[Data, list[str]]:
    """Returns data whose parts have the field `factors`, and the factors' names."""
    if name == "glyphs":
        return pvae.data.load("glyphs"), list(glyphs.FACTORS)
    rows = np.random.RandomState(0).permutation(math.prod(SPRITES.values()))[: TRAIN + TEST]
    factors = torch.from_numpy(np.stack(np.unravel_index(rows, tuple(SPRITES.values())), 1))
    images = sprites(factors)
    fields = {"x_train": images[:TRAIN], "x_test": images[TRAIN:]}
    fields |= {"factors_train": factors[:TRAIN], "factors_test": factors[TRAIN:]}
    return pvae.data.load(fields, observation="grey"), list(SPRITES)


def pair_of(data: Data, seed: int, options: argparse.Namespace) -> tuple[models.VAE, Any]:
    torch.manual_seed(seed)
    sizes = {"hidden_dims": options.hidden_dims}
    model = models.VAE(data.event_shape, options.latent_dim, **sizes)
    return model, guides.MeanField(data.event_shape, options.latent_dim, **sizes)


def run_of(folder: Path, beta: float, seed: int) -> Path:
    return folder / f"beta-{beta:g}-seed-{seed}"


def do(
    data: Data, names: list[str], beta: float, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Trains and evaluates a pair, or what remains of it, and returns its numbers."""
    run = run_of(options.out / options.data, beta, seed)
    pair = trained(
        run, pair_of(data, seed, options), data, epochs=options.epochs, lr=options.lr,
        batch_size=options.batch_size, loss=objectives.Beta_ELBO(beta=beta), seed=seed,
        progress=False,
    )  # fmt: skip
    found = evaluated(
        run, pair, data, num_samples=options.num_samples, estimators=[Disentanglement()],
        progress=False,
    )  # fmt: skip
    return numbers(found.summary(), names)


def numbers(summary: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Returns the numbers of the table; a code without an active dimension has the least scores."""
    scores = summary.get("disentanglement")
    chance = {"mean": 1 / len(names)}
    if scores is None:
        scores = {"mig": {"mean": 0.0}, "beta_vae": chance, "factor_vae": chance}
        scores["mig_of_factors"] = dict.fromkeys(names, 0.0)
    khat = summary["khat"]["above_threshold"]
    return {key: scores[key]["mean"] for key in SCORES} | {
        "of_factors": dict(zip(names, scores["mig_of_factors"].values(), strict=True)),
        "log_px": summary["log_px"][-1]["mean"],
        "elbo": summary["elbo"]["mean"],
        "kl": summary["kl"],
        "khat": math.nan if khat is None else 100 * khat,
        "active": summary["active_units"],
    }


def of_a_perfect_code(data: Data) -> list[float]:
    """Returns the MIG of each factor for a code that is the factors themselves."""
    factors = check_factors(data.test.fields["factors"].numpy())
    return mig(*information(factors.astype(float), factors)).tolist()


Found = dict[float, list[dict[str, Any]]]
"""The numbers of each β, one dict for each seed."""


def best_beta(found: Found) -> float:
    return max(found, key=lambda beta: np.mean([each["mig"] for each in found[beta]]))


def mean_and_se(values: list[float], digits: int) -> str:
    if not np.isfinite(values).all():
        return "—"
    mean = f"{np.mean(values):.{digits}f}".replace("-", "−")
    if len(values) < 2:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


def table(found: Found, num_samples: int) -> str:
    columns = {**dict.fromkeys(SCORES, 3), "log_px": 2, "elbo": 2, "kl": 2, "active": 1, "khat": 0}
    names = [*SCORES.values(), f"L_{num_samples}", "ELBO", "KL", "active units", "k̂ too high, %"]
    text = f"| β | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}\n"
    for beta, runs in found.items():
        cells = [mean_and_se([run[c] for run in runs], n) for c, n in columns.items()]
        text += f"| {beta:g} | {' | '.join(cells)} |\n"
    return text


def of_factors(found: Found, perfect: list[float]) -> str:
    names = list(next(iter(found.values()))[0]["of_factors"])
    text = f"| β | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}\n"
    for beta, runs in found.items():
        cells = [mean_and_se([run["of_factors"][n] for run in runs], 3) for n in names]
        text += f"| {beta:g} | {' | '.join(cells)} |\n"
    return f"{text}| the factors themselves | {' | '.join(f'{v:.3f}' for v in perfect)} |\n"


def verdict(found: Found) -> str:
    """Says how the MIG at the best β compares with that at β = 1, on the same seeds."""
    best, ones = best_beta(found), [run["mig"] for run in found.get(1, [])]
    migs = [run["mig"] for run in found[best]]
    if best == 1:
        return "No β has a higher mean MIG than β = 1."
    if not ones:
        return f"The MIG is highest at β = {best:g}."
    higher = sum(b > a for a, b in zip(ones, migs, strict=True))
    return (
        f"The MIG is highest at β = {best:g}: {np.mean(migs):.3f}, against {np.mean(ones):.3f} at "
        f"β = 1, {np.mean(migs) / np.mean(ones):.1f} times as much; it is higher for {higher} of "
        f"{len(ones)} seeds (from {min(migs):.3f} to {max(migs):.3f}, against {min(ones):.3f} to "
        f"{max(ones):.3f}). The best β was chosen on these same seeds."
    )


def draw(found: Found, num_samples: int, path: Path) -> None:
    """Writes a picture of the scores and the bound against β: a point a seed, a line of means."""
    shown = {**SCORES, "log_px": f"L_{num_samples}, nats"}
    figure, axes = plt.subplots(1, len(shown), figsize=(12, 3), layout="constrained")
    for ax, (key, name) in zip(axes, shown.items(), strict=True):
        for beta, runs in found.items():
            ax.plot([beta] * len(runs), [run[key] for run in runs], "o", color="C0", alpha=0.5)
        means = [np.mean([run[key] for run in runs]) for runs in found.values()]
        ax.plot(list(found), means, color="C0")
        ax.set(xscale="log", xlabel="β", title=name)
        ax.set_xticks(list(found), [f"{beta:g}" for beta in found])
        ax.xaxis.set_minor_locator(NullLocator())
        if key in SCORES:
            ax.set_ylim(0, None if key == "mig" else 1)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_traversals(found: Found, data: Data, options: argparse.Namespace, path: Path) -> None:
    """Writes traversals at β = 1 (or the least) and at the best β, each of its median seed."""
    betas = list(dict.fromkeys([1.0 if 1 in found else min(found), best_beta(found)]))
    figure, axes = plt.subplots(1, len(betas), figsize=(6 * len(betas), 5), squeeze=False)
    for ax, beta in zip(axes[0], betas, strict=True):
        migs = [run["mig"] for run in found[beta]]
        place = int(np.argsort(migs)[(len(migs) - 1) // 2])
        seed = options.seeds[place]
        model, guide = pair_of(data, seed, options)
        run = run_of(options.out / options.data, beta, seed)
        pair = pvae.load(run, model=model, guide=guide)
        torch.manual_seed(0)
        dims = range(options.latent_dim)
        shown = pvae.traverse(*pair, data.test, dims=dims, steps=11, span=2)
        order = np.argsort(-np.array(shown.variance), kind="stable")
        rows = [torch.cat(list(shown.x[d].cpu()), -1) for d in order]
        ax.imshow(torch.cat(rows, -2)[0], cmap="gray_r", vmin=0, vmax=1)
        side = data.event_shape[-1]
        labels = [f"z[{d}], {shown.variance[d]:.2f}" for d in order]
        ax.set_yticks([side * (i + 0.5) for i in range(len(rows))], labels, fontsize=8)
        ax.set_xticks([])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(f"β = {beta:g}, seed {seed}, MIG {migs[place]:.2f}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    options = parsed()
    data, names = loaded(options.data)
    found: Found = {beta: [] for beta in sorted(set(options.betas))}
    for seed in options.seeds:
        for beta, runs in found.items():
            runs.append(do(data, names, beta, seed, options))
            said = ", ".join(f"{name} {runs[-1][key]:.3f}" for key, name in SCORES.items())
            bound = f"L_{options.num_samples} {runs[-1]['log_px']:.2f}"
            print(f"β = {beta:g}, seed {seed}: {said}, {bound}", flush=True)
    perfect = of_a_perfect_code(data)
    text = f"""# Disentanglement against β on {options.data}

{table(found, options.num_samples)}
{verdict(found)}

The MIG of each factor; a code that is the factors themselves has a MIG of {np.mean(perfect):.3f}:

{of_factors(found, perfect)}
Mean ± standard error over {len(options.seeds)} seeds, which draw the first parameters and the
minibatches; the data are the same. Scores of the posterior means of {len(data.test):,} test data.
Chance of the β-VAE score and of the FactorVAE score is {1 / len(names):.2f}. Bounds in nats per
datum with {options.num_samples} samples. A code without an active dimension has MIG 0 and the other
scores at chance. Each VAE has {options.latent_dim} latent dimensions and dense hidden layers of
{options.hidden_dims}, and learned {options.epochs} epochs of {len(data.train):,} training data in
minibatches of {options.batch_size}, with Adam at {options.lr:g}.

"""
    named = dataclasses.replace(data, name=options.data)
    path = write("disentanglement", text, torch.device("cpu"), named, ["torch", "pyro-ppl", "pvae"])
    draw(found, options.num_samples, path.with_suffix(".png"))
    traversals = path.with_name(f"{path.stem}-traversals.png")
    draw_traversals(found, data, options, traversals)


if __name__ == "__main__":
    main()
