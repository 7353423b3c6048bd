"""One stream of log weights: bounds, estimates, diagnostics, KL and active units."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pvae.errors import reason_of
from pvae.evaluation.estimator import Task
from pvae.evaluation.estimators.active_units import ActiveUnits, active_units, variances
from pvae.evaluation.estimators.bounds import bounds, cubo, effective_sample_size
from pvae.evaluation.estimators.jackknife import jackknife
from pvae.evaluation.estimators.pareto import psis, rounding_error
from pvae.evaluation.estimators.posterior import SiteKL, site_kl
from pvae.evaluation.work import in_blocks
from pvae.importance import Sampler, seed_unit
from pvae.runtime import Precision, is_out_of_memory

__all__ = ["CUBO_KHAT", "from_weights"]

_WORTH_TUNING = 10**6  # samples times data
_WORTH_COMPILING = 10**7  # samples times data, each of which saves a microsecond or two
CUBO_KHAT = 0.25  # above this k̂ the variance of w² is infinite


def from_weights(task: Task, ks: list[int], precision: Precision = "float32") -> dict[str, Any]:
    """Streams the log weights of every datum and reduces them, one block of data at a time.

    Args:
        task: All N data.
        ks: The K of L_K, increasing; the last is the number of samples S.
        precision: Of the products in the model's log densities.

    Returns:
        The fields of `Evaluation` that hold arrays over the data, `sites`, and in `missing` the
        reason if a detail beside the bounds failed.
    """
    sampler, size = task.sampler, len(task.data)
    step = size if sampler.bound else sampler.data_at_once(ks[-1])
    rows = size * ks[-1]

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        units = in_blocks(block, step)
        return _merged([_block(sampler, task.batch(u), ks, task.seed, int(u[0])) for u in units])

    # With many data a block holds more, because small arrays take more memory than their content.
    blocks = in_blocks(task.positions, step * max(1, size // 8192))
    with sampler.lowered(precision), contextlib.ExitStack() as fast:
        if rows >= _WORTH_TUNING:
            some = task.batch(np.arange(min(step, size)))
            compiled = rows >= _WORTH_COMPILING
            fast.enter_context(sampler.tuned(some, ks[-1], compiled=compiled))
        results = _merged(task.work.map("log weights", blocks, compute))
    columns = {name: v for name, v in results.items() if not name.startswith("sum ")}
    for name in ("bounds", "bounds_se", "jvi_1", "jvi_2"):
        columns[name] = dict(zip(ks, columns[name].T.copy(), strict=True))
    jvi = {order: columns.pop(f"jvi_{order}") for order in (1, 2)}
    columns["jvi"] = {
        order: {k: values for k, values in found.items() if not np.isnan(values).all()}
        for order, found in jvi.items()
    }
    closed = columns.pop("elbo_analytic")
    columns["elbo_analytic"] = None if np.isnan(closed).all() else closed
    columns["log_px"] = columns["bounds"][ks[-1]]
    columns["log_px_se"] = columns["bounds_se"][ks[-1]]
    reasons = [reason for reason in np.unique(columns.pop("failed")) if reason]
    columns["missing"] = {"details": "; ".join(reasons)} if reasons else {}
    columns["sites"] = {name: _site(name, results, size) for name in sampler.structure.latent}
    return columns


def _block(
    sampler: Sampler, batch: tuple[torch.Tensor, ...], ks: list[int], seed: int, first: int
) -> dict[str, np.ndarray]:
    """Computes everything about B data from all their samples, on their device."""
    size, num_samples, device = len(batch[0]), ks[-1], batch[0].device
    log_w = torch.empty((size, num_samples), dtype=torch.float64, device=device)
    elbo, rate, summands = log_w.new_zeros((3, size))
    kl = {name: log_w.new_zeros(size) for name in sampler.structure.latent}
    active, done = ActiveUnits(), 0
    for draws in sampler.stream(batch, num_samples, first=first, seed=seed):
        count = len(draws.log_w)
        log_w[:, done : done + count] = draws.log_w.T
        elbo += draws.elbo.double().sum(0)
        rate += draws.rate.double().sum(0)
        largest = (draws.log_w + draws.rate).abs() + draws.rate.abs()  # log p(x|z), log q / p(z)
        summands = torch.maximum(summands, largest.nan_to_num(0, 0, 0).amax(0))
        for name, terms in draws.kl.items():
            kl[name] += terms.double().sum(0)
        active.add(draws.means)
        done += count
    active.end_data(num_samples)
    elbo, rate = elbo / num_samples, rate / num_samples
    kl = {name: total / num_samples for name, total in kl.items()}
    failed: list[str] = []
    nothing = torch.full_like(elbo, math.nan)

    def attempt(what: str, default: Any, compute: Callable[[], Any]) -> Any:
        """Computes a detail. If it fails, only its reason is stored, and the bounds remain."""
        try:
            return compute()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            failed.append(f"{what}: {reason_of(error)}")
            return default

    def divergence() -> dict[str, SiteKL]:
        seed_unit(seed, first, purpose=5)
        return site_kl(sampler, batch)

    def debiased(k: int, order: int) -> torch.Tensor:
        return attempt("the jackknife", nothing, lambda: jackknife(log_w, k, order))

    parts = attempt("the KL of each dimension", {}, divergence)
    closed = {name: found.total for name, found in parts.items() if found.total is not None}
    found = bounds(log_w, ks)
    rounding = rounding_error(summands, torch.finfo(draws.log_w.dtype).eps)
    khat, smoothed = attempt("k̂", (nothing, nothing), lambda: psis(log_w, rounding))
    second = {max((k for k in ks if 2 < k <= most), default=0) for most in (500, num_samples)}
    correction = sum(kl[name] - value for name, value in closed.items())
    result = {
        "elbo": elbo,
        "elbo_analytic": elbo + correction if closed else nothing,
        "psis": smoothed,
        "cubo": torch.where(khat <= CUBO_KHAT, cubo(log_w), math.nan),
        "khat": khat,
        "ess": effective_sample_size(log_w),
        "kl": rate,
        "reconstruction": elbo + rate,
        "zero_weights": log_w.isneginf().double().mean(1),
        "bounds": torch.stack([found[k][0] for k in ks], -1),
        "bounds_se": torch.stack([found[k][1] for k in ks], -1),
        "jvi_1": torch.stack([debiased(k, 1) if k > 1 else nothing for k in ks], -1),
        "jvi_2": torch.stack([debiased(k, 2) if k in second else nothing for k in ks], -1),
        **{f"sum kl {name}": values.sum() for name, values in kl.items()},
        **{f"sum closed {name}": values.sum() for name, values in closed.items()},
        **{
            f"sum dims {name}": each.dims.sum(0)
            for name, each in parts.items()
            if each.dims is not None
        },
    }
    result = {name: values.cpu().numpy() for name, values in result.items()}
    result["failed"] = np.full(size, "; ".join(dict.fromkeys(failed)))
    return result | {f"sum active {name}": sums for name, sums in active.sums.items()}


def _merged(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenates the columns of several blocks, and adds up their sums."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {
        name: sum(part.pop(name) for part in parts)
        if name.startswith("sum ")
        else np.concatenate([part.pop(name) for part in parts])
        for name in names
    }


def _site(name: str, sums: dict[str, np.ndarray], size: int) -> dict[str, Any]:
    """Returns KL and active units of one latent site, averaged over the data."""

    def total(what: str) -> np.ndarray | None:
        return sums.get(f"sum {what} {name}")

    kl, closed, dims = total("kl"), total("closed"), total("dims")
    variance = variances(total("active"))
    mean = (kl if closed is None else closed) / size
    return {
        "kl": float(mean) if np.isfinite(mean) else None,
        "closed_form": closed is not None,
        "active_units": active_units(variance),
        "kl_dims": None if dims is None else [float(v) for v in dims / size],
        "variance": None if variance is None else [float(v) for v in variance],
    }
