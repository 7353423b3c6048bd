"""Time per epoch of MNIST: `pvae.fit` beside a hand-written loop and `pyro.infer.SVI`.

    python benchmarks/epoch.py [--device auto] [--rounds 7] [--budget 200]

All peers train the same networks (784-400-20-400-784, ReLU) on the same objective (Bernoulli
reconstruction, closed-form KL) by Adam at 1e-3. Each minibatch of 128 is binarised when it is used.
The data are on the device as uint8, and every peer draws its noise in the same way. In one
process, each round runs one epoch of every peer, in rotating order. Each ratio compares two epochs
of the same round.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import pyro
import torch
import torch.nn.functional as F
from common import SHAPE, device_name, spread, training_data, write
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pvae
from pvae.data import Data
from pvae.runtime.device import find_device

BATCH, LATENT, LR = 128, 20, 1e-3

# seed -> the epoch's ELBO, nats per datum, and its seconds if the call did more than the epoch
Epoch = Callable[[int], tuple[float, float | None]]


def minibatches(raw: Tensor, seed: int) -> Iterator[Tensor]:
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(seed)).to(raw.device)
    for rows in order.split(BATCH):
        grey = raw.index_select(0, rows).float()
        yield torch.rand(grey.shape, device=raw.device).mul_(255).lt_(grey)


def hand_written(raw: Tensor, **adam: bool) -> Epoch:
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 2 * LATENT)
    ).to(raw.device)
    decoder = nn.Sequential(
        nn.Linear(LATENT, 400), nn.ReLU(), nn.Linear(400, 784), nn.Unflatten(1, SHAPE)
    ).to(raw.device)
    parameters = [*encoder.parameters(), *decoder.parameters()]

    def epoch(seed: int) -> tuple[float, float | None]:
        optimiser = torch.optim.Adam(parameters, lr=LR, **adam)
        total = torch.zeros((), device=raw.device)
        for x in minibatches(raw, seed):
            loc, scale = encoder(x).chunk(2, dim=-1)
            scale = F.softplus(scale) + 1e-6
            z = loc + scale * torch.randn_like(loc)
            bce = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
            kl = 0.5 * (loc.square() + scale.square() - 2 * scale.log() - 1).sum()
            loss = bce + kl
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total -= loss.detach()
        return float(total) / len(raw), None

    return epoch


def pair(device: torch.device) -> tuple[nn.Module, nn.Module]:
    model = pvae.models.VAE(SHAPE, LATENT, hidden_dims=(400,))
    guide = pvae.guides.MeanField(SHAPE, LATENT, hidden_dims=(400,))
    return model.to(device), guide.to(device)


def pvae_fit(data: Data, device: torch.device, mode: str) -> Epoch:
    """Trains two epochs and times the second one: the first one compiles."""
    model, guide = pair(device)

    def epoch(seed: int) -> tuple[float, float | None]:
        begun = []

        def schedule(share: float) -> float:
            if share >= 0.5 and not begun:
                _wait(device)
                begun.append(time.perf_counter())
            return 1.0

        fit = pvae.fit(
            model, guide, data, epochs=2, batch_size=BATCH, lr=LR, schedule=schedule,
            mode=mode, seed=seed, device=str(device), progress=False,
        )  # fmt: skip
        _wait(device)
        return fit.history[-1]["elbo"], time.perf_counter() - begun[0]

    return epoch


def pyro_svi(raw: Tensor, loss: type[Trace_ELBO]) -> Epoch:
    model, guide = pair(raw.device)

    def epoch(seed: int) -> tuple[float, float | None]:
        # Pyro's store would share the pairs' parameters, because they have the same names.
        pyro.clear_param_store()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": LR}), loss())
        return -sum(svi.step(x) for x in minibatches(raw, seed)) / len(raw), None

    return epoch


def measure(
    peers: dict[str, Epoch], rounds: int, budget: float, device: torch.device
) -> dict[str, list[float]]:
    """Returns each peer's seconds per epoch, by round, after one epoch of warm-up.

    Stops after three rounds or more if another round would exceed the budget.
    """
    seconds = {name: [] for name in peers}
    names = list(peers)
    begun = time.perf_counter()
    for i in range(rounds + 1):
        spent = time.perf_counter() - begun
        if i > 3 and spent * (i + 1) / i > budget:
            break
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            _wait(device)
            start = time.perf_counter()
            elbo, own = peers[name](i)
            _wait(device)
            took = time.perf_counter() - start if own is None else own
            if i:
                seconds[name].append(took)
            print(f"round {i}  {name:<40} {took:6.2f} s  ELBO {elbo:8.2f}", flush=True)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(seconds: dict[str, list[float]]) -> str:
    base = next(iter(seconds.values()))
    lines = [
        "| trained by | s per epoch, median (range) | ratio to the first, median (range) |",
        "| --- | --- | --- |",
    ]
    for name, times in seconds.items():
        ratios = [ours / theirs for ours, theirs in zip(times, base, strict=True)]
        lines.append(f"| {name} | {spread(times)} | {spread(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    device = find_device(options.device)
    torch.manual_seed(0)
    data, what = training_data()
    raw = data.train.raw.to(device)
    peers = {
        "hand-written PyTorch, Adam(fused=True)": hand_written(raw, fused=True),
        "hand-written PyTorch, Adam()": hand_written(raw),
        "pvae.fit, compiled": pvae_fit(data, device, "compiled"),
        "pvae.fit, eager": pvae_fit(data, device, "eager"),
        "pyro.infer.SVI, TraceMeanField_ELBO": pyro_svi(raw, TraceMeanField_ELBO),
        "pyro.infer.SVI, Trace_ELBO": pyro_svi(raw, Trace_ELBO),
    }
    seconds = measure(peers, options.rounds, options.budget, device)

    times = list(seconds.values())
    ratio = statistics.median(p / h for p, h in zip(times[2], times[0], strict=True))
    rounds = len(times[0])
    text = f"""# Time per epoch: {device_name(device)}

{table(seconds)}

pvae.fit, compiled, over hand-written: {ratio:.2f}.

- Data: {what}, {len(raw):,} images.
- Task: dense 784-400-{LATENT}, minibatches of {BATCH}, dynamic binarisation, Bernoulli
  likelihood, closed-form KL (Trace_ELBO: sampled), Adam at {LR:g}.
- Rounds: {rounds} after one of warm-up, one epoch of every peer in each; a ratio is of two
  epochs of one round. pvae.fit trains two epochs, of which the second counts. Its checks for
  values that are not finite are on, and it compares compiled steps with eager ones at the start of
  an epoch. pyro.infer.SVI has its defaults: validation on, pyro.optim.Adam.
"""
    write("epoch", text, device, data, ["torch", "pyro-ppl", "pvae"])


if __name__ == "__main__":
    main()
