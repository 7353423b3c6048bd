"""Import time: `import pvae` and `pvae --help`, beside the packages that they need.

    python benchmarks/imports.py [--rounds 9]

Each measurement is a new process. In each round every peer runs once, in rotating order; each ratio
compares two times of the same round. The first round, which fills the disk's cache, is not counted.
"""

import argparse
import subprocess
import sys
import time

import torch
from common import spread, write

PEERS = {
    "python, nothing": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import pyro": ["-c", "import pyro"],
    "import pvae": ["-c", "import pvae"],
    "import pvae, and a pair of it": ["-c", "import pvae; pvae.models.VAE; pvae.guides.MeanField"],
    "pvae --help": ["-m", "pvae", "--help"],
    "pvae run --help": ["-m", "pvae", "run", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in PEERS}
    names = list(PEERS)
    for i in range(options.rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            began = time.perf_counter()
            subprocess.run([sys.executable, *PEERS[name]], check=True, capture_output=True)
            if i:
                seconds[name].append(time.perf_counter() - began)
    base = seconds["import pyro"]
    rows = "\n".join(
        f"| `{name}` | {spread(own)} | {spread([a / b for a, b in zip(own, base, strict=True)])} |"
        for name, own in seconds.items()
    )
    text = f"""# Import time

| process | s, median (range) | ratio to `import pyro`, median (range) |
| --- | --- | --- |
{rows}

- {options.rounds} rounds, each process new.
"""
    write("imports", text, torch.device("cpu"), None, ["torch", "pyro-ppl", "pvae"])


if __name__ == "__main__":
    main()
