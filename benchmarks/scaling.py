"""Growth: time and memory of training and evaluation against the sizes of data and pair.

    python benchmarks/scaling.py [--sweeps "data, training" ...] [--share 1.0]

One size at a time grows, and the others stay: 784 values in 20 latents through one hidden layer
of 400, minibatches of 500 for training and K = 50 for evaluation. Images grow with convolutions.
Each measurement is a new process, so that its peak memory is its own: the growth of resident
memory after data and pair have been made. --share takes only the sizes up to this share of the
largest. The slope is that of log time against log size over the three largest sizes; 1 is linear.
The table and a picture are written to benchmarks/results.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import file_name, write

import pvae
from pvae.callbacks import Callback, Training
from pvae.data import Split

SWEEPS = {
    "data, training": [1_000, 10_000, 100_000, 1_000_000],
    "data, evaluation": [100, 1_000, 10_000, 100_000],
    "samples K, evaluation": [100, 1_000, 10_000, 100_000],
    "pixels, training": [1 * 28**2, 3 * 32**2, 3 * 64**2, 3 * 128**2],
    "pixels, evaluation": [1 * 28**2, 3 * 32**2, 3 * 64**2, 3 * 128**2],
    "latents, training": [10, 100, 1_000, 10_000],
    "latents, evaluation": [10, 100, 1_000, 10_000],
    "layers, training": [1, 4, 16, 64],
    "layers, evaluation": [1, 4, 16, 64],
}
"""Sizes of each sweep."""

_STEPS, _BATCH, _DATA, _K = 40, 500, 200, 50


def images(number: int, pixels: int) -> torch.Tensor:
    """Returns images of 8 bits, [N, C, H, W]."""
    shape = {784: (1, 28, 28)}.get(pixels) or (3, *[math.isqrt(pixels // 3)] * 2)
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, *shape), generator=draw, dtype=torch.uint8)


def measured(sweep: str, size: int) -> dict[str, float]:
    """Returns the seconds and the bytes of one measurement."""
    what, task = sweep.split(", ")
    number = {"data": size}.get(what, _BATCH if task == "training" else _DATA)
    raw = images(number, size if what == "pixels" else 784)
    if what == "pixels":
        number = 64 if task == "training" else 20
        raw = raw[:number]
    data = pvae.data.load({"x_train": raw, "x_test": raw[:10]}, observation="threshold")
    part = data.train
    latents = size if what == "latents" else 20
    if what == "pixels":
        sizes = {"network": "conv", "channels": [16, 32]}
    else:
        sizes = {"hidden_dims": [400] * (size if what == "layers" else 1)}
    torch.manual_seed(0)
    model = pvae.models.VAE(data.event_shape, latents, **sizes)
    guide = pvae.guides.MeanField(data.event_shape, latents, **sizes)
    k = size if what == "samples K" else _K
    before = _resident()
    if task == "training":
        batch, clock = min(number, _BATCH), Clock()
        epochs = 1 if what == "data" else _STEPS * batch // number
        how = {"epochs": epochs, "batch_size": batch, "mode": "eager", "progress": False}
        pvae.fit(model, guide, part, callbacks=[clock], **how)
        seconds = clock.ended - clock.began
    else:

        def evaluate(some: Split, num_samples: int) -> float:
            how = {"num_samples": num_samples, "estimators": [], "progress": False}
            began = time.perf_counter()
            pvae.evaluate(model, guide, some, **how)
            return time.perf_counter() - began

        few = part.take(np.arange(2))
        evaluate(few, 2)  # imports
        checks = evaluate(few, 2)
        seconds = evaluate(part, k) - checks
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "bytes": max(0, peak - before)}


class Clock(Callback):
    """Notes when the steps begin, after all checks, and when they have ended."""

    def start(self, training: Training) -> None:
        self.began = time.perf_counter()

    def end(self, training: Training) -> None:
        self.ended = time.perf_counter()


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Returns the slope of log seconds against log size over the three largest sizes."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(seconds[-3:]), 1)[0])


def drawn(found: dict[str, list[dict[str, float]]], sizes: dict[str, list[int]]) -> None:
    """Draws time and memory against size."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for name, each in found.items():
        style = "-o" if name.endswith("training") else "--s"
        for axis, key, unit in zip(axes, ("seconds", "bytes"), (1, 1e6), strict=True):
            axis.plot(sizes[name], [one[key] / unit for one in each], style, ms=4, label=name)
    axes[0].set(ylabel="seconds")
    axes[1].set(ylabel="memory beyond data and pair, MB")
    for axis in axes:
        axis.set(xscale="log", yscale="log", xlabel="size")
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    where = Path(__file__).parent / "results" / f"scaling-{file_name(torch.device('cpu'))}.png"
    figure.savefig(where, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", nargs="*", default=list(SWEEPS), choices=SWEEPS)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # a measurement of this process
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one[0], int(options.one[1]))))
        return
    found: dict[str, list[dict[str, float]]] = {}
    sizes: dict[str, list[int]] = {}
    for name in options.sweeps:
        sizes[name] = [s for s in SWEEPS[name] if s <= options.share * SWEEPS[name][-1]]
        found[name] = []
        for size in sizes[name]:
            command = [sys.executable, __file__, "--one", name, str(size)]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name].append(json.loads(text.splitlines()[-1]))
            print(f"{name} {size:,}: {found[name][-1]}", flush=True)
    rows = []
    for name, each in found.items():
        times = " / ".join(f"{one['seconds']:.3g}" for one in each)
        memory = " / ".join(f"{one['bytes'] / 1e6:.0f}" for one in each)
        shown = " / ".join(f"{size:,}" for size in sizes[name])
        power = slope(sizes[name], [one["seconds"] for one in each]) if len(each) > 1 else math.nan
        rows.append(f"| {name} | {shown} | {times} | {power:.2f} | {memory} |")
    drawn(found, sizes)
    text = f"""# Growth of time and memory

| what grows | sizes | seconds | slope | MB beyond data and pair |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

- Training is one epoch of minibatches of {_BATCH} where the data grow, and about {_STEPS} eager
  steps elsewhere; evaluation is of {_DATA} data (20 images where pixels grow), K = {_K}. What pvae
  checks before the first step, and the time of an evaluation of two data with two samples, are not
  included. Slope: of log seconds against log size, the three largest.
"""
    write("scaling", text, torch.device("cpu"), None, ["torch", "pyro-ppl", "pvae"])


if __name__ == "__main__":
    main()
