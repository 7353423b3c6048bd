"""Self-taught classifiers: an encoder trained without labels, then a classifier on few labels.

    python benchmarks/few_labels.py [--data mnist] [--epochs 30] [--labels 100 1000 10000]
    python benchmarks/few_labels.py --data digits --epochs 20 --labels 20 100 --steps 300

1. VAE and MeanField on all training data, without labels;
2. for each number of labels and each seed, which draws the labelled data: Classifier on the encoder
   of 1, frozen; the same, trained on; the same network from scratch; and logistic regression on PCA
   of all training data to as many dimensions as the code has.

Stage 1 is a run folder under --out, which continues if it was killed. Each error of stage 2 is kept
in a file there. The table and a picture are written to benchmarks/results.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import trained, write
from matplotlib.ticker import LogLocator

import pvae
from pvae import guides, models
from pvae.data import Data

FROZEN, FINE, SCRATCH, PCA = "VAE's encoder, frozen", "fine-tuned", "from scratch", "PCA"
HOW = [PCA, SCRATCH, FROZEN, FINE]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=30, help="of the VAE")
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000, help="of each classifier")
    parser.add_argument("--latent-dim", type=int, default=50)
    parser.add_argument("--hidden-dims", type=int, nargs="+", default=[600, 600])
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("runs/few_labels"))
    return parser.parse_args()


def balanced(y: torch.Tensor, num: int, seed: int) -> torch.Tensor:
    """Returns the rows of `num` data drawn by a seed, as many of each class."""
    classes, draw = y.unique(), torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(y), generator=draw)
    of_class = [shuffled[y[shuffled] == c][: num // len(classes)] for c in classes]
    return torch.cat(of_class)


def error_of(
    how: str, encoder: torch.nn.Module, data: Data, rows: torch.Tensor, seed: int,
    options: argparse.Namespace,
) -> float:  # fmt: skip
    """Trains a classifier on the labelled rows, and returns its error on the test data, percent."""
    torch.manual_seed(seed)
    x, y = data.test.tensors()
    if how == PCA:
        return pca_error(data, rows, options.latent_dim)
    encoder = copy.deepcopy(encoder)
    if how == SCRATCH:
        encoder = guides.MeanField(
            data.event_shape, options.latent_dim, hidden_dims=options.hidden_dims
        ).encoder
    encoder.requires_grad_(how != FROZEN)
    classifier = models.Classifier(data.event_shape, len(data.train.y.unique()), encoder=encoder)
    few = data.train.take(rows)
    batch_size = min(100, len(rows))
    epochs = -(-options.steps // -(-len(rows) // batch_size))
    pvae.fit(
        classifier, guides.NoLatents(), few, epochs=epochs, batch_size=batch_size, lr=options.lr,
        seed=seed, progress=False,
    )  # fmt: skip
    with torch.no_grad():
        wrong = [
            classifier.distribution(a).logits.argmax(-1) != b
            for a, b in zip(x.split(1000), y.split(1000), strict=True)
        ]
    return 100 * float(torch.cat(wrong).double().mean())


def pca_error(data: Data, rows: torch.Tensor, dim: int) -> float:
    """Returns the error of logistic regression on principal components, percent."""
    from sklearn.decomposition import PCA as Components
    from sklearn.linear_model import LogisticRegression

    x = data.train.observe(slice(None))[0].flatten(1).numpy()
    pca = Components(min(dim, *x.shape), random_state=0).fit(x)
    few, labels = (t.numpy() for t in data.train.observe(rows))
    linear = LogisticRegression(max_iter=2000).fit(pca.transform(few.reshape(len(few), -1)), labels)
    test, y = (t.numpy() for t in data.test.tensors())
    return 100 * (1 - linear.score(pca.transform(test.reshape(len(test), -1)), y))


def shown(values: list[float]) -> str:
    """Returns a mean over seeds with its standard error."""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f}"


def draw(errors: dict[str, dict[int, list[float]]], path: Path) -> None:
    """Writes a picture of the errors against the number of labels."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for how, each in errors.items():
        mean = [np.mean(v) for v in each.values()]
        se = [np.std(v, ddof=1) / len(v) ** 0.5 for v in each.values()]
        ax.errorbar(list(each), mean, se, fmt="o-", capsize=3, label=how)
    ax.set(xscale="log", yscale="log", xlabel="labels", ylabel="error on test data, %")
    ax.set_xticks(list(each), [f"{n:,}" for n in each])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    options = parsed()
    folder = options.out / options.data
    folder.mkdir(parents=True, exist_ok=True)
    data = pvae.data.load(options.data, labels=True)
    sizes: dict[str, Any] = {"hidden_dims": options.hidden_dims}
    torch.manual_seed(0)
    model = models.VAE(data.event_shape, options.latent_dim, **sizes)
    guide = guides.MeanField(data.event_shape, options.latent_dim, **sizes)
    unlabelled = pvae.data.load(options.data)
    trained(folder / "vae", (model, guide), unlabelled, epochs=options.epochs, lr=options.lr)
    encoder = guide.encoder.cpu().eval()

    file = folder / "errors.json"
    done = json.loads(file.read_text()) if file.exists() else {}
    for num in options.labels:
        for seed in range(options.seeds):
            rows = balanced(data.train.y, num, seed)
            for how in HOW:
                key = f"{how}, {num}, {seed}"
                if key not in done:
                    done[key] = error_of(how, encoder, data, rows, seed, options)
                    file.write_text(json.dumps(done, indent=1))
                    print(f"{key}: {done[key]:.2f} %", flush=True)
    errors = {
        how: {n: [done[f"{how}, {n}, {s}"] for s in range(options.seeds)] for n in options.labels}
        for how in HOW
    }
    rows = "\n".join(
        f"| {how} | {' | '.join(shown(v) for v in each.values())} |" for how, each in errors.items()
    )
    text = f"""# Few labels on {options.data}: a classifier on an encoder that was trained without

| classifier | {" | ".join(f"{n:,} labels" for n in options.labels)} |
| --- |{" --- |" * len(options.labels)}
{rows}

Error on the test data in percent, mean ± standard error over {options.seeds} seeds, each of which
draws its own labelled data, as many of each class. The VAE has {options.latent_dim} latent
dimensions and hidden layers of {options.hidden_dims}, and learned {options.epochs} epochs of the
{len(data.train):,} training data without labels. A classifier is a softmax on the encoder's
outputs, location and scale; it takes {options.steps:,} steps of Adam at {options.lr:g}. PCA keeps
{options.latent_dim} dimensions, and logistic regression has its default penalty. Binarised images,
drawn again for each minibatch of the networks.

"""
    path = write("few_labels", text, torch.device("cpu"), data, ["torch", "pyro-ppl", "pvae"])
    draw(errors, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
