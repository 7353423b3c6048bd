"""Bidirectional Monte Carlo: log p(x) of simulated data between two bounds."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from markupsafe import Markup
from pyro import poutine
from torch import Tensor

from pvae.drawing import Panel, attempt, axes, chart, colours, key, text
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Task
from pvae.evaluation.estimators.annealing import Annealing
from pvae.evaluation.estimators.bounds import log_mean_exp
from pvae.evaluation.estimators.hmc import anneal_back, schedule
from pvae.evaluation.estimators.pilot import pilot_length
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import finite, mean_and_se, se, show
from pvae.importance import Density, Sampler, seed_unit
from pvae.pair import latent_sites, trace_program

__all__ = ["BDMC", "Sandwich"]


@dataclass(frozen=True)
class Sandwich(Finding, kind="Sandwich"):
    """Bidirectional Monte Carlo on data drawn from the model, in nats.

    Attributes:
        lower: Forward AIS, [n]: below log p(x) in expectation.
        upper: Reverse AIS from an exact posterior sample, [n]: above log p(x) in expectation.
        start: `"prior"` or `"guide"`.
        num_chains: C.
        num_temperatures: T.
        num_leapfrog: L.
    """

    title, section, order = "Bidirectional Monte Carlo", "trust", 40

    lower: np.ndarray
    upper: np.ndarray
    start: str
    num_chains: int
    num_temperatures: int
    num_leapfrog: int

    @property
    def gap(self) -> float:
        """Mean of upper - lower, nats; in expectation neither end is further from log p(x)."""
        return float((self.upper - self.lower).mean())

    @property
    def gap_se(self) -> float:
        """Standard error of the gap over the data; NaN for a single datum."""
        return se(self.upper - self.lower)

    def summary(self, known: Known) -> dict[str, Any]:
        return {
            "num_data": len(self),
            "lower": mean_and_se(self.lower),
            "upper": mean_and_se(self.upper),
            "gap": {"mean": finite(self.gap), "se": finite(self.gap_se)},
            "num_chains": self.num_chains,
            "num_temperatures": self.num_temperatures,
            "num_leapfrog": self.num_leapfrog,
        }

    def panels(self, known: Known) -> list[Panel]:
        title = "Bidirectional Monte Carlo, on simulated data"
        return [attempt("bdmc", title, _sandwiches, self, flagged=True)]

    def line(self, summary: dict[str, Any]) -> str:
        return (
            f"bidirectional Monte Carlo on {len(self)} simulated data: "
            f"{show(summary['lower']['mean'])} to {show(summary['upper']['mean'])}, gap "
            f"{show(summary['gap']['mean'])} ± {show(summary['gap']['se'])}"
        )


@dataclass(frozen=True)
class BDMC(Annealing):
    r"""Bounds log p(x) from both sides, on data drawn from the model together with their z.

    Forward AIS bounds log p(x) from below. The z of a simulated datum is an exact sample from
    p(z|x); chains that start there and run the same kernels backwards bound it from above. The
    gap between the two limits the error of annealing with these settings. See `Annealing` for the
    options.

    Raises:
        PvaeError: As `AIS`; or if data cannot be drawn from the model without its observations.

    Source: Grosse, Ghahramani & Adams 2015, *Sandwiching the marginal likelihood using
    bidirectional Monte Carlo*, arXiv:1511.02543.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> wanted = [BDMC(2, num_chains=2, num_temperatures=9)]
        >>> found = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10, estimators=wanted)
        >>> found.findings["bdmc"].title
        'Bidirectional Monte Carlo'
    """

    name, finding, hint = "bdmc", Sandwich, "--bdmc 100"

    @classmethod
    def from_options(  # noqa: D417 - AIS documents the options of annealing
        cls,
        bdmc: int = 0,
        num_chains: int = 16,
        num_temperatures: int = 500,
        num_leapfrog: int = 2,
    ) -> Self | None:
        """Bidirectional Monte Carlo.

        Args:
            bdmc: Number of data simulated from the model for bidirectional Monte Carlo.
        """
        return cls.asked("bdmc", bdmc, num_chains, num_temperatures, num_leapfrog)

    def cost(self, sampler: Sampler) -> float:
        return 2 * super().cost(sampler)

    def estimate(self, task: Task) -> Sandwich:
        density, betas = self._density(task), schedule(self.num_temperatures)
        blocks = self._blocks(task)
        compiled = self._compiled(task, density, blocks, passes=2)

        def compute(block: np.ndarray) -> dict[str, np.ndarray]:
            seed_unit(task.seed, int(block[0]), purpose=4)
            batch, exact = _simulate(task.sampler, density, task.batch(block))
            inner = self.num_temperatures - 1
            tick = task.work.ticks(2 * inner + pilot_length(self.num_temperatures))
            forward, _, path, steps = self._forward(density, batch, compiled, tick)
            z = exact.expand(self.num_chains, *exact.shape[1:]).contiguous()
            options = {"counts": density.counts, "tick": tick}
            back = anneal_back(path, z, betas, steps, self.num_leapfrog, **options)
            return {
                "lower": log_mean_exp(forward.T).cpu().numpy(),
                "upper": -log_mean_exp(-back.T).cpu().numpy(),
            }

        columns = task.map("bidirectional Monte Carlo", blocks, compute)
        return Sandwich(np.arange(len(task.positions)), **columns, **self.options(task))


def _simulate(
    sampler: Sampler, density: Density, batch: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Draws a batch with new observations x ~ p(x|z), and the coordinates u [1, B, D] of its z.

    Raises:
        PvaeError: If an observed site is not one of the model's arguments, or if its density
            changes with the data (as with a decoder that reads x).
    """
    model, size = sampler.model, len(batch[0])
    trace = trace_program("model", model, poutine.uncondition(model), batch)
    # Without its observations, a pyro.deterministic looks like a latent site.
    sites = latent_sites(trace).items()
    drawn = {name: s for name, s in sites if not s["infer"].get("_deterministic")}
    new = list(batch)
    for name in sampler.structure.observed:
        site = drawn.pop(name)
        old, value = site["infer"]["obs"], site["value"].detach()
        at = [
            i
            for i, t in enumerate(batch)
            if t.numel() == old.numel() and torch.equal(t.reshape(old.shape).to(old.dtype), old)
        ]
        if not at:
            raise PvaeError(
                f"Data cannot be drawn from the model: its observed site {name!r} is not one of "
                "the arguments of the model. Pass the observation unchanged to obs=."
            )
        new[at[0]] = value.expand(old.shape).reshape(batch[at[0]].shape).to(batch[at[0]].dtype)
    simulated = tuple(new)
    single = sampler.particles_by("loop")
    rows = {
        name: single.rows(site["value"], site["fn"].event_dim, 1, size)
        for name, site in drawn.items()
    }
    before = single.log_terms(trace, 1, size)
    again = single.log_terms(single.model(simulated, 1, rows), 1, size)
    tolerance = 1e-8 if before[next(iter(before))].dtype == torch.float64 else 1e-3
    for name in sampler.structure.observed:
        if not torch.allclose(before[name], again[name], tolerance, tolerance):
            raise PvaeError(
                f"Data cannot be drawn from the model: the density of site {name!r} changes with "
                "the data themselves, as in a decoder that reads x."
            )
    kept = {name: rows[name] for name in rows if name not in sampler.structure.enumerated}
    return simulated, density.flatten(kept)


