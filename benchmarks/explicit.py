"""Autoregressive densities of MNIST, whose log p(x) is exact, and a VAE whose decoder is one.

    python benchmarks/explicit.py [--data mnist] [--rows MADE "Gated PixelCNN" ...] [--jobs 1]
    python benchmarks/explicit.py --data digits --budget 0.05

Each row is `pvae train` and `pvae evaluate` with the options that the table shows, in its own run
folder under --out. A finished row is not run again, and a killed one continues. The table, and a
picture of samples, are written to benchmarks/results.
"""

import argparse
import csv
import json
import shlex
import sys
from pathlib import Path

import torch
from common import each_row, rows_of_images, slug, train_and_evaluate, write

import pvae
from pvae.runs import build_pair, read_config

DENSITY = "--guide NoLatents --model"
PIXELS, SMALL_PIXELS = (64, 3, 5), (32, 2, 5)
"""Features, blocks and kernel size of a PixelVAE's PixelCNN."""


def with_code(warmup: int, *pixels: int) -> str:
    """Returns the options of a PixelVAE."""
    return (
        "--model PixelVAE --guide MeanField --model.latent_dim 32 --model.network conv"
        " --guide.network conv --model.features {} --model.num_blocks {} --model.kernel_size {}"
        " --kl_warmup {}".format(*pixels, warmup)
    )


def without_code(*pixels: int) -> str:
    """Returns the options of a PixelVAE's PixelCNN by itself."""
    return (
        f"{DENSITY} PixelCNN --model.channels {{}} --model.num_blocks {{}}"
        " --model.kernel_size {}".format(*pixels)
    )


ROWS = {
    "MADE": (100, f"{DENSITY} MADE --model.hidden_dims [1000,1000]"),
    "MADE, fixed": (
        100,
        f"{DENSITY} MADE --model.hidden_dims [1000,1000] --data.observation fixed"
        " --data.validation 5000",
    ),
    "PixelCNN": (40, f"{DENSITY} PixelCNN --model.channels 128 --precision bf16"),
    "Gated PixelCNN": (
        20,
        f"{DENSITY} GatedPixelCNN --model.channels 32 --model.num_layers 4 --model.kernel_size 5"
        " --model.first_kernel_size 27 --batch_size 64 --lr 2e-3 --precision bf16",
    ),
    "PixelRNN, row LSTM": (
        16,
        f"{DENSITY} PixelRNN --model.kind row --model.channels 64 --model.num_layers 3"
        " --batch_size 64 --lr 2e-3 --clip_norm 5 --precision bf16",
    ),
    "PixelRNN, small row LSTM": (
        5,
        f"{DENSITY} PixelRNN --model.kind row --model.channels 32 --model.num_layers 2"
        " --batch_size 64 --lr 2e-3 --clip_norm 5",
    ),
    "PixelRNN, diagonal BiLSTM": (
        40,
        f"{DENSITY} PixelRNN --model.kind diagonal --model.channels 32 --model.num_layers 3"
        " --batch_size 256 --lr 2e-3 --clip_norm 5",
    ),
    "PixelVAE": (100, with_code(20, *PIXELS) + " --precision bf16"),
    "PixelVAE's PixelCNN, no code": (40, without_code(*PIXELS) + " --precision bf16"),
    "PixelVAE, small": (10, with_code(2, *SMALL_PIXELS) + " --batch_size 64 --lr 2e-3"),
    "Small PixelVAE's PixelCNN, no code": (
        10,
        without_code(*SMALL_PIXELS) + " --batch_size 64 --lr 2e-3",
    ),
}
"""Epochs, and the options that make each row."""

CODES = [name for name, (_, how) in ROWS.items() if DENSITY not in how]
"""The rows with a code, whose log p(x) is bounded."""

PUBLISHED = {
    "MADE": "84.87",
    "MADE, fixed": "86.64",
    "PixelCNN": "81.45",
    "Gated PixelCNN": "81.50",
    "PixelRNN, diagonal BiLSTM": "79.20 (fixed)",
}
"""−log p(x) of binarised MNIST in other people's tables, nats."""

_SHOWN = 16


def options_of(name: str, options: argparse.Namespace) -> list[str]:
    """Returns the options of `pvae train` for a row."""
    epochs, how = ROWS[name]
    made = ["--data", options.data, "--epochs", str(max(1, round(options.budget * epochs)))]
    return [*made, *shlex.split(how)]


def do_row(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Trains and evaluates a row, or what remains of it."""
    end = ["--prior_samples", "0", "--surgery", "false"]
    end += ["--num_samples", str(options.num_samples)] if name in CODES else []
    train_and_evaluate(folder / slug(name), options_of(name, options), end)


def line(name: str, folder: Path) -> str:
    """Returns a row of the table."""
    run = folder / slug(name)
    found = json.loads((run / "evaluation.json").read_text())
    seconds = json.loads((folder / f"{slug(name)}.json").read_text())
    config = read_config(run)
    model, guide = build_pair(config)
    parameters = {id(p): p.numel() for side in (model, guide) for p in side.parameters()}
    with (run / "history.csv").open() as file:
        epochs = sum(1 for _ in csv.DictReader(file))
    bound = found["log_px"][-1] if name in CODES else found["elbo"]
    cells = [
        name,
        found["data"]["observation"],
        f"{-bound['mean']:.2f} ± {bound['se']:.2f}",
        f"{found['kl']:.1f}" if name in CODES else "—",
        PUBLISHED.get(name, "—") if config["data"]["source"] == "mnist" else "—",
        f"{sum(parameters.values()) / 1e6:.2f} M",
        str(epochs),
        f"{seconds['train']:.0f}",
        f"`{ROWS[name][1]}`",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--budget", type=float, default=1.0, help="share of each row's epochs")
    parser.add_argument("--num-samples", type=int, default=1000, help="of a PixelVAE's bound")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/explicit"))
    options = parser.parse_args()
    folder = options.out / options.data
    folder.mkdir(parents=True, exist_ok=True)
    done = each_row(
        options.rows,
        lambda name: do_row(name, folder, options),
        lambda name: line(name, folder),
        options.jobs,
    )
    rows = "\n".join(line(name, folder) for name in done)
    text = f"""# Autoregressive densities on {options.data}

| row | observation | −log p(x) ± se | KL | published | parameters | epochs | train, s | options |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

Test data, nats per datum; ± is the standard error over the data. log p(x) is exact, except that of
a PixelVAE, which is the bound of {options.num_samples} samples. Minibatches of 128 and Adam at 1e-3
are the defaults. Published figures are of other people's networks and binarisations; "fixed" is one
draw of ours, not the file that the papers share. Seconds are wall time with compiling, on a machine
that did other work too; of a row that was killed, those of its last start.

"""
    device = pvae.runtime.device.find_device("auto")
    data = pvae.data.load(options.data)
    path = write("explicit", text, device, data, ["torch", "pyro-ppl", "pvae"])
    shown = {"test data": data.test.observe(slice(0, _SHOWN))[0]}
    for name in done:
        model, _ = pvae.load(folder / slug(name))
        torch.manual_seed(0)
        shown[name] = model.to(device).eval()(size=_SHOWN)
    rows_of_images(path.with_suffix(".png"), shown)
    sys.exit(len(done) < len(options.rows))


if __name__ == "__main__":
    main()
