"""Annealing and the inference gap: pvae's beside plain PyTorch and BlackJAX.

    python benchmarks/annealing.py [--rounds 3] [--data 100] [--num-temperatures 500]

All peers anneal the same pair (784-200-200-50, tanh, Bernoulli; untrained) for the same images,
from the prior to p(x, z), with 16 chains for each datum and two leapfrog steps at each temperature.
A transition is one trajectory of one chain. pvae's time includes all of `pvae.evaluate`: checks,
recording its graph (compiled in a first round, which is left out, then found in PyTorch's cache),
and the pilot chains that tune its step sizes, whose transitions are not counted. The hand-written
annealing is given pvae's step sizes, which costs it nothing. For the gap, each datum's own Gaussian
ascends its ELBO by Adam, with gradients from 32 samples. The hand-written one takes 200 steps, and
pvae, from the same start, at most 200: it stops when the ELBO is still, and then compares 1,000
fresh samples of both Gaussians. BlackJAX's tempered sequential Monte Carlo also resamples. It is
optional: `pip install blackjax`. Each ratio compares two rates of the same round.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import SHAPE, spread, training_data, write
from torch import Tensor, nn

import pvae
from pvae.estimators import AIS, Gap
from pvae.evaluation.estimators.hmc import schedule
from pvae.evaluation.estimators.pilot import tune
from pvae.importance import Density, Sampler
from pvae.nn import MLP

LATENT, WIDTHS, CHAINS, LEAPFROG, SAMPLES, STEPS = 50, (200, 200), 16, 2, 32, 200


class Dense:
    """A pair, and ways to anneal it."""

    def __init__(self) -> None:
        encoder, decoder = (
            MLP(SHAPE, (2, LATENT), WIDTHS, nn.Tanh),
            MLP((LATENT,), SHAPE, WIDTHS, nn.Tanh),
        )
        self.model = pvae.models.VAE(SHAPE, LATENT, decoder=decoder).eval()
        self.guide = pvae.guides.MeanField(SHAPE, LATENT, encoder=encoder).eval()

    def by_ais(self, x: Tensor, temperatures: int) -> float:
        """Returns the mean of log p(x)."""
        wanted = AIS(None, CHAINS, temperatures, LEAPFROG, start="prior")
        found = self._evaluate(x, wanted)
        return float(found.findings["ais_prior"].log_px.mean())

    def by_gap(self, x: Tensor, _: int) -> float:
        """Returns the mean ELBO of each datum's own Gaussian."""
        found = self._evaluate(x, self.gap())
        self.steps = found.findings["gap"].num_steps
        return float(found.findings["gap"].elbo_best.mean())

    @staticmethod
    def gap() -> Gap:
        # The gap needs an estimate of log p(x); two temperatures take next to no time.
        some = AIS(None, 2, 2, 1, start="prior")
        return Gap(None, some, num_steps=STEPS, num_particles=SAMPLES)

    def _evaluate(self, x: Tensor, wanted: AIS | Gap) -> pvae.Evaluation:
        return pvae.evaluate(
            self.model, self.guide, x, num_samples=2, estimators=[wanted], progress=False,
            seed=int(torch.randint(2**31, ())),
        )  # fmt: skip

    def step_sizes(self, x: Tensor, temperatures: int) -> Tensor:
        """Returns pvae's step sizes [T - 1, B, D]."""
        with Sampler(pvae.inspect(self.model, self.guide, x)) as sampler:
            density = Density(sampler, (x,))
            path, z = density.path((x,), "prior"), density.prior((x,), CHAINS)
            return tune(path, z, schedule(temperatures), LEAPFROG)

    def ais_by_hand(self, x: Tensor, temperatures: int) -> float:
        """Returns the mean of log p(x) by annealing as one would write it."""
        flat, betas = x.flatten(1), schedule(temperatures).tolist()
        z = torch.randn(CHAINS, len(x), LATENT)
        log_w = torch.zeros(CHAINS, len(x))

        def likelihood(z: Tensor) -> tuple[Tensor, Tensor]:
            z = z.detach().requires_grad_()
            logits = self.model.decoder(z).flatten(2)
            log_p = -F.binary_cross_entropy_with_logits(
                logits, flat.expand_as(logits), reduction="none"
            ).sum(-1)
            return log_p.detach(), torch.autograd.grad(log_p.sum(), z)[0]

        log_p, slope = likelihood(z)
        for t in range(1, temperatures + 1):
            log_w += (betas[t] - betas[t - 1]) * log_p
            if t == temperatures:
                break
            step, beta = self.steps_of[t - 1], betas[t]
            momentum = torch.randn_like(z)
            before = beta * log_p - (z**2).sum(-1) / 2 - (momentum**2).sum(-1) / 2
            new, p, new_slope = z, momentum + step / 2 * (beta * slope - z), slope
            for i in range(LEAPFROG):
                new = new + step * p
                new_log_p, new_slope = likelihood(new)
                half = 1 if i < LEAPFROG - 1 else 2
                p = p + step / half * (beta * new_slope - new)
            after = beta * new_log_p - (new**2).sum(-1) / 2 - (p**2).sum(-1) / 2
            accept = torch.rand_like(before).log() < after - before
            z = torch.where(accept[..., None], new, z)
            slope = torch.where(accept[..., None], new_slope, slope)
            log_p = torch.where(accept, new_log_p, log_p)
        return float((log_w.logsumexp(0) - math.log(CHAINS)).mean())

    def gap_by_hand(self, x: Tensor, _: int) -> float:
        """Returns the mean ELBO of each datum's own Gaussian, found as one would write it."""
        flat = x.flatten(1)
        with torch.no_grad():
            loc, scale = self.guide.encode(x)
        parameters = [loc.clone().requires_grad_(), scale.log().requires_grad_()]
        optimizer = torch.optim.Adam(parameters, 0.01)

        def elbo(num: int) -> Tensor:
            loc, log_scale = parameters
            z = loc + log_scale.exp() * torch.randn(num, *loc.shape)
            logits = self.model.decoder(z).flatten(2)
            target = flat.expand_as(logits)
            log_p = -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
            kl = (loc**2 + (2 * log_scale).exp() - 1) / 2 - log_scale
            return log_p.mean(0) - kl.sum(-1)

        for _ in range(STEPS):
            loss = -elbo(SAMPLES).sum()
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        with torch.no_grad():
            return float(elbo(1000).mean())


