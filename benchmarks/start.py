"""A whole training from a cold start: `pvae.fit`, compiling included, beside `pyro.infer.SVI`.

    python benchmarks/start.py [--epochs 10] [--rounds 3]

All peers train the dense 784-400-20 pair on MNIST (or noise of its size) by Adam at 1e-3 in
minibatches of 128. Each training is a new process with an empty cache of compiled code, except the
row that says otherwise. Its time is that of the training call, without imports and loading. Each
ratio compares two times of the same round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import pyro
import torch
from common import spread, training_data, write
from epoch import BATCH, LR, minibatches, pair
from pyro.infer import SVI, TraceMeanField_ELBO

import pvae

PYRO = "pyro.infer.SVI, its defaults"
PEERS = {
    PYRO: "pyro",
    "pvae.fit, mode auto": "auto",
    "pvae.fit, compiled": "compiled",
    "pvae.fit, compiled, from the cache": "cached",
    "pvae.fit, eager": "eager",
}


def trained(how: str, epochs: int) -> float:
    """Returns the seconds of a training."""
    data, _ = training_data()
    torch.manual_seed(0)
    model, guide = pair(torch.device("cpu"))
    began = time.perf_counter()
    if how == "pyro":
        svi = SVI(model, guide, pyro.optim.Adam({"lr": LR}), TraceMeanField_ELBO())
        for epoch in range(epochs):
            for x in minibatches(data.train.raw, epoch):
                svi.step(x)
    else:
        mode = "compiled" if how == "cached" else how
        options = {"epochs": epochs, "batch_size": BATCH, "lr": LR, "mode": mode}
        pvae.fit(model, guide, data, schedule="constant", progress=False, **options)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the training of this process
    options = parser.parse_args()
    if options.one:
        print(trained(options.one, options.epochs))
        return
    seconds: dict[str, list[float]] = {name: [] for name in PEERS}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as kept:
            for name, how in PEERS.items():
                with tempfile.TemporaryDirectory() as empty:
                    folder = kept if how in ("compiled", "cached") else empty
                    command = [sys.executable, __file__, "--epochs", str(options.epochs)]
                    text = subprocess.run(
                        [*command, "--one", how], check=True, stdout=subprocess.PIPE, text=True,
                        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder},
                    ).stdout  # fmt: skip
                seconds[name].append(float(text.splitlines()[-1]))
                print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    rows = [
        f"| {name} | {spread(times, 1)} | "
        f"{spread([a / b for a, b in zip(times, seconds[PYRO], strict=True)])} |"
        for name, times in seconds.items()
    ]
    data, what = training_data()
    steps = options.epochs * -(-len(data.train) // BATCH)
    ours = statistics.median(
        a / b for a, b in zip(seconds["pvae.fit, mode auto"], seconds[PYRO], strict=True)
    )
    text = f"""# A training of {options.epochs} epochs from a cold start

| trained by | s, median (range) | ratio to the first, median (range) |
| --- | --- | --- |
{chr(10).join(rows)}

pvae.fit over pyro.infer.SVI: {ours:.2f}.

- Data: {what}; {steps:,} steps of the dense 784-400-20 pair, {options.rounds} rounds.
"""
    write("start", text, torch.device("cpu"), data, ["torch", "pyro-ppl", "pvae"])


if __name__ == "__main__":
    main()
