"""Times the sampling of 28×28 images by autoregressive networks, with caches and by full passes.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py [--size 16] [--share 0.05] [--rows PixelCNN ...]

Networks with random weights draw binary images in one process. The cached
way draws whole images. Full passes are timed at a share of the pixels, spread over the image, and
multiplied: each pass costs the same.
"""

import argparse
import time

import torch
from common import SHAPE, write

from pvae.distributions import Autoregressive, heads
from pvae.nn import (
    MADE,
    CausalTransformer,
    GatedPixelCNN,
    Ordered,
    PixelCNN,
    PixelCNNPlusPlus,
    PixelRNN,
    WaveNet,
)

ROWS = {
    "MADE": lambda: MADE(SHAPE),
    "PixelCNN": lambda: PixelCNN(SHAPE),
    "gated PixelCNN, 5×5": lambda: GatedPixelCNN(SHAPE, kernel_size=5),
    "PixelCNN++": lambda: PixelCNNPlusPlus(SHAPE),
    "row LSTM": lambda: PixelRNN(SHAPE, kind="row"),
    "diagonal BiLSTM": lambda: PixelRNN(SHAPE, kind="diagonal"),
    "causal transformer": lambda: CausalTransformer(SHAPE),
    "WaveNet": lambda: WaveNet(SHAPE),
}


@torch.no_grad()
def times(network: Ordered, size: int, share: float) -> tuple[float, float, float]:
    """Returns CPU seconds of one pass, and of `size` images with caches and by full passes."""
    network.eval()
    head = heads.Bernoulli().sized(SHAPE)
    p = Autoregressive(network, head)
    p.sample((1,))
    start = time.process_time()
    x = p.sample((size,))
    cached = time.process_time() - start
    num = max(1, round(share * network.num_steps))
    step = Ordered.stepper(network, x)
    start = time.process_time()
    for i in range(num):
        f = step(i * network.num_steps // num)
        f.sigmoid().bernoulli()
    each = (time.process_time() - start) / num
    return each, cached, each * network.num_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    given = parser.parse_args()
    text = f"""# Sampling {given.size} images of 28×28

| network | one pass, s | full passes, s | with caches, s | ratio |
| --- | --- | --- | --- | --- |
"""
    for name in given.rows:
        torch.manual_seed(0)
        each, cached, whole = times(ROWS[name](), given.size, given.share)
        text += f"| {name} | {each:.3f} | {whole:.1f} | {cached:.2f} | {whole / cached:.0f} |\n"
        print(text.splitlines()[-1], flush=True)
    text += f"""
- CPU seconds for all images together, of networks of the default sizes, except 5×5, in one
  process. Full passes were timed at {100 * given.share:g} % of the pixels and multiplied.
"""
    write("sampling", text, torch.device("cpu"), None, ["torch", "pyro-ppl", "pvae"])


if __name__ == "__main__":
    main()