def by_blackjax(pair: Dense) -> Callable[[Tensor, int], float] | None:
    """Returns annealing by BlackJAX's tempered SMC, or None if it is not installed."""
    try:
        import blackjax
        import blackjax.smc.resampling as resampling
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None
    layers = [m for m in pair.model.decoder.modules() if isinstance(m, nn.Linear)]
    weights = [
        (jnp.asarray(m.weight.detach().numpy()), jnp.asarray(m.bias.detach().numpy()))
        for m in layers
    ]

    def decode(z: jax.Array) -> jax.Array:
        for weight, bias in weights[:-1]:
            z = jnp.tanh(weight @ z + bias)
        weight, bias = weights[-1]
        return weight @ z + bias

    def log_prior(z: jax.Array) -> jax.Array:
        return -(z**2 + math.log(2 * math.pi)).sum() / 2

    def run(x: jax.Array, betas: jax.Array, step: jax.Array, key: jax.Array) -> jax.Array:
        def log_likelihood(z: jax.Array) -> jax.Array:
            logits = decode(z)
            return (x * logits - jax.nn.softplus(logits)).sum()

        parameters = {"step_size": step[None], "num_integration_steps": jnp.array([LEAPFROG]),
                      "inverse_mass_matrix": jnp.ones((1, LATENT))}  # fmt: skip
        smc = blackjax.tempered_smc(
            log_prior, log_likelihood, blackjax.hmc.build_kernel(), blackjax.hmc.init,
            parameters, resampling.systematic, num_mcmc_steps=1,
        )  # fmt: skip
        first, rest = jax.random.split(key)
        state = smc.init(jax.random.normal(first, (CHAINS, LATENT)))

        def one(carry: tuple, beta: jax.Array) -> tuple:
            state, key = carry
            key, own = jax.random.split(key)
            state, info = smc.step(own, state, beta)
            return (state, key), info.log_likelihood_increment

        return jax.lax.scan(one, (state, rest), betas)[1].sum()

    of_all = jax.jit(jax.vmap(run, (0, None, 0, 0)))

    def annealed(x: Tensor, temperatures: int) -> float:
        flat = jnp.asarray(x.flatten(1).numpy())
        betas = jnp.asarray(schedule(temperatures)[1:].numpy(), jnp.float32)
        steps = jnp.asarray(pair.steps_of.mean((0, 2)).numpy())
        keys = jax.random.split(jax.random.PRNGKey(int(torch.randint(2**31, ()))), len(flat))
        return float(of_all(flat, betas, steps, keys).mean())

    return annealed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=int, default=100)
    parser.add_argument("--num-temperatures", type=int, default=500)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.manual_seed(0)
    data, what = training_data()
    x = data.test.observe(slice(options.data))[0]
    pair = Dense()
    pair.steps_of = pair.step_sizes(x, options.num_temperatures)
    annealed = {"hand-written PyTorch": pair.ais_by_hand, "pvae's AIS": pair.by_ais}
    if other := by_blackjax(pair):
        annealed["BlackJAX's tempered SMC, jitted"] = other
    ascended = {"hand-written PyTorch": pair.gap_by_hand, "pvae's Gap": pair.by_gap}
    text = "# Annealing and the inference gap\n"
    for title, peers in (("transitions", annealed), ("data", ascended)):
        rates: dict[str, list[float]] = {name: [] for name in peers}
        found: dict[str, list[float]] = {name: [] for name in peers}
        for i in range(options.rounds + 1):
            for name, run in peers.items():
                began = time.perf_counter()
                found[name].append(run(x, options.num_temperatures))
                taken = time.perf_counter() - began
                number = CHAINS * (options.num_temperatures - 1) if title == "transitions" else 1
                if i:  # the first compiles
                    rates[name].append(len(x) * number / taken)
                print(f"round {i}  {name}: {found[name][-1]:.3f} nats, {taken:.1f} s", flush=True)
        first = next(iter(rates.values()))
        value = "log p(x)" if title == "transitions" else "best ELBO"
        text += f"\n| by | {title}/s, median (range) | ratio to the first | mean {value} |\n"
        text += "| --- | --- | --- | --- |\n"
        for name, own in rates.items():
            ratio = spread([a / b for a, b in zip(own, first, strict=True)])
            mean = statistics.fmean(found[name])
            error = statistics.stdev(found[name]) / len(found[name]) ** 0.5
            text += f"| {name} | {spread(own, 1)} | {ratio} "
            text += f"| {mean:.2f} ± {error:.2f} |\n"
        missing = title == "transitions" and "BlackJAX's tempered SMC, jitted" not in peers
        text += "| BlackJAX: not installed | – | – | – |\n" if missing else ""
    text += f"""
- Data: {what}, {len(x)} images, binarised once. {CHAINS} chains a datum, {LEAPFROG} leapfrog steps,
  {options.num_temperatures} temperatures; for the gap {SAMPLES} samples a gradient,
  {STEPS} steps by hand and {pair.steps} in pvae.
- Pair: decoder 50-200-200-784, tanh, Bernoulli, float32, untrained. {options.rounds} rounds.
- Nats are means over the rounds ± their standard error.
"""
    packages = ["torch", "pyro-ppl", "pvae"]
    if len(annealed) > 2:
        packages += ["blackjax", "jax"]
    write("annealing", text, torch.device("cpu"), data, packages)


if __name__ == "__main__":
    main()
