"""Time of a training step beside a process that keeps one core busy.

    python benchmarks/busy.py [--rounds 3]

`pvae.SVI` takes steps of the dense 784-400-20 pair, minibatches of 128. Threads of OpenMP that wait
for others spin by default, and on a busy core they keep those that work from running. The shell
lets them spin for a moment only, and sleep then. Each measurement is a new process, first alone and
then beside the busy one; each ratio is of two times of one process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import pyro
import torch
from common import SHAPE, spread, write
from pyro.infer import TraceMeanField_ELBO

import pvae
from pvae.cli.main import SPINS

POLICIES = {
    "waiting threads spin (torch's default)": {},
    f"they spin {SPINS} times, then sleep (pvae's shell)": {"GOMP_SPINCOUNT": SPINS},
    "they sleep at once (OMP_WAIT_POLICY=PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
_SECONDS, _WARM_UP = 3.0, 10


def measured(mode: str) -> list[float]:
    """Returns the milliseconds of a step, alone and beside a busy process."""
    torch.manual_seed(0)
    x = torch.rand(128, *SHAPE).round()
    pair = (
        pvae.models.VAE(SHAPE, 20, hidden_dims=(400,)),
        pvae.guides.MeanField(SHAPE, 20, hidden_dims=(400,)),
    )
    svi = pvae.SVI(*pair, torch.optim.Adam, TraceMeanField_ELBO(), mode=mode)
    found = []
    with pyro.validation_enabled(False):
        for _ in range(_WARM_UP):
            svi.step(x)
        for beside in (False, True):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
            time.sleep(0.5)
            began, steps = time.perf_counter(), 0
            while time.perf_counter() - began < _SECONDS:
                svi.step(x)
                steps += 1
            found.append(1e3 * (time.perf_counter() - began) / steps)
            if busy is not None:
                busy.kill()
                busy.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the mode of this process
    options = parser.parse_args()
    if options.one:
        print(*measured(options.one))
        return
    plain = {
        name: value
        for name, value in os.environ.items()
        if name[:5] not in ("OMP_N", "OMP_W", "GOMP_")
    }
    times: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(options.rounds):
        for mode in ("eager", "compiled"):
            for name, how in POLICIES.items():
                text = subprocess.run(
                    [sys.executable, __file__, "--one", mode], env=plain | how, check=True,
                    stdout=subprocess.PIPE, text=True,
                ).stdout  # fmt: skip
                both = [*map(float, text.split()[-2:])]
                times.setdefault((mode, name), []).append(both)
                print(f"{mode}, {name}: {both[0]:.1f} ms alone, {both[1]:.1f} beside", flush=True)
    rows = []
    for (mode, name), found in times.items():
        alone, beside = zip(*found, strict=True)
        ratio = statistics.median(b / a for a, b in found)
        rows.append(f"| {mode} | {name} | {spread(alone)} | {spread(beside)} | {ratio:.2f} |")
    text = f"""# A step beside a process that keeps one core busy

| step | threads | ms alone, median (range) | ms beside it | ratio |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

- Dense 784-400-20, minibatches of 128, {os.cpu_count()} cores, {options.rounds} rounds.
"""
    write("busy", text, torch.device("cpu"), None, ["torch", "pyro-ppl", "pvae"])


if __name__ == "__main__":
    main()