def _sandwiches(found: Sandwich) -> Panel | None:
    """Draws both ends and the gap of each simulated datum."""
    there = np.isfinite(found.lower) & np.isfinite(found.upper)
    if not there.any():
        return None
    lower, upper = found.lower[there], found.upper[there]
    order = np.argsort(lower, kind="stable")
    bodies = (_ends(lower[order], upper[order]), _gaps((upper - lower)[order], found))
    places = text.decimals(found.gap_se)
    note = (
        f"For {text.plural(len(found), 'datum', 'data')} drawn from the model together with their "
        "z, forward annealing bounds log p(x) from below, and reverse annealing from that z bounds "
        "it from above, both in expectation (Grosse, Ghahramani & Adams 2015; "
        f"{text.plural(found.num_chains, 'chain')}, "
        f"{text.plural(found.num_temperatures, 'temperature')}). The first chart shows the two "
        "ends, the second the gap between them in the same order, on average "
        f"{text.number(found.gap, places)} ± {text.number(found.gap_se, places)} nats. On average "
        "neither end is further from log p(x) than this; a gap below zero is noise. The gap "
        "measures annealing with these settings on data drawn from the model, not on the test "
        "data, whose posteriors can be harder."
    )
    if left := int((~there).sum()):
        note += f" {text.plural(left, 'datum', 'data')} without finite ends: not drawn."
    return Panel(bodies, note)


def _ends(lower: np.ndarray, upper: np.ndarray) -> Markup:
    with chart("Bidirectional Monte Carlo: lower and upper ends for each simulated datum") as drawn:
        ax, at = drawn.figure.subplots(), np.arange(1, len(lower) + 1)
        ax.vlines(at, lower, upper, color=colours.MUTED, linewidth=1.2)
        size = 5 if len(at) < 60 else 3
        for ends, shape, colour, name in ((lower, "^", colours.ACCENT, "from below"),
                                          (upper, "v", colours.SECOND, "from above")):  # fmt: skip
            ax.plot(at, ends, shape, color=colour, markersize=size, markeredgewidth=0, label=name)
        key(ax, 2)
        axes(ax, across="simulated data", up="nats", whole="across")
    return drawn.svg


def _gaps(gaps: np.ndarray, found: Sandwich) -> Markup:
    with chart("Bidirectional Monte Carlo: the gap of each simulated datum") as drawn:
        ax = drawn.figure.subplots()
        ax.bar(np.arange(1, len(gaps) + 1), gaps, color=colours.FILL, width=0.7)
        if np.isfinite(found.gap):
            ax.axhline(found.gap, color=colours.INK, linewidth=1.4, label="mean gap")
            if np.isfinite(found.gap_se):
                ax.axhspan(found.gap - found.gap_se, found.gap + found.gap_se, color=colours.INK,
                           alpha=0.14, linewidth=0)  # fmt: skip
            key(ax, 1)
        axes(ax, across="simulated data", up="gap, nats", whole="across")
    return drawn.svg
