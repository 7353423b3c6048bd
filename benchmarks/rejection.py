"""Labels by Bayes' rule from p(x|y) alone, and the rejection of letters, faces and noise.

    PVAE_DATA=... python benchmarks/rejection.py [--seeds 3] [--epochs 30]
    python benchmarks/rejection.py --data digits --epochs 5 --seeds 1 --num-samples 20 --num-data 50

A conditional VAE learns p(x|y). It is never trained to classify: the label is that of the largest
p(x|y) p(y), and an image is rejected if the log of Σ p(x|y) p(y), or a score made of it, is low.
The likelihood ratio has the same pair as its background, trained on images of which each pixel is
replaced at random with probability --noise.

Foreign data: OMNIGLOT (`omniglot28.npz`) and Olivetti's faces (`olivetti_faces.npz`) in PVAE_DATA,
resized; uniform noise; and digits without most of their ink, which are simpler than digits. All are
observed like the digits. Every pair is a run folder under --out; a finished one is not trained or
evaluated again, and a killed one continues. The table and a picture are written to
benchmarks/results.
"""

import argparse
import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from common import Pair, evaluated, trained, write
from torch import Tensor, nn

import pvae
from pvae import guides, models
from pvae.data import Data
from pvae.data.sources import root_folder
from pvae.estimators import BayesRule, Rejection
from pvae.evaluation import Evaluation
from pvae.nn import MLP
from pvae.objectives import IWAE_ELBO
from pvae.runtime import find_device

FILES = {"OMNIGLOT": "omniglot28.npz", "faces": "olivetti_faces.npz"}
LATENT_DIM, HIDDEN_DIM = 8, 500
RIGHT, WRONG, FOREIGN = 4, 3, 2
"""Rows of the picture: test data by their label, and data of each foreign set."""


