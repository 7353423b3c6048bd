"""Every pair of this package on the same data, for the same budget: one table, one page.

    python benchmarks/gallery.py [--data digits] [--epochs 100] [--rows VAE IAF ...] [--jobs 1]
    python benchmarks/gallery.py --data mnist --epochs 30

Each row is `pvae train` and `pvae evaluate` with the options that the table shows, in its own run
folder under --out. A finished row is not run again, and a killed one continues. The table, and a
page of reconstructions and samples, are written to benchmarks/results.
"""

import argparse
import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from common import each_row, slug, train_and_evaluate, write

import pvae
from pvae.runs import build_pair, read_config

ROWS = {
    "VAE": "--model VAE --guide MeanField",
    "IWAE, k = 5": "--model VAE --guide MeanField --loss IWAE_ELBO --num_particles 5",
    "IWAE, k = 50": "--model VAE --guide MeanField --loss IWAE_ELBO --num_particles 50"
    " --precision bf16",
    "DReG, k = 5": "--model VAE --guide MeanField --loss DReG_ELBO --num_particles 5",
    "DReG, k = 50": "--model VAE --guide MeanField --loss DReG_ELBO --num_particles 50"
    " --precision bf16",
    "β-VAE, β = 4": "--model VAE --guide MeanField --loss Beta_ELBO --loss.beta 4",
    "Free bits": "--model VAE --guide MeanField --loss FreeBits_ELBO --loss.free_bits 10",
    "InfoVAE": "--model VAE --guide MeanField --loss InfoVAE_ELBO --loss.beta 0.5"
    " --loss.mmd_weight 100",
    "Mixture prior": "--model MixturePriorVAE --guide MeanField",
    "VampPrior": "--model VampPriorVAE --guide SharedEncoder",
    "Flow prior": "--model FlowPriorVAE --guide MeanField",
    "Given labels": "--model ConditionalVAE --guide ConditionalMeanField --given y",
    "Any mask": "--model VAEAC --guide MaskedMeanField --data.mask any",
    "Some labels (M2)": "--model M2 --guide LabelThenCode --data.labelled 100"
    " --data.labelled_share 0.25 --loss SemiSupervised_ELBO --loss.alpha 10",
    "Full covariance": "--model VAE --guide FullCovariance",
    "Low rank": "--model VAE --guide LowRank",
    "Mixture of Gaussians": "--model VAE --guide MixtureOfGaussians",
    "IAF": "--model VAE --guide IAF",
    "Spline flow": "--model VAE --guide SplineFlow",
    "Semi-amortised": "--model VAE --guide SemiAmortised",
    "One layer, 200-200": "--model VAE --guide MeanField --model.latent_dim 100"
    " --model.hidden_dims [200,200] --guide.hidden_dims [200,200] --lr 2e-3",
    "Two layers": "--model HierarchicalVAE --model.activation relu"
    " --guide BottomUp --guide.activation relu --lr 2e-3",
    "Ladder": "--model HierarchicalVAE --model.activation relu --guide Ladder --lr 2e-3"
    " --kl_warmup 10",
    "Ladder, free bits": "--model HierarchicalVAE --model.activation relu --guide Ladder --lr 2e-3"
    " --kl_warmup 10 --loss FreeBits_ELBO --loss.free_bits 1",
    "Categorical, straight-through": "--model CategoricalVAE --guide Categorical",
    "Categorical, Gumbel-softmax": "--model CategoricalVAE --guide Categorical"
    " --guide.gradient gumbel_softmax",
    "Categorical, VIMCO": "--model CategoricalVAE --guide Categorical --guide.gradient score"
    " --loss IWAE_ELBO --num_particles 10",
    "VQ-VAE": "--model VQVAE --guide NearestCode",
    "VQ-VAE-2": "--model VQVAE2 --guide NearestCodes",
    "Autoencoder": "--model Autoencoder --guide Code",
    "Sparse autoencoder": "--model SparseAutoencoder --guide Code",
    "Denoising autoencoder": "--model Autoencoder --guide DenoisingCode",
    "Contractive autoencoder": "--model Autoencoder --guide ContractiveCode",
    "Gaussian": "--model VAE --guide MeanField --model.likelihood gaussian --model.scale learned"
    " --data.observation grey",
    "Probabilistic PCA": "--model PPCA --guide LinearGaussian --data.observation grey",
    "Gaussian mixture": "--model GaussianMixture --guide Responsibilities"
    " --data.observation dequantize",
    "Binomial": "--model VAE --guide MeanField --model.likelihood binomial --model.levels LEVELS"
    " --data.observation grey",
    "Discretised logistic": "--model VAE --guide MeanField"
    " --model.likelihood discretized_logistic --model.levels LEVELS --data.observation grey",
    "Logistic mixture": "--model VAE --guide MeanField --model.likelihood logistic_mixture"
    " --model.levels LEVELS --data.observation grey",
    "PixelVAE": "--model PixelVAE --guide MeanField --kl_warmup 10",
    "MADE": "--model MADE --guide NoLatents",
    "PixelCNN": "--model PixelCNN --model.channels 32 --model.num_blocks 4 --guide NoLatents",
    "Gated PixelCNN": "--model GatedPixelCNN --model.channels 32 --model.num_layers 5"
    " --guide NoLatents",
    "Gated PixelCNN given labels": "--model Conditional --guide NoLatents --given y"
    " --model.density pvae.models.GatedPixelCNN --model.density.event_shape SHAPE"
    " --model.density.channels 32 --model.density.num_layers 5 --model.density.context_shape [10]",
    "PixelRNN": "--model PixelRNN --model.kind row --model.channels 32 --model.num_layers 2"
    " --guide NoLatents",
    "Convolutional": "--model VAE --guide MeanField --model.network conv --guide.network conv",
}
"""A name for each pair, and the options that make it; LEVELS and SHAPE stand for the data's."""

