"""Throughput of likelihood evaluation: `pvae.evaluate` beside plain PyTorch, pythae and Pyro.

    python benchmarks/evaluate.py [--device auto] [--rounds 7] [--data N] [--num-samples 5000]
    python benchmarks/evaluate.py --network conv --num-samples 1000 --data 200

All peers evaluate the same networks (784-200-200-50-200-200-784, tanh, Bernoulli; or two layers of
32 and 64 convolutions) with the same weights on the same images, by importance sampling from
q(z|x). A sample is one z of one datum. The peers first choose their chunks. Then, in one process,
each round runs every peer in rotating order. Each ratio compares two rates of the same round. If a
peer's mean log p(x) differs from that of `pvae.evaluate` by more than the Monte Carlo error, the
run stops. pythae is optional: install it with `pip install --no-deps pythae` (without --no-deps it
installs a backport of dataclasses), pydantic and imageio.
"""

import argparse
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import pyro
import torch
import torch.nn.functional as F
from common import SHAPE, device_name, spread, training_data, write
from pyro import poutine
from torch import Tensor, nn

import pvae
from pvae.nn import MLP, make_decoder, make_encoder
from pvae.runtime.device import find_device

LATENT, WIDTHS, SIGMAS = 50, (200, 200), 5.0
NETWORKS = {
    "dense": "encoder 784-200-200-2·50, decoder 50-200-200-784, tanh",
    "conv": "two convolutions of 32 and 64 channels, latents of 50, and their mirror, ReLU",
}


def bce(logits: Tensor, x: Tensor) -> Tensor:
    x = x[:, None].expand_as(logits)
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def softplus(logits: Tensor, x: Tensor) -> Tensor:
    return (x[:, None] * logits - F.softplus(logits)).sum(-1)


def softplus_in_place(logits: Tensor, x: Tensor) -> Tensor:
    # Without a second tensor of the size of the logits: its page faults cost more than the sum.
    return torch.matmul(logits, x[:, :, None])[..., 0] - F.softplus(logits, out=logits).sum(-1)


class Networks:
    """A pair, and log p(x) of data [N, 1, 28, 28] with its networks in each peer's way."""

    def __init__(self, network: str, device: torch.device) -> None:
        if network == "conv":
            encoder = make_encoder(SHAPE, (2, LATENT), "conv")
            decoder = make_decoder((LATENT,), SHAPE, "conv")
        else:
            encoder = MLP(SHAPE, (2, LATENT), WIDTHS, nn.Tanh)
            decoder = MLP((LATENT,), SHAPE, WIDTHS, nn.Tanh)
        with torch.no_grad():
            # With a guide as wide as the prior and a decoder that hardly uses z, the weights have
            # light tails, so that the means can be compared precisely.
            last(encoder).bias[LATENT:] += math.log(math.e - 1)
            last(decoder).weight *= 0.5
        self.model = pvae.models.VAE(SHAPE, LATENT, decoder=decoder).to(device).eval()
        self.guide = pvae.guides.MeanField(SHAPE, LATENT, encoder=encoder).to(device).eval()
        self.pythae = in_pythae(self.model, self.guide)

    def evaluation(self, x: Tensor, num_samples: int) -> pvae.Evaluation:
        return pvae.evaluate(
            self.model, self.guide, x, num_samples=num_samples, device=str(x.device),
            seed=int(torch.randint(2**31, ())), estimators=[pvae.estimators.Surgery()],
            progress=False,
        )  # fmt: skip

    def by_evaluate(self, x: Tensor, num_samples: int) -> Tensor:
        return torch.from_numpy(self.evaluation(x, num_samples).log_px)

    def by_log_weights(self, x: Tensor, num_samples: int) -> Tensor:
        log_w = pvae.log_weights(self.model, self.guide, x, num_samples=num_samples)
        return log_w.logsumexp(0) - math.log(num_samples)

    @torch.inference_mode()
    def by_hand(
        self, x: Tensor, num_samples: int, data: int, samples: int, likelihood: Callable
    ) -> Tensor:
        log_px = []
        for batch in x.split(data):
            loc, scale = (t[:, None] for t in self.guide.encode(batch))
            log_scale, flat = scale.log().sum(-1), batch.flatten(1)
            log_sum = torch.full((len(batch),), -math.inf, device=x.device)
            for start in range(0, num_samples, samples):
                count = min(samples, num_samples - start)
                eps = torch.randn(len(batch), count, LATENT, device=x.device)
                z = torch.addcmul(loc, scale, eps)
                log_w = likelihood(self.model.decoder(z).flatten(2), flat)
                log_w += 0.5 * (eps.square() - z.square()).sum(-1) + log_scale
                log_sum = torch.logaddexp(log_sum, log_w.logsumexp(1))
            log_px.append(log_sum - math.log(num_samples))
        return torch.cat(log_px)

    @torch.no_grad()
    def by_plate(self, x: Tensor, num_samples: int, data: int, samples: int) -> Tensor:
        log_px = []
        for batch in x.split(data):
            log_sum = torch.full((len(batch),), -math.inf, device=x.device)
            for start in range(0, num_samples, samples):
                with pyro.plate("particles", min(samples, num_samples - start), dim=-2):
                    q = poutine.trace(self.guide).get_trace(batch)
                    p = poutine.trace(poutine.replay(self.model, trace=q)).get_trace(batch)
                q.compute_log_prob()
                p.compute_log_prob()
                log_joint = p.nodes["x"]["log_prob"] + p.nodes["z"]["log_prob"]
                log_w = log_joint - q.nodes["z"]["log_prob"]
                log_sum = torch.logaddexp(log_sum, log_w.logsumexp(0))
            log_px.append(log_sum - math.log(num_samples))
        return torch.cat(log_px)

    @torch.inference_mode()
    def by_pythae(self, x: Tensor, num_samples: int, batch_size: int) -> Tensor:
        # Despite its name it returns the mean of log p(x), not of its negative.
        return torch.tensor(self.pythae.get_nll(x, num_samples, batch_size))


