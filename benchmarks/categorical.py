"""Categorical latents by VIMCO, Gumbel-softmax and straight-through, beside Gaussian ones.

    python benchmarks/categorical.py [--data mnist] [--epochs 100] [--rows "VIMCO, 30 × 10" ...]
    python benchmarks/categorical.py --data digits --epochs 5 --num-samples 100

Each row is `pvae train` and `pvae evaluate` in its own run folder under --out. A finished row is
not run again, and a killed one continues. All rows have the same networks. The small code is also
summed out, which gives its exact log p(x). The table is written to benchmarks/results.
"""

import argparse
import itertools
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from common import each_row, slug, train_and_evaluate, write
from numpy.typing import NDArray

import pvae
from pvae.runs import read_config

GAUSSIAN = "Gaussian VAE"
ESTIMATORS = {
    "VIMCO": "--guide.gradient score --loss IWAE_ELBO --num_particles 10",
    "Gumbel-softmax": "--guide.gradient gumbel_softmax",
    "Straight-through": "--guide.gradient straight_through",
}
CODES = [(30, 10), (20, 2), (3, 8)]
"""N and C; the small one has few enough values to sum over."""

ROWS = {GAUSSIAN: "--model VAE --guide MeanField"} | {
    f"{name}, {n} × {c}": f"--model CategoricalVAE --guide Categorical --model.num_latents {n}"
    f" --model.num_categories {c} {how}"
    for n, c in CODES
    for name, how in ESTIMATORS.items()
}
"""The options that make each row."""

MOST_VALUES = 1000  # of a code that is summed over


def do_row(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Trains and evaluates a row, or what is left of it."""
    start = ["--epochs", str(options.epochs), "--batch_size", str(options.batch_size)]
    start += ["--data", options.data, "--lr", str(options.lr), *shlex.split(ROWS[name])]
    end = ["--num_samples", str(options.num_samples), "--prior_samples", "0"]
    end += [] if options.num_data is None else ["--num_data", str(options.num_data)]
    train_and_evaluate(folder / slug(name), start, [*end, "--surgery", "false"])
    exact = folder / f"{slug(name)}.npy"
    if (codes := few_codes(name)) is not None and not exact.exists():
        np.save(exact, sum_over(codes, folder / slug(name)))


def few_codes(name: str) -> torch.Tensor | None:
    """Returns all values of a row's code in one-hot form, [S, N, C]; None if there are many."""
    for n, c in CODES:
        if name.endswith(f", {n} × {c}") and c**n <= MOST_VALUES:
            values = torch.tensor(list(itertools.product(range(c), repeat=n)))
            return torch.nn.functional.one_hot(values, c).float()
    return None


@torch.no_grad()
def sum_over(codes: torch.Tensor, run: Path) -> NDArray:
    """Returns log p(x) of each test datum, by summing p(x, z) over all z."""
    config = read_config(run)
    data = pvae.data.load(config["data"].pop("source"), **config["data"])
    model, _ = pvae.load(run)
    model.cpu().eval()
    p, log_prior = model.likelihood(codes[:, None]), model.prior().log_prob(codes)[:, None]
    found = []
    for start in range(0, len(data.test), 50):
        (x,) = data.test.observe(slice(start, start + 50))
        found.append((p.log_prob(x).double() + log_prior).logsumexp(0))
    return torch.cat(found).numpy()


def line(name: str, folder: Path) -> str:
    """Returns a row of the table."""
    found = json.loads((folder / slug(name) / "evaluation.json").read_text())
    seconds = json.loads((folder / f"{slug(name)}.json").read_text())
    bound, exact = found["log_px"][-1], folder / f"{slug(name)}.npy"
    rows = pvae.Evaluation.load(folder / slug(name)).rows  # the data that were evaluated
    cells = [
        name,
        _number(found["elbo"]["mean"]),
        f"{_number(bound['mean'])} ± {_number(bound['se'])}",
        _against(name, folder),
        _number(float(np.load(exact)[rows].mean())) if exact.exists() else "—",
        _number(found["kl"]),
        f"{100 * found['khat']['above_threshold']:.0f} %" if found["khat"] else "—",
        f"{seconds['train']:.0f}",
        f"`{ROWS[name]}`",
    ]
    return f"| {' | '.join(cells)} |"


def _against(name: str, folder: Path) -> str:
    """Returns the paired difference of a row's bound from that of the Gaussian VAE."""
    if name == GAUSSIAN or not (folder / slug(GAUSSIAN) / "evaluation.json").exists():
        return "—"
    both = {each: pvae.Evaluation.load(folder / slug(each)) for each in (GAUSSIAN, name)}
    found = pvae.compare(both).runs[1].log_px.difference
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]".replace("-", "−")


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}".replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--num-samples", type=int, default=5000)
    parser.add_argument("--num-data", type=int, help="test data that are evaluated (default: all)")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/categorical"))
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
    text = f"""# Categorical latents on {options.data}: {options.epochs} epochs

| row | ELBO | L_{options.num_samples} ± se | against the Gaussian VAE [95 %] | exact log p(x) | KL | k̂ too high | train, s | options |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

{"All" if options.num_data is None else f"The same {options.num_data:,}"} test data, nats per datum; ± is the standard error over the data. N × C is a code of N categorical
variables of C values. All rows have the default networks, minibatches of {options.batch_size}, Adam at
{options.lr:g} and {options.epochs} epochs, and are evaluated as the discrete pair, whatever the gradient in
training. VIMCO draws 10 codes in each step, the others one. Differences are paired, datum by datum.
The code of 3 × 8 has 512 values, over which the exact log p(x) sums; L is a lower bound on it.
Seconds are wall time with compiling, of one thread on a machine that did other work too; of a row
that was killed, those of its last start.

"""  # noqa: E501
    device = pvae.runtime.device.find_device("auto")
    data = pvae.data.load(options.data)
    write("categorical", text, device, data, ["torch", "pyro-ppl", "pvae"])
    sys.exit(len(done) < len(options.rows))


if __name__ == "__main__":
    main()