COMPARED = {
    "Objectives": ["VAE", "IWAE, k = 5", "DReG, k = 5", "IWAE, k = 50", "DReG, k = 50"],
    "Priors": ["VAE", "Mixture prior", "VampPrior", "Flow prior"],
    "Posteriors": ["VAE", "Full covariance", "Low rank", "Mixture of Gaussians", "IAF",
                   "Spline flow", "Semi-amortised"],
    "Discrete codes": ["VAE", "Categorical, straight-through", "Categorical, Gumbel-softmax",
                       "Categorical, VIMCO"],
    "Networks": ["VAE", "Convolutional"],
    "Layers": ["One layer, 200-200", "Two layers", "Ladder", "Ladder, free bits"],
}  # fmt: skip
"""Rows that the papers compare, each with the first one of its group."""

GAPS = ["VAE", "Full covariance", "Mixture of Gaussians", "IAF"]
"""Rows whose inference gap is measured, on `--gap` data."""


def made_by(name: str, data: str) -> str:
    """Returns the options of a row."""
    levels, shape = ("17", "[1,8,8]") if data == "digits" else ("256", "[1,28,28]")
    return ROWS[name].replace("LEVELS", levels).replace("SHAPE", shape)


def do_row(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Runs a row, or what remains of it; its output goes to a log beside its folder."""
    start = ["--epochs", str(options.epochs), "--batch_size", str(options.batch_size)]
    start += ["--data", options.data, "--lr", str(options.lr)]
    start += shlex.split(made_by(name, options.data))
    end = ["--num_samples", str(options.num_samples), "--prior_samples", "0"]
    end += ["--surgery", "false"]
    if name in GAPS and options.gap:
        end += ["--ais", str(options.gap), "--gap", str(options.gap)]
    train_and_evaluate(folder / slug(name), start, end)


def summary(name: str, folder: Path) -> dict[str, Any]:
    """Returns the numbers of a row."""
    run = folder / slug(name)
    found = json.loads((run / "evaluation.json").read_text())
    model, guide = build_pair(read_config(run))
    parameters = {id(p): p.numel() for side in (model, guide) for p in side.parameters()}
    with (run / "history.csv").open() as file:
        epochs = sum(1 for _ in csv.DictReader(file))
    return found | {
        "parameters": sum(parameters.values()),
        "epochs": epochs,
        "seconds": json.loads((folder / f"{slug(name)}.json").read_text()),
    }


def line(name: str, found: dict[str, Any], folder: Path) -> str:
    """Returns a row of the table."""
    bound = found["log_px"][-1] if found["log_px"] else {"mean": None, "se": None}
    share = found["khat"]["above_threshold"] if found["khat"] else None
    cells = [
        name,
        _number(found["elbo"] and found["elbo"]["mean"]),
        f"{_number(bound['mean'])} ± {_number(bound['se'])}" if bound["mean"] else "—",
        "—" if share is None else f"{100 * share:.0f} %",
        "—" if found["active_units"] is None else str(found["active_units"]),
        f"{found['parameters'] / 1e6:.2f} M",
        f"{found['seconds']['train']:.0f}",
        f"{found['seconds']['evaluate']:.0f}",
        f"`{made_by(name, folder.name)}`",
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}".replace("-", "−")


def table(found: dict[str, dict[str, Any]], folder: Path, options: argparse.Namespace) -> str:
    """Returns the Markdown of all rows, grouped by observation."""
    text = f"# Every pair on {options.data}: {options.epochs} epochs\n"
    observations = dict.fromkeys(f["data"]["observation"] for f in found.values())
    for observation in observations:
        rows = {n: f for n, f in found.items() if f["data"]["observation"] == observation}
        text += f"""
## Observation: {observation}

| pair | ELBO | L_{options.num_samples} ± se | k̂ too high | active units | parameters | train, s | evaluate, s | options |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501
        text += "\n".join(line(name, row, folder) for name, row in rows.items()) + "\n"
    return f"""{text}
Test data, nats per datum; ± is the standard error over the data. A pair whose code is a single
point has no bound. Every pair was trained for {options.epochs} epochs of
minibatches of {options.batch_size}, with Adam at {options.lr:g}, fit's defaults and the options
beside it, on all training data, and evaluated after the last epoch, with {options.num_samples}
samples. Seconds are wall time with compiling, of one process of {torch.get_num_threads()} thread(s)
on a machine that did other work too: they only distinguish minutes from hours.

"""


def comparisons(names: list[str], folder: Path) -> str:
    """Returns the Markdown of paired differences, and of the measured inference gaps."""
    text = ""
    evaluations = {name: pvae.Evaluation.load(folder / slug(name)) for name in names}
    for title, group in COMPARED.items():
        group = [name for name in group if name in names]
        if len(group) < 2:
            continue
        found = pvae.compare({name: evaluations[name] for name in group})
        text += f"""
## {title}: paired differences from {group[0]!r}

| pair | difference of L_{found.num_samples} [95 %] | difference of the ELBO [95 %] |
| --- | --- | --- |
"""
        for run in found.runs[1:]:
            cells = [
                f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]".replace("-", "−")
                for d in (run.log_px.difference, run.elbo.difference)
            ]
            text += f"| {run.name} | {' | '.join(cells)} |\n"
    gaps = {n: e.findings["gap"] for n, e in evaluations.items() if "gap" in e.findings}
    if gaps:
        text += """
## The inference gap, log p(x) − ELBO, and its parts

| pair | data | gap | family's (approximation) | encoder's (amortisation) |
| --- | --- | --- | --- | --- |
"""
        for name, gap in gaps.items():
            cells = [name, str(len(gap.datum)), _mean_and_se(gap.inference)]
            parts = (gap.approximation, gap.amortisation) if gap.own_family else ()
            cells += [_mean_and_se(part) for part in parts] or ["—", "—"]
            text += f"| {' | '.join(cells)} |\n"
        text += """
log p(x) is annealed from the prior. A flow is not optimised datum by datum, so its gap is not
split.
"""
    return text