def last(network: nn.Module) -> nn.Module:
    """Returns the last layer that has weights."""
    return [m for m in network.modules() if getattr(m, "bias", None) is not None][-1]


def in_pythae(model: nn.Module, guide: nn.Module) -> nn.Module | None:
    """Returns the pair as a model of pythae, or None if pythae is not installed."""
    try:
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
    except ImportError:
        return None

    class Encoder(BaseEncoder):
        def forward(self, x: Tensor) -> ModelOutput:
            loc, scale = guide.encode(x)
            return ModelOutput(embedding=loc, log_covariance=2 * scale.log())

    class Decoder(BaseDecoder):
        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=model.decoder(z).sigmoid())

    config = VAEConfig(input_dim=SHAPE, latent_dim=LATENT, reconstruction_loss="bce")
    return VAE(config, Encoder(), Decoder()).eval()


@dataclass
class Peer:
    name: str
    run: Callable[..., Tensor]  # (x, num_samples, *chunk) -> log p(x) [N], or its mean
    x: Tensor
    chunk: tuple = ()
    rates: list[float] = field(default_factory=list)  # samples per second, by round
    errors: list[float] = field(default_factory=list)  # of the mean log p(x), nats, by round


def quickest(run: Callable[..., Tensor], x: Tensor, num_samples: int, grid: list[tuple]) -> tuple:
    """Returns the fastest chunk: runs each one twice, then the best four four times more."""
    times: dict[tuple, list[float]] = {chunk: [] for chunk in grid}
    for repeats, most in ((2, len(grid)), (4, 4)):
        best = sorted(grid, key=lambda chunk: min(times[chunk], default=0.0))[:most]
        for _, chunk in itertools.product(range(repeats), best):
            start = time.perf_counter()
            run(x, num_samples, *chunk).sum().item()
            times[chunk].append(time.perf_counter() - start)
    return min(grid, key=lambda chunk: min(times[chunk]))


