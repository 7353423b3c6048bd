"""Time of one training step: `pvae.SVI` beside Pyro, hand-written PyTorch and NumPyro.

    python benchmarks/svi_step.py [--device auto] [--rounds 9] [--tasks dense ...]

All peers of a task train the same networks on the same minibatch by Adam at 1e-3, and draw their
noise in the step. In one process, each round runs every peer for some steps, in rotating order.
Each ratio compares two times of the same round. NumPyro and JAX are optional: install them with
`pip install -e '.[bench]'`.
"""

import argparse
import importlib.util
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from common import SHAPE, device_name, spread, training_data, write
from pyro.infer import JitTrace_ELBO, RenyiELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pvae
from pvae.objectives import IWAE_ELBO
from pvae.runtime.device import find_device
from pvae.runtime.precision import check_precision

LR, SECONDS = 1e-3, 0.5  # of steps of a peer in a round

Step = Callable[[], float]


@dataclass(frozen=True)
class Task:
    """What is trained; `num_samples` above one means the importance-weighted bound."""

    hidden: tuple[int, ...]
    latent: int
    batch: int
    num_samples: int = 1
    network: str = "dense"

    def __str__(self) -> str:
        if self.network == "conv":
            return f"convolutional, Z {self.latent}, batch {self.batch}"
        widths = "-".join(map(str, (784, *self.hidden, self.latent)))
        return f"dense {widths}, batch {self.batch}, k = {self.num_samples}"


TASKS = {
    "dense": Task((400,), 20, 128),
    "k1": Task((200, 200), 50, 128),
    "k5": Task((200, 200), 50, 128, 5),
    "k50": Task((200, 200), 50, 128, 50),
    "conv": Task((), 20, 128, network="conv"),
    "large": Task((2000,), 50, 512),
}


def pair(task: Task, device: torch.device) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    options: dict[str, Any] = {"network": task.network}
    if task.network == "dense":
        options["hidden_dims"] = task.hidden
    model = pvae.models.VAE(SHAPE, task.latent, **options)
    guide = pvae.guides.MeanField(SHAPE, task.latent, **options)
    return model.to(device), guide.to(device)


def elbo(task: Task, library: str) -> Any:
    if task.num_samples == 1:
        return JitTrace_ELBO() if library == "jit" else TraceMeanField_ELBO()
    if library == "pvae":
        return IWAE_ELBO(task.num_samples)
    return RenyiELBO(alpha=0, num_particles=task.num_samples, vectorize_particles=True)


def by_pvae(
    task: Task, x: Tensor, mode: str, precision: str = "float32", optimiser: Any = torch.optim.Adam
) -> Step:
    svi = pvae.SVI(
        *pair(task, x.device),
        optimiser,
        elbo(task, "pvae"),
        mode=mode,
        precision=precision,
    )

    def step() -> float:
        with pyro.validation_enabled(False):
            return svi.step(x)

    step()
    if mode == "compiled" and not svi.compiled:
        raise SystemExit(f"{task} was not compiled: {svi.why_eager}")
    return step


def by_pyro(task: Task, x: Tensor, validate: bool = True, library: str = "pyro") -> Step:
    # Pyro's store would share parameters that have the same names.
    model, guide = pair(task, x.device)
    model._pyro_name, guide._pyro_name = (f"{role}{id(model)}" for role in ("model", "guide"))
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": LR}), elbo(task, library))

    def step() -> float:
        with pyro.validation_enabled(validate):
            return svi.step(x)

    return step