def _mean_and_se(values: Any) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}".replace("-", "−")


def page(names: list[str], folder: Path, path: Path) -> None:
    """Draws, for each pair, ten test data, their reconstructions, and ten samples."""
    strips = {}
    for name in names:
        config = read_config(folder / slug(name))
        data = pvae.data.load(config["data"].pop("source"), **config["data"])
        part = data.test.take(torch.arange(10))
        model, guide = pvae.load(folder / slug(name))
        torch.manual_seed(0)
        x = part.tensors()[0]
        shown = [x, pvae.reconstruct(model, guide, part), pvae.generate(model, 10, part)]
        strips[name] = torch.cat([t.reshape(10, *data.event_shape) for t in shown])
    height = 0.5 * len(strips) + 0.6
    figure, axes = plt.subplots(len(strips), 1, figsize=(11, height), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], strips.items(), strict=True):
        gap = torch.zeros(*images.shape[1:-1], images.shape[-1] // 2)
        cells = [*images[:10], gap, *images[10:20], gap, *images[20:]]
        axis.imshow(torch.cat(cells, -1)[0], cmap="gray_r", vmin=0, vmax=1, aspect="equal")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set_xticks([], [])
        axis.set_yticks([], [])
        axis.spines[:].set_visible(False)
    axes[0, 0].set_title("test data, their reconstructions, and samples", fontsize=10)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument(
        "--gap", type=int, default=30, help="data for the inference gap; 0 for none"
    )
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/gallery"))
    options = parser.parse_args()
    folder = options.out / options.data
    folder.mkdir(parents=True, exist_ok=True)
    done = each_row(
        options.rows,
        lambda name: do_row(name, folder, options),
        lambda name: line(name, summary(name, folder), folder),
        options.jobs,
    )
    device = pvae.runtime.device.find_device("auto")
    data = pvae.data.load(options.data)
    text = table({n: summary(n, folder) for n in done}, folder, options)
    head, _, tail = text.rpartition("\nTest data, nats")
    text = f"{head}{comparisons(done, folder)}\nTest data, nats{tail}"
    path = write("gallery", text, device, data, ["torch", "pyro-ppl", "pvae"])
    page(done, folder, path.with_suffix(".png"))
    sys.exit(len(done) < len(options.rows))


if __name__ == "__main__":
    main()