class EachLabel(nn.Module):
    """A dense decoder whose first layer is that of the label: z cannot stand in for y.

    It maps z and the one-hot form of y, [..., Z + C], to logits [..., *event_shape].
    """

    def __init__(self, num_classes: int, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        sizes = ((LATENT_DIM + 1) * num_classes,), event_shape, (HIDDEN_DIM, HIDDEN_DIM)
        self.network = MLP(*sizes)

    def forward(self, both: Tensor) -> Tensor:
        z, c = both[..., :LATENT_DIM], both[..., LATENT_DIM:]
        z = torch.cat([z, torch.ones_like(z[..., :1])], -1)  # each label has its own bias too
        return self.network((c[..., :, None] * z[..., None, :]).flatten(-2))


def conditional_vae(data: Data, num_classes: int) -> Pair:
    decoder = EachLabel(num_classes, data.event_shape)
    model = models.ConditionalVAE(data.event_shape, num_classes, LATENT_DIM, decoder=decoder)
    sizes = {"hidden_dims": (HIDDEN_DIM, HIDDEN_DIM)}
    return model, guides.ConditionalMeanField(model, data.event_shape, **sizes)


def perturbed(data: Data, share: float) -> Data:
    """Returns data of which each value of the training part is replaced by a random one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.as_tensor(data.train.raw)
    top = (data.levels or 2) - 1
    other = torch.randint(0, top + 1, x.shape, generator=generator).to(x.dtype)
    mixed = torch.where(torch.rand(x.shape, generator=generator) < share, other, x)
    train = dataclasses.replace(data.train, fields={**data.train.fields, "x": mixed})
    return dataclasses.replace(data, train=train)


def foreign_sets(data: Data) -> dict[str, Data]:
    """Returns the foreign sets that are on this machine, observed like the data."""
    top, shape = (data.levels or 2) - 1, data.event_shape
    found = {}
    for name, file in FILES.items():
        if (path := root_folder(None) / file).exists():
            with np.load(path, allow_pickle=False) as arrays:
                x = next(arrays[key] for key in ("x_test", "x", "images") if key in arrays.files)
            found[name] = resized(torch.from_numpy(x).float(), shape)
        else:
            print(f"{name} is left out: there is no {path}.")
    generator = torch.Generator().manual_seed(0)
    found["noise"] = torch.rand((1000, *shape), generator=generator)
    ink = data.test.fields["x"][:1000].float() / max(1, data.test.fields["x"].max().item())
    found["faint digits"] = ink * (torch.rand(ink.shape, generator=generator) < 0.2)
    return {name: observed((x * top).round().byte(), data) for name, x in found.items()}


def resized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns images as [N, *shape] between 0 and 1."""
    x = x.reshape(len(x), 1, *x.shape[-2:]) / x.max()
    return F.interpolate(x, size=shape[1:], mode="bilinear", antialias=True).clamp(0, 1)


def observed(x: Tensor, data: Data) -> Data:
    parts = {"x_train": x[:2].numpy(), "x_test": x.numpy()}
    return pvae.data.load(parts, observation=data.observation, levels=data.levels, seed=data.seed)


def do_seed(
    seed: int, folder: Path, data: Data, options: argparse.Namespace
) -> tuple[Evaluation, Pair]:
    """Trains a pair and its background, or what remains of them, and evaluates the pair."""
    num_classes = int(data.train.y.max()) + 1
    fitting = {
        "epochs": options.epochs, "batch_size": options.batch_size, "lr": options.lr,
        "seed": seed, "progress": False,
    }  # fmt: skip
    if options.num_particles > 1:
        fitting["loss"] = IWAE_ELBO(num_particles=options.num_particles)
    pairs = []
    for name, given in (("pair", data), ("background", perturbed(data, options.noise))):
        torch.manual_seed(seed)
        pair = conditional_vae(data, num_classes)
        pairs.append(trained(folder / f"{name}-{seed}", pair, given, **fitting))
    pair, background = pairs
    k = options.num_samples
    rejection = Rejection(
        options.num_foreign, foreign_sets(data), num_samples=k, background=background
    )
    asked = [BayesRule(options.num_data, num_samples=k), rejection]
    options = {"num_samples": k, "estimators": asked, "progress": False}
    return evaluated(folder / f"pair-{seed}", pair, data, **options), pair


def cell(values: list[float], errors: list[float | None], places: int, scale: float = 1) -> str:
    """Returns a mean over seeds, and the larger of its spread over them and its own error."""
    spread = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    own = np.sqrt(np.mean(np.square([e or 0 for e in errors])))
    return f"{scale * np.mean(values):.{places}f} ± {scale * max(spread, own):.{places}f}"


def table(found: list[Evaluation]) -> str:
    labels = [each.summary()["bayes_rule"] for each in found]
    rows = [
        "| labels by Bayes' rule | |", "| --- | --- |",
        f"| error, % | {cell(*_both(labels, 'error'), 2, 100)} |",
        f"| of each seed, % | {', '.join(f'{100 * e['error']['mean']:.2f}' for e in labels)} |",
        f"| log loss, nats | {cell(*_both(labels, 'nll'), 4)} |",
        f"| calibration error, % | {cell([e['calibration_error'] for e in labels], [0], 2, 100)} |",
        f"| other samples could change the label, % | "
        f"{100 * np.mean([e['uncertain'] for e in labels]):.2f} |",
        "",
    ]  # fmt: skip
    parts = [each.summary()["rejection"] for each in found]
    names = list(parts[0]["thresholds"])
    rows += [f"| AUROC | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for each in parts[0]["sets"]:
        scores = [[p["sets"][each]["scores"][name] for p in parts] for name in names]
        areas = [
            cell([s["auroc"] for s in of], [s["auroc_se"] for s in of], 4)
            + f", {100 * np.mean([s['rejected'] for s in of]):.1f} % rejected"
            for of in scores
        ]
        rows.append(f"| {each} | {' | '.join(areas)} |")
    return "\n".join(rows)


def _both(rows: list[dict], name: str) -> tuple[list[float], list[float]]:
    return [row[name]["mean"] for row in rows], [row[name]["se"] for row in rows]


def picture(path: Path, pair: Pair, data: Data, found: Evaluation, k: int) -> None:
    """Draws images, their reconstructions given each label, and log p(x|y)."""
    labels, rejection = found.findings["bayes_rule"], found.findings["rejection"]
    rows = np.arange(len(data.test)) if found.rows is None else found.rows
    wrong = labels.wrong.astype(bool)
    chosen = [rows[labels.datum[~wrong][:RIGHT]], rows[labels.datum[wrong][:WRONG]]]
    images = [(data.test.x[i], f"y = {int(data.test.y[i])}") for i in np.concatenate(chosen)]
    for name, part in foreign_sets(data).items():
        images += [(x, name) for x in part.test.x[:FOREIGN]]
    x = torch.stack([image for image, _ in images]).float()
    num = len(labels.labels)
    scored = pvae.classify(*pair, x, num_classes=num, num_samples=k, progress=False)
    at = rejection.thresholds()["log p(x)"]
    figure, axes = plt.subplots(len(x), num + 1, figsize=(0.95 * (num + 1) + 1.5, 1.15 * len(x)))
    for row, (image, (_, name)) in enumerate(zip(x, images, strict=True)):
        y = torch.arange(num)
        given = pvae.reconstruct(*pair, image.expand(num, *image.shape), y).cpu()
        best = scored.log_px_given_y[row].max()
        rejected = scored.log_px[row] < at
        for column, shown in enumerate([image, *given]):
            ax = axes[row, column]
            ax.imshow(shown[0].detach().clamp(0, 1), cmap="gray_r", vmin=0, vmax=1)
            ax.set_xticks([], [])
            ax.set_yticks([], [])
            if column:
                value = scored.log_px_given_y[row, column - 1]
                first = value == best
                ax.set_title(f"{value:.1f}" if first else f"{value - best:+.1f}", fontsize=8, pad=2)
                colour = "tab:red" if rejected else "tab:blue"
                ax.spines[:].set(color=colour if first else "0.85", linewidth=2.5 if first else 1)
        verdict = "rejected" if rejected else f"→ {scored.y[row]}"
        axes[row, 0].set_ylabel(
            f"{name}\nlog p(x) = {scored.log_px[row]:.0f}\n{verdict}", rotation=0, ha="right",
            va="center", fontsize=8,
        )  # fmt: skip
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--num-particles", type=int, default=1, help="of the IWAE objective")
    parser.add_argument(
        "--noise", type=float, default=0.2, help="share of pixels in the background"
    )
    parser.add_argument("--num-samples", type=int, default=50, help="K for each label")
    parser.add_argument("--num-data", type=int, help="test data that are labelled (default: all)")
    parser.add_argument("--num-foreign", type=int, default=500, help="data of each set")
    parser.add_argument("--out", type=Path, default=Path("runs/rejection"))
    return parser.parse_args()


def main() -> None:
    options = parsed()
    data = pvae.data.load(options.data, labels=True)
    folder = options.out / options.data
    folder.mkdir(parents=True, exist_ok=True)
    found, pairs = [], []
    for seed in range(options.seeds):
        evaluation, pair = do_seed(seed, folder, data, options)
        found.append(evaluation)
        pairs.append(pair)
        print(evaluation.table(), flush=True)
    device = find_device("auto")
    said = sorted({
        line for each in found for line in each.table().splitlines()
        if line.startswith("Plain log p(x)")
    })  # fmt: skip
    text = f"""# Bayes' rule and rejection on {options.data}: {options.seeds} seeds, {options.epochs} epochs

{table(found)}

{chr(10).join(f"- {line}" for line in said)}

A conditional VAE ({LATENT_DIM} latents, two hidden layers of {HIDDEN_DIM}) bounds log p(x|y) with
{options.num_samples} importance samples for each label; labels are those of the largest p(x|y) p(y).
± is the larger of the standard error over the seeds and that over the data. Rejected is the share of
foreign data below the threshold that rejects at most 5 % of the test data. The sets have up to
{options.num_foreign} data. A sentence that is repeated is of another seed. In the picture, the number above a reconstruction is log p(x|y) for
the best label, and the difference from it for the others; red is rejected by log p(x).

"""  # noqa: E501
    path = write("rejection", text, device, data, ["torch", "pyro-ppl", "pvae"])
    picture(path.with_suffix(".png"), pairs[0], data, found[0], options.num_samples)


if __name__ == "__main__":
    main()