def by_hand(task: Task, x: Tensor, compiled: bool = False) -> Step:
    model, guide = pair(task, x.device)
    encoder, decoder = guide.encoder, model.decoder
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=LR, fused=True)
    k = task.num_samples

    def loss_of(x: Tensor) -> Tensor:
        loc, raw = encoder(x).unbind(-2)
        scale = F.softplus(raw) + 1e-6
        if k == 1:
            z = loc + scale * torch.randn_like(loc)
            bce = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
            return bce + 0.5 * (loc.square() + scale.square() - 2 * scale.log() - 1).sum()
        noise = torch.randn(k, *loc.shape, device=x.device)
        z = loc + scale * noise
        logits = decoder(z)
        each = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        log_w = (noise.square() / 2 + scale.log() - z.square() / 2).sum(-1) - each.flatten(2).sum(2)
        return (math.log(k) - log_w.logsumexp(0)).sum()

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step() -> float:
        loss = loss_of(x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def by_numpyro(task: Task, x: Tensor, scan: int = 0, products: str | None = None) -> Step:
    """One jitted step, or `scan` of them in one `lax.scan`; products in JAX's default precision."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax import lax, nn, random

    def layers(sizes: tuple[int, ...]) -> Callable:
        def call(name: str, h: Any) -> Any:
            for i, (a, b) in enumerate(itertools.pairwise(sizes)):
                bound = a**-0.5
                uniform = dist.Uniform(-bound, bound)
                w = numpyro.param(
                    f"{name}_w{i}", lambda key, u=uniform, a=a, b=b: u.sample(key, (a, b))
                )
                c = numpyro.param(f"{name}_b{i}", lambda key, u=uniform, b=b: u.sample(key, (b,)))
                h = h @ w + c
                h = nn.relu(h) if i < len(sizes) - 2 else h
            return h

        return call

    encode = layers((784, *task.hidden, 2 * task.latent))
    decode = layers((task.latent, *reversed(task.hidden), 784))

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(task.latent), 1.0).to_event(1))
            logits = decode("decoder", z)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Any) -> None:
        loc, raw = jnp.split(encode("encoder", x), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, nn.softplus(raw) + 1e-6).to_event(1))

    data = jnp.asarray(x.flatten(1).cpu().numpy())
    svi = numpyro.infer.SVI(
        model, guide, numpyro.optim.Adam(LR), numpyro.infer.TraceMeanField_ELBO()
    )
    state = svi.init(random.PRNGKey(0), data)
    if scan:

        def body(state: Any, _: Any) -> Any:
            return svi.update(state, data)

        run = jax.jit(lambda state: lax.scan(body, state, None, length=scan))
    else:
        run = jax.jit(lambda state: svi.update(state, data))

    def step() -> float:
        nonlocal state
        with jax.default_matmul_precision(products):
            state, loss = run(state)
        return float(loss[-1] if scan else loss)

    return step


def peers_of(task: Task, x: Tensor) -> dict[str, tuple[Step, int]]:
    """Returns each peer's step, and the number of training steps in one call."""
    hand, pyros = "hand-written PyTorch, Adam(fused=True)", pyro.optim.Adam({"lr": LR})
    peers: dict[str, tuple[Step, int]] = {
        hand: (by_hand(task, x), 1),
        "the same, loss under torch.compile": (by_hand(task, x, compiled=True), 1),
        "pvae.SVI, compiled": (by_pvae(task, x, "compiled"), 1),
        "pvae.SVI, eager": (by_pvae(task, x, "eager"), 1),
        "pvae.SVI, compiled, pyro.optim.Adam": (by_pvae(task, x, "compiled", optimiser=pyros), 1),
        "pvae.SVI, eager, pyro.optim.Adam": (by_pvae(task, x, "eager", optimiser=pyros), 1),
        "pyro.infer.SVI, its defaults": (by_pyro(task, x), 1),
        "pyro.infer.SVI, validation off": (by_pyro(task, x, validate=False), 1),
    }
    for precision in ("tf32", "bf16"):
        try:
            check_precision(precision, x.device)
            step = by_pvae(task, x, "compiled", precision)
            peers[f"pvae.SVI, compiled, {precision}"] = (step, 1)
        except pvae.PvaeError as error:
            print(f"without {precision}: {error}")
    if task.num_samples == 1:
        peers["pyro.infer.SVI, JitTrace_ELBO"] = (by_pyro(task, x, library="jit"), 1)
    if importlib.util.find_spec("numpyro") is None:
        print("without NumPyro: it is not installed (pip install -e '.[bench]')")
    elif task.network == "dense" and task.num_samples == 1:
        peers["NumPyro, jitted step"] = (by_numpyro(task, x), 1)
        peers["NumPyro, lax.scan of 50 steps"] = (by_numpyro(task, x, scan=50), 50)
        if x.is_cuda:
            step = by_numpyro(task, x, scan=50, products="highest")
            peers["NumPyro, lax.scan of 50 steps, no TF32"] = (step, 50)
    return peers


def measure(
    peers: dict[str, tuple[Step, int]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Returns each peer's milliseconds per step, by round, after a round of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    counts = {}
    for name, (step, at_once) in peers.items():
        begun = time.perf_counter()
        step()
        compiled = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(3):
            step()
        each = (time.perf_counter() - begun) / 3
        counts[name] = max(1, round(SECONDS / each))
        print(f"  {name:<40} first step {compiled:6.2f} s, then {1e3 * each / at_once:8.2f} ms")
    names = list(peers)
    for i in range(rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            step, at_once = peers[name]
            begun = time.perf_counter()
            for _ in range(counts[name]):
                step()
            took = time.perf_counter() - begun
            times[name].append(1e3 * took / counts[name] / at_once)
    return times


def table(task: Task, times: dict[str, list[float]]) -> str:
    base = next(iter(times))
    against = times["pyro.infer.SVI, its defaults"]
    lines = [
        f"## {task}",
        "",
        "| step of | ms, median (range) | ratio to hand-written | ratio to pyro.infer.SVI |",
        "| --- | --- | --- | --- |",
    ]
    for name, values in times.items():
        ratios = [spread([v / w for v, w in zip(values, other, strict=True)])
                  for other in (times[base], against)]  # fmt: skip
        lines.append(f"| {name} | {spread(values)} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
    device = find_device(options.device)
    data, described = training_data()
    parts = []
    for name in options.tasks:
        task = TASKS[name]
        print(f"{task}:", flush=True)
        torch.manual_seed(0)
        (x,) = data.train.observe(slice(0, task.batch))
        times = measure(peers_of(task, x.to(device)), options.rounds, device)
        parts.append(table(task, times))
        ours = statistics.median(
            a / b for a, b in zip(*(list(times.values())[i] for i in (2, 0)), strict=True)
        )
        print(f"{parts[-1]}\n\npvae.SVI, compiled, over hand-written: {ours:.2f}\n", flush=True)
    packages = ["torch", "pyro-ppl", "pvae"]
    packages += [p for p in ("numpyro", "jax") if importlib.util.find_spec(p)]
    tables = "\n\n".join(parts)
    text = f"""# Time of a training step: {device_name(device)}

{tables}

- Data: {described}, the first minibatch, binarised once.
- Rounds: {options.rounds} of about {SECONDS} s for every peer; a ratio is of two times of one
  round. All peers read the loss after each step (NumPyro's scan after 50). pvae.SVI's checks for
  values that are not finite and for changed attributes are on.
- On a GPU, XLA multiplies in TF32 unless told otherwise; PyTorch multiplies in float32 and
  convolves in TF32; pvae does both in float32, or both in TF32.
- k > 1 is the importance-weighted bound (Pyro: RenyiELBO with α = 0, vectorised particles).
"""
    write("svi_step", text, device, data, packages)


if __name__ == "__main__":
    main()
