"""A guide that gives a point: log p(x, z) there, and the squared error of its reconstruction."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError
from pvae.evaluation.estimator import Task
from pvae.evaluation.estimators.active_units import active_units, variances
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import mean_and_se
from pvae.evaluation.work import in_blocks
from pvae.importance import Particles, Sampler
from pvae.pair import (
    Inspection,
    Program,
    gives_a_point,
    latent_sites,
    name_of,
    observed_sites,
    quiet,
    trace_guide,
)

__all__ = ["AtCode", "fingerprint_of_code", "from_code", "is_code", "prior_of"]

_ROWS = 256  # data at a time


@dataclass(frozen=True)
class AtCode(Finding, kind="AtCode"):
    """The densities of each datum at its code, the point z = f(x).

    Attributes:
        log_joint: log p(x, z), [n], nats; it can be above or below log p(x), and is no bound.
        log_likelihood: log p(x|z), [n], nats.
        squared_error: ‖x − E[x|z]‖², summed over the event, [n]; NaN without a mean.
    """

    title, order = "log p(x, z) at the code", 0

    log_joint: np.ndarray
    log_likelihood: np.ndarray
    squared_error: np.ndarray

    @property
    def log_prior(self) -> np.ndarray:
        """Log p(z), [n]: minus the penalty on the code, with its constant."""
        return self.log_joint - self.log_likelihood

    def summary(self, known: Known) -> dict[str, Any]:
        names = ("log_joint", "log_likelihood", "log_prior", "squared_error")
        means = {name: mean_and_se(getattr(self, name)) for name in names}
        return {"num_data": len(self), **means}

    def verdict(self, known: Known) -> str:
        return (
            f"There is no bound on log p(x): {known.guide} gives a point, which has no density. "
            "Training maximised log p(x, z) at that point, which can be above or below log p(x)."
        )


def prior_of(model: Program, guide: Program) -> Program:
    """Returns the model's latent sites as a guide, q(z|x) = p(z).

    Estimators that need no density of the guide use it in place of a guide without one.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: The guide that it replaces; its modules still belong to the pair.
    """
    return functools.partial(_draw_prior, guide, model)


def _draw_prior(guide: Program, model: Program, *batch: Tensor) -> None:
    def observed(site: dict[str, Any]) -> bool:
        return site["type"] == "sample" and site["is_observed"]

    poutine.block(model, hide_fn=observed)(*batch)


def is_code(inspection: Inspection) -> bool:
    """Returns whether a pair's guide gives a point.

    Raises:
        PvaeError: If the point changes from call to call.
    """
    structure, guide = inspection.structure, inspection.guide
    if not gives_a_point(structure):
        return False
    device = inspection.batch[0].device
    with (
        quiet(inspection.model, guide),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
        trace_guide(guide, *inspection.batch)  # draws from the random state of the inspection
        again = latent_sites(trace_guide(guide, *inspection.batch))
    for name, site in latent_sites(structure.guide_trace).items():
        if not torch.equal(site["value"], again[name]["value"]):
            raise PvaeError(
                f"The guide {name_of(guide)} gives site {name!r} a different point at each call, "
                "also in eval mode: something in it is random, such as the corruption of a "
                "denoising guide. Evaluation needs the clean x: corrupt it only if self.training "
                "is true (see pvae.guides.DenoisingCode)."
            )
    return True


def from_code(task: Task, guide: Program) -> dict[str, Any]:
    """Evaluates every datum at its code.

    Args:
        task: All N data; its sampler is of the model and of `prior_of` the pair.
        guide: The guide that gives the codes.

    Returns:
        The fields of `Evaluation` that `from_weights` returns. Bounds and diagnostics of weights
        are NaN or empty.
    """
    sampler, size = task.sampler, len(task.data)
    single = sampler.particles_by("loop")

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        return _block(single, guide, task.batch(block))

    blocks = in_blocks(task.positions, min(_ROWS, sampler.usual_rows))
    results = task.work.map("code", blocks, compute)
    columns = {
        name: np.concatenate([r[name] for r in results])
        for name in ("log_joint", "log_likelihood", "squared_error")
    }
    code = AtCode(datum=task.positions, **columns)
    nothing = np.full(size, np.nan)
    unknown = ("elbo", "log_px", "log_px_se", "khat", "ess", "kl", "zero_weights")
    sites = {}
    for name in sampler.structure.latent:
        if name in sampler.structure.enumerated:
            continue
        variance = variances(sum(r[f"active {name}"] for r in results))
        sites[name] = {
            "kl": None,
            "closed_form": False,
            "active_units": active_units(variance),
            "kl_dims": None,
            "variance": None if variance is None else [float(v) for v in variance],
        }
    return {
        **dict.fromkeys(unknown, nothing),
        "reconstruction": code.log_likelihood,
        "bounds": {},
        "sites": sites,
        "findings": {"code": code},
    }


def fingerprint_of_code(sampler: Sampler, guide: Program, batch: tuple[Tensor, ...]) -> str:
    """Returns log p(x, z) of some data at their codes, as text that identifies the guide."""
    with sampler:
        found = _block(sampler.particles_by("loop"), guide, batch)
    return f"{found['log_joint'].sum():.5g}"


def _block(single: Particles, guide: Program, batch: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    size, structure = len(batch[0]), single.structure
    points = latent_sites(trace_guide(guide, *batch))
    rows = {
        name: single.rows(site["value"], site["fn"].event_dim, 1, size)
        for name, site in points.items()
    }
    trace = single.model(batch, 1, rows)
    terms = single.log_terms(trace, 1, size)
    given = {*structure.observed, *structure.enumerated}
    result = {
        "log_joint": single.sum_out(terms.values()),
        "log_likelihood": single.sum_out(term for name, term in terms.items() if name in given),
        "squared_error": _squared_error(single, trace, size),
    }
    found = {name: value[0].double().cpu().numpy() for name, value in result.items()}
    for name, value in rows.items():
        z = value.reshape(size, -1).double().cpu().numpy()
        sums = np.broadcast_arrays(float(size), z.sum(0), (z**2).sum(0), 0.0)
        found[f"active {name}"] = np.stack(sums)
    return found


def _squared_error(single: Particles, trace: Trace, size: int) -> Tensor:
    """‖x − E[x|z]‖² [1, B], of the first observed site with a mean; NaN if there is none."""
    for site in observed_sites(trace).values():
        try:
            difference = site["value"] - site["fn"].mean.expand_as(site["value"])
        except (NotImplementedError, AttributeError, RuntimeError):
            continue
        rows = single.rows(difference.double().square(), site["fn"].event_dim, 1, size)
        return rows.reshape(1, size, -1).sum(-1)
    return torch.full((1, size), torch.nan)