def make_peers(pair: Networks, x: Tensor, num_samples: int) -> list[Peer]:
    data = (16, 64, 256) if x.is_cuda else (1, 4, 16)
    rows = [2**i for i in (range(12, 21, 2) if x.is_cuda else range(7, 13))]
    some, trial = x[: data[-1]], num_samples if x.is_cuda else min(num_samples, 2048)
    chunks = [(n, r // n) for n, r in itertools.product(data, rows) if r // n <= trial]
    forms = [(*chunk, form) for chunk in chunks for form in (bce, softplus, softplus_in_place)]
    hand = quickest(pair.by_hand, some, trial, forms)
    plate = quickest(pair.by_plate, some, trial, chunks)
    tenth = x if x.is_cuda else x[: max(40, len(x) // 10)]
    hand_name = f"hand-written PyTorch, {_size(hand)}, {hand[2].__name__}"
    peers = [
        Peer(hand_name, pair.by_hand, tenth, hand),
        Peer("pvae.evaluate, all but samples from the prior", pair.by_evaluate, x),
        Peer("pvae.log_weights", pair.by_log_weights, tenth),
        Peer(
            f"Pyro's particle plate, {_size(plate)}", pair.by_plate, tenth[: len(tenth) // 4], plate
        ),
    ]
    if pair.pythae is not None:
        sizes = [(n,) for n in (100, 250, 500, 1000, 2500, 5000) if num_samples % n == 0]
        best, few = quickest(pair.by_pythae, x[:2], num_samples, sizes), tenth[:10]
        for note, size in (("its best", best), ("its default", (100,))):
            name = f"pythae's VAE.get_nll, batch_size={size[0]} ({note})"
            peers.append(Peer(name, pair.by_pythae, few, size))
    return peers


def _size(chunk: tuple) -> str:
    return f"{chunk[0]} data × {chunk[1]} samples"


def measure(peers: list[Peer], truth: pvae.Evaluation, rounds: int, budget: float) -> None:
    """Adds each round's rates and errors to the peers; refuses a mean that disagrees.

    Stops after three rounds or more if another round would exceed the budget.
    """
    begun = time.perf_counter()
    for i in range(rounds):
        spent = time.perf_counter() - begun
        if i >= 3 and spent * (i + 1) / i > budget:
            break
        shift = i % len(peers)
        for peer in peers[shift:] + peers[:shift]:
            torch.manual_seed(i)
            start = time.perf_counter()
            log_px = peer.run(peer.x, truth.num_samples, *peer.chunk)
            mean = log_px.double().mean().item()  # waits for the device
            took = time.perf_counter() - start
            peer.rates.append(len(peer.x) * truth.num_samples / took)
            peer.errors.append(mean - truth.log_px[: len(peer.x)].mean())
            print(f"round {i}  {peer.name:<60} {peer.rates[-1]:12,.0f}/s  {mean:.4f}", flush=True)
            most = SIGMAS * math.sqrt(2) * standard_error(truth, len(peer.x))
            assert abs(peer.errors[-1]) < most, f"{peer.name} is off by {peer.errors[-1]} nats"


def standard_error(truth: pvae.Evaluation, num_data: int) -> float:
    """Returns the Monte Carlo error of the mean log p(x) of the first data."""
    return math.sqrt((truth.log_px_se[:num_data] ** 2).sum()) / num_data


def table(peers: list[Peer], truth: pvae.Evaluation) -> str:
    lines = [
        "| evaluated by | data | 10³ samples/s, median (range) | ratio to the first, median (range)"
        " | mean log p(x), less pvae's |",
        "| --- | --- | --- | --- | --- |",
    ]
    for peer in peers:
        error = statistics.fmean(peer.errors)
        se = standard_error(truth, len(peer.x)) * math.sqrt(1 + 1 / len(peer.errors))
        lines.append(
            f"| {peer.name} | {len(peer.x):,} | {spread([r / 1000 for r in peer.rates], 1)} "
            f"| {spread(_ratios(peer, peers[0]), 2)} | {error:+.4f} ± {se:.4f} |"
        )
    if not any("pythae" in peer.name for peer in peers):
        lines.append("| pythae's VAE.get_nll: not installed | – | – | – | – |")
    return "\n".join(lines)


def _ratios(ours: Peer, theirs: Peer) -> list[float]:
    return [a / b for a, b in zip(ours.rates, theirs.rates, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--network", default="dense", choices=["dense", "conv"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=int, help="N, at least 40; 2000, on a GPU 5000")
    parser.add_argument("--num-samples", type=int, default=5000, help="a multiple of 100")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds for the rounds")
    options = parser.parse_args()
    if options.num_samples % 100 or (options.data or 40) < 40:
        parser.error("--data is at least 40, --num-samples a multiple of 100 (pythae's batch_size)")
    warnings.filterwarnings("ignore", category=FutureWarning)
    device = find_device(options.device)
    torch.manual_seed(0)
    data, what = training_data()
    size = options.data or (5000 if device.type == "cuda" else 2000)
    x = data.test.observe(slice(size))[0].to(device)
    pair = Networks(options.network, device)
    truth = pair.evaluation(x, options.num_samples)
    peers = make_peers(pair, x, options.num_samples)
    measure(peers, truth, options.rounds, options.budget)

    packages = ["torch", "pyro-ppl", "pvae", *(["pythae"] if pair.pythae else [])]
    rivals = [
        (peer.name.split(",")[0], _ratios(peers[1], peer)) for peer in (peers[0], *peers[3:5])
    ]
    times = ", ".join(f"{statistics.median(ratio):.2f} × {rival}" for rival, ratio in rivals)
    text = f"""# Throughput of likelihood evaluation: {device_name(device)}, {options.network}

{table(peers, truth)}

pvae.evaluate is {times}.

- Data: {what}, {len(x):,} images,
  binarised once; peers with fewer data take the first of them. K = {truth.num_samples}.
- Pair: {NETWORKS[options.network]}, Bernoulli, float32; untrained,
  so that the tails of the weights are light and the means can be compared.
- Rounds: {len(peers[0].rates)}, every peer once in each; a ratio is of two rates of one round. No
  peer has gradients; Pyro validates. The hand-written loop and Pyro use the best of a grid of
  chunks. The loop also uses the best of three ways to write the likelihood, and computes only L_K.
  pvae.evaluate compiles the model, as it does from ten million samples on, and its time includes
  that; pvae.log_weights does not compile.
- The last column, in nats, is the mean over rounds minus that of one more pvae.evaluate of the
  same data (its median k̂ is {truth.summary()["khat"]["median"]:.2f}), ± the Monte Carlo error; \
every run was within
  {SIGMAS:g} standard errors.
"""
    suffix = "" if options.network == "dense" else f"-{options.network}"
    write("evaluate", text, device, data, packages, suffix)


if __name__ == "__main__":
    main()
